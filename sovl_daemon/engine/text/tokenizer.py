"""What a tokenizer of transformers makes of text and bytes, and of its tokens again.

Of people's words it is never those tokens by which a model tells turns apart.
"""

import re
from typing import Any, Protocol


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


_BYTE_SPACE, _MARKED_SPACE = "\u0120", "\u2581"  # Ġ and ▁
_ONE_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenBytes(Protocol):
    """One alphabet, both ways.

    Text would not do: a token may be a part of a character, and decoding one token alone loses the
    space before it where that is a mark of the alphabet. Both ways go past normalizer and
    pre-tokenizer, which belong to the beginning of a text and not to the middle of one.
    """

    def read(self, token: str) -> bytes:
        """Return the bytes that a token, as the vocabulary writes it, stands for."""

    def write(self, data: bytes) -> list[int]:
        """Return the ids of tokens for `data`; none for what the vocabulary has no token for."""


def token_bytes(tokenizer: Any) -> TokenBytes:
    """Return the alphabet of a tokenizer of transformers, known by how it writes a space."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and _stands_for_space(tokenizer, _BYTE_SPACE):
        return ByteLevel(backend.model)
    if backend is not None and _stands_for_space(tokenizer, _MARKED_SPACE):
        return MarkedSpace(backend.model)
    return TokenizerAlphabet(tokenizer)


class ByteLevel:
    """A character for each byte, as GPT-2 (Radford et al. 2019) and most since have it.

    `model` is the one inside a tokenizer of the library tokenizers.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._characters = byte_characters()
        self._bytes = {character: byte for byte, character in enumerate(self._characters)}

    def read(self, token: str) -> bytes:
        """Return the bytes of `token`."""
        if any(character not in self._bytes for character in token):
            return token.encode(errors="replace")
        return bytes(self._bytes[character] for character in token)

    def write(self, data: bytes) -> list[int]:
        """Return the ids that the merges make of `data`."""
        text = "".join(self._characters[byte] for byte in data)
        return [token.id for token in self._model.tokenize(text)]


class MarkedSpace:
    """Characters, a mark for the space, and perhaps tokens of one byte, as Llama 2 has it.

    `model` is the one inside a tokenizer of the library tokenizers.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def read(self, token: str) -> bytes:
        """Return the bytes of `token`."""
        byte = _ONE_BYTE.fullmatch(token)
        if byte:
            return bytes.fromhex(byte[1])
        return token.replace(_MARKED_SPACE, " ").encode(errors="replace")

    def write(self, data: bytes) -> list[int]:
        """Return the ids of `data`, byte by byte if it is no text."""
        try:
            text = data.decode()
        except UnicodeDecodeError:
            found = [self._model.token_to_id(f"<0x{byte:02X}>") for byte in data]
            return [id_ for id_ in found if id_ is not None]
        return [token.id for token in self._model.tokenize(text.replace(" ", _MARKED_SPACE))]


class TokenizerAlphabet:
    """Any other alphabet, through the tokenizer's own ways to and from text."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def read(self, token: str) -> bytes:
        """Return the text of `token`, encoded."""
        text: str = self._tokenizer.convert_tokens_to_string([token])
        return text.encode(errors="replace")

    def write(self, data: bytes) -> list[int]:
        """Return the ids of `data` read as text; bytes that are no character become U+FFFD."""
        text = data.decode(errors="replace")
        return list(
            self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        )


def _stands_for_space(tokenizer: Any, character: str) -> bool:
    id_ = tokenizer.get_vocab().get(character)
    if id_ is None:
        return False
    # Twice, because some decoders take away a space at the beginning.
    return " " in tokenizer.decode([id_, id_], clean_up_tokenization_spaces=False)


def byte_characters() -> list[str]:
    """Return the character of each byte: itself where it can be seen, else one from 256 on."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    unseen = [byte for byte in range(256) if byte not in seen]
    return [chr(byte if byte in seen else 256 + unseen.index(byte)) for byte in range(256)]
