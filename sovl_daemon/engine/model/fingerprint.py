"""Digests by which one sees that a model is, bit for bit, what it was."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from sovl_daemon.engine.model.model import LoadedModel
from sovl_daemon.engine.model.precision import Precision
from sovl_daemon.engine.model.span import Span


class Fingerprint(NamedTuple):
    """SHA-256 of the base's weights as they are held, and of its next token's logits after a text.

    The second also depends on the machine's arithmetic, the number of threads included.
    """

    precision: Precision
    weights: str
    logits: str


def fingerprint(model: LoadedModel, precision: Precision, ids: Sequence[int]) -> Fingerprint:
    """Take both digests of the plain base; use it on the tensor thread."""
    weights = hashlib.sha256()
    for tensor in _held(model):
        weights.update(_bytes(tensor))
    logits = model.forward([Span(ids, model.new_cache())])
    digest = hashlib.sha256(_bytes(logits)).hexdigest()
    return Fingerprint(precision, weights.hexdigest(), digest)


def _held(model: LoadedModel) -> Iterator[torch.Tensor]:
    """Every weight once, in the form that answers."""
    slots = [slot for layer in (model.lean.slots() if model.lean else ()) for slot in layer]
    for slot in slots:
        yield from slot.matrix.tensors()
    shared = {id(module.weight) for slot in slots for module in slot.modules}
    yield from (each for each in model.network.parameters() if id(each) not in shared)


def _bytes(tensor: torch.Tensor) -> memoryview:
    plain = tensor.detach().contiguous().cpu().reshape(-1)
    return memoryview(plain.view(torch.uint8).numpy())
