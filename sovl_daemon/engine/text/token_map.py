"""From the base's tokens to the scaffold's, and how much each has come to matter."""

import hashlib
import json
import math
from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sovl_daemon.engine.errors import ArtifactError, OptionError
from sovl_daemon.engine.text.tokenizer import token_bytes

LIGHTEST, HEAVIEST = 0.1, 2.0

_FRESH = 1.0
_GAIN = 0.1
_ROLES = ("eos", "bos", "pad", "unk")
_STAND_INS = ("unk", "pad", "eos", "bos")

_Weight = Annotated[float, Field(strict=True, ge=LIGHTEST, le=HEAVIEST)]


class TokenMapState(BaseModel):
    """What a token map has learnt: the weights by base token, of one base vocabulary.

    What tokens map to is left out, as the tokenizers tell it again. So a state goes on with
    another scaffold, but not with another base vocabulary.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    vocabulary: str
    weights: dict[Annotated[int, Field(ge=0)], _Weight]

    @classmethod
    def from_json(cls, document: Any) -> "TokenMapState":
        """Return the state that was written as `document`. Raises ArtifactError: it is damaged."""
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "all of it"
            raise ArtifactError(
                f"state of the token map, {where}: {first['msg']}; load an undamaged state"
            ) from error


class TokenMap:
    """Maps each token of a base to at most `max_tokens` of a scaffold, for a pair of vocabularies.

    `base_tokenizer` and `scaffold_tokenizer` are of transformers. Tokens are looked up when they
    are first met, so the map is as large as what was said, not as the vocabulary.

    What a token maps to: where both vocabularies are the same, itself. An added token maps to the
    scaffold's of the same role (eos, bos, pad, unk), else to the one of the same text if the
    scaffold has it, else to the tokens of its text. Any other token maps to the scaffold's tokens
    for the same bytes, so that spaces and parts of characters are kept. If these are more than
    `max_tokens`, those that stand for the most bytes, white space not counted, are kept in their
    order, of equals the earlier: they say the most of the text. What the scaffold has no tokens for
    maps to its unknown token or another special one.

    What a weight means: attention to the memory position of a scaffold token is biased by
    log(weight). So a position of weight 2 gets twice the attention that it would get beside one of
    weight 1, and only the ratio of weights matters: equal weights change nothing.

    Raises:
        OptionError: `max_tokens` is below 1.

    """

    def __init__(
        self, base_tokenizer: Any, scaffold_tokenizer: Any, *, max_tokens: int = 3
    ) -> None:
        if max_tokens < 1:
            raise OptionError(
                f"max_tokens {max_tokens} is not allowed: give 1 or more scaffold tokens"
            )
        self._base = base_tokenizer
        self._scaffold = scaffold_tokenizer
        self._max_tokens = max_tokens
        self._same = identical(base_tokenizer, scaffold_tokenizer)
        self._base_bytes = token_bytes(base_tokenizer)
        self._scaffold_bytes = token_bytes(scaffold_tokenizer)
        self._added = _added_tokens(base_tokenizer)
        added = base_tokenizer.added_tokens_decoder.items()
        self._specials = {
            *base_tokenizer.all_special_ids,
            *(id_ for id_, token in added if token.special),
        }
        self._ids: dict[int, tuple[int, ...]] = {}
        # A weight, and the sum of the logarithms of all decays up to when it was that.
        self._weights: dict[int, tuple[float, float]] = {}
        self._decayed = 0.0

    def __len__(self) -> int:
        """Return how many base tokens have a weight."""
        return len(self._weights)

    def expand(self, base_ids: Iterable[int]) -> tuple[list[int], list[float]]:
        """Return the scaffold ids of a sequence of base tokens and the weight of each.

        A base token is at least one scaffold token; all of its have its weight, 1.0 at first.
        """
        ids: list[int] = []
        weights: list[float] = []
        for base_id in base_ids:
            mapped = self.mapped(base_id)
            ids.extend(mapped)
            self._weights.setdefault(base_id, (_FRESH, self._decayed))
            weights.extend([self.weight(base_id)] * len(mapped))
        return ids, weights

    def mapped(self, base_id: int) -> tuple[int, ...]:
        """Return the scaffold ids of one base token."""
        if base_id not in self._ids:
            self._ids[base_id] = (base_id,) if self._same else self._translated(base_id)
        return self._ids[base_id]

    def has_words_for(self, base_id: int) -> bool:
        """Tell whether the scaffold has tokens of its own for a base token, no mere stand-in."""
        return self._same or bool(self._found(base_id))

    def weight(self, base_id: int) -> float:
        """Return the weight of a base token now, in 0.1..2.0; 1.0 if it was never met."""
        if base_id not in self._weights:
            return _FRESH
        weight, decayed = self._weights[base_id]
        return max(weight * math.exp(self._decayed - decayed), LIGHTEST)

    def reinforce(
        self, base_ids: Iterable[int], confidence: float, *, strength: float, decay: float
    ) -> None:
        """Learn from one answer: make the tokens met weigh more, then let every weight decay.

        The weight w of each token in `base_ids`, however often it stands there, becomes
        min(w + `strength` * 0.1 * `confidence`, 2.0); then all weights of the map are multiplied
        by `decay`, but stay at 0.1 or above. `confidence` and `decay` are in 0..1, `strength` is 0
        or more. The time it takes grows with `base_ids`, not with the map.

        Raises:
            OptionError: one of the three is out of its range; nothing was learnt.

        """
        if not (0 <= confidence <= 1 and 0 <= decay <= 1 and 0 <= strength < math.inf):
            raise OptionError(
                f"confidence {confidence}, strength {strength} and decay {decay}: give 0 to 1, "
                "0 or more, and 0 to 1"
            )
        for base_id in set(base_ids):
            heavier = min(self.weight(base_id) + strength * _GAIN * confidence, HEAVIEST)
            self._weights[base_id] = (heavier, self._decayed)
        # From the heaviest to the lightest at once: more makes no difference, and has a logarithm.
        self._decayed += math.log(max(decay, LIGHTEST / HEAVIEST))

    def state(self) -> TokenMapState:
        """Return what was learnt so far."""
        weights = {base_id: self.weight(base_id) for base_id in self._weights}
        return TokenMapState(vocabulary=self._vocabulary, weights=weights)

    def restore(self, state: TokenMapState) -> None:
        """Take over what `state` returned, in place of what was learnt here; learning goes on.

        Raises:
            ArtifactError: it is of another base vocabulary; the map is as it was.

        """
        self.check(state)
        self._decayed = 0.0
        self._weights = {base_id: (weight, 0.0) for base_id, weight in state.weights.items()}

    def check(self, state: TokenMapState) -> None:
        """Refuse a state that `restore` would. Raises as that does."""
        if state.vocabulary != self._vocabulary:
            raise ArtifactError(
                "state of the token map: it was learnt with another base vocabulary; "
                "load a state of this base model, or the model it was learnt with"
            )

    def forget(self) -> None:
        """Weigh every token as if it had never been met."""
        self._decayed, self._weights = 0.0, {}

    def _translated(self, base_id: int) -> tuple[int, ...]:
        found = self._found(base_id)
        if not found:
            stand_ins = (_id_of(self._scaffold, role) for role in _STAND_INS)
            return (next((id_ for id_ in stand_ins if id_ is not None), 0),)

        def length(position: int) -> int:
            token = self._scaffold.convert_ids_to_tokens(found[position])
            return len(self._scaffold_bytes.read(token).strip())

        kept: Iterable[int] = range(len(found))
        if len(found) > self._max_tokens:
            kept = sorted(sorted(kept, key=length, reverse=True)[: self._max_tokens])
        return tuple(found[position] for position in kept)

    def _found(self, base_id: int) -> list[int]:
        if base_id in self._specials or base_id in self._added:
            for role in _ROLES:
                counterpart = _id_of(self._scaffold, role)
                if _id_of(self._base, role) == base_id and counterpart is not None:
                    return [counterpart]
            token = self._base.convert_ids_to_tokens(base_id)
            same = [id_ for id_, text in _added_tokens(self._scaffold).items() if text == token]
            if same:
                return same
        return self._scaffold_bytes.write(self._bytes(base_id))

    def _bytes(self, base_id: int) -> bytes:
        if base_id in self._added:
            return self._added[base_id].encode(errors="replace")
        token = self._base.convert_ids_to_tokens(base_id)
        # A model may have more rows of logits than its tokenizer has tokens.
        return b"" if token is None else self._base_bytes.read(token)

    @cached_property
    def _vocabulary(self) -> str:
        return hashlib.sha256(
            json.dumps(self._base.get_vocab(), sort_keys=True).encode()
        ).hexdigest()


def identical(a: Any, b: Any) -> bool:
    """Tell whether two tokenizers have the same vocabulary, so that ids need no map."""
    return a is b or a.get_vocab() == b.get_vocab()


def _id_of(tokenizer: Any, role: str) -> int | None:
    id_: int | None = getattr(tokenizer, f"{role}_token_id")
    return id_


def _added_tokens(tokenizer: Any) -> dict[int, str]:
    """Tokens beside those of the tokenizer's model, as text."""
    return {id_: token.content for id_, token in tokenizer.added_tokens_decoder.items()}
