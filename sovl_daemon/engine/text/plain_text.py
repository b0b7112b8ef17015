"""Token ids of what people write: never those by which a model tells turns apart."""

from typing import Any


class PlainText:
    """Encodes text as nothing but text.

    `tokenizer` is one of transformers. Its `added` tokens, special or not, stand beside what it
    learned of text: they are a template's, and none comes of anybody's words. Runs of white space
    are text, and so is what stands for the unknown.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        named = {id_: token.content for id_, token in tokenizer.added_tokens_decoder.items()}
        special = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
        self.added: dict[int, str] = {
            id_: text
            for id_, text in {**named, **dict(special)}.items()
            if text.strip() and id_ != tokenizer.unk_token_id
        }

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`, however many."""
        ids = self.encode_as_written(text)
        if self.added.keys().isdisjoint(ids):
            return ids
        ids = self._without_added(text)
        if not self.added.keys().isdisjoint(ids):  # its vocabulary of text has them, too
            for token in self.added.values():
                text = text.replace(token, f"{token[:1]} {token[1:]}")
            ids = self._without_added(text)
        return [id_ for id_ in ids if id_ not in self.added]

    def encode_as_written(self, text: str) -> list[int]:
        """Return the token ids of `text`, in which names of added tokens mean those."""
        # Not verbose: what is too long for the model is expected here, and shortened by others.
        return list(self._tokenizer.encode(text, add_special_tokens=False, verbose=False))

    def _without_added(self, text: str) -> list[int]:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return list(
                self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
            )
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        parts = [text]
        if backend.pre_tokenizer is not None:
            parts = [part for part, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
        return [token.id for part in parts for token in backend.model.tokenize(part)]
