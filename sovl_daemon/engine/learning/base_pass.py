"""The base's hidden states where it is steered: the end of a prompt and its answer.

The positions before are never steered, and the layers below the first steered one neither, so
nothing there depends on what learns: it is computed without gradients, and once where it is kept.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch.nn.utils.rnn import pad_sequence

from sovl_daemon.engine.learning.activation_cache import ActivationCache
from sovl_daemon.engine.learning.lean_batch import (
    PastKeyValues,
    batch_positions,
    frozen_pass,
    multiply,
    run_block,
)
from sovl_daemon.engine.learning.sample import Ids
from sovl_daemon.engine.model.llama import Llama
from sovl_daemon.engine.model.model import LoadedModel
from sovl_daemon.engine.thread.threads import Threads

# The index of a layer and the hidden states (B, A, hidden) behind it; returns what is added.
Steer = Callable[[int, torch.Tensor], torch.Tensor]
Turn = tuple[Ids, Ids]


class BasePass(Protocol):
    """How the base reads prompts with their answers while its steering learns.

    Hidden states are those that the head reads, at the last position of each prompt and all of its
    answer but the last, (B, A, hidden), padded behind.
    """

    def plain(self, turns: Sequence[Turn], common: int) -> torch.Tensor:
        """Return the hidden states of the base alone, without gradients."""

    def steered(self, turns: Sequence[Turn], common: int, steer: Steer) -> torch.Tensor:
        """Return the hidden states; the first `common` tokens of all prompts are the same."""

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, vocab), float32, of hidden states (N, hidden)."""


def base_pass(base: LoadedModel, layers: Sequence[int], cache: ActivationCache) -> BasePass:
    """Return how the base reads, steered behind `layers`."""
    if base.lean is not None:
        return LeanBasePass(base.lean, layers, cache, base.threads)
    return NetworkBasePass(base, layers)


class LeanBasePass:
    """Through lean blocks, with what precedes the answers kept in `cache`."""

    def __init__(
        self, lean: Llama, layers: Sequence[int], cache: ActivationCache, threads: Threads
    ) -> None:
        self._lean = lean
        self._threads = threads
        self._layers = tuple(sorted(layers))
        self._cache = cache

    def plain(self, turns: Sequence[Turn], common: int) -> torch.Tensor:
        """Return the hidden states of the base alone, without gradients."""
        end = len(self._lean.blocks)

        def read(chosen: list[int]) -> Iterator[torch.Tensor]:
            some = [turns[place] for place in chosen]
            found = frozen_pass(self._lean, [_ids(turn) for turn in some], common, (end,), end)
            for (prompt, _), (kept, _) in zip(some, found, strict=True):
                yield self._norm(kept[end][len(prompt) - 1 - common :])

        return pad_sequence(self._cache.get([("plain", *turn) for turn in turns], read), True)

    def steered(self, turns: Sequence[Turn], common: int, steer: Steer) -> torch.Tensor:
        """Return the hidden states; the first `common` tokens of all prompts are the same."""
        kept = self._before(turns, common)
        first = self._layers[0]
        x = pad_sequence([each[0].float() for each in kept], True)
        x = x + steer(first, x)
        starts = [len(prompt) - 1 for prompt, _ in turns]
        at = batch_positions(self._lean, starts, x.shape[1], max(starts))
        shared = self._shared(turns[0][0][:common])
        pasts = [each.permute(2, 0, 1, 3) for _, each in kept]  # (P, L, H, size)
        past = pad_sequence(pasts, True).permute(2, 0, 3, 1, 4)  # (L, B, H, P, size)
        for index, block in enumerate(self._lean.blocks[first + 1 :]):
            seen = PastKeyValues(*past[index].chunk(2, 1))
            with self._threads.working("training", x.shape[0] * x.shape[1]):
                x, _ = run_block(block, x, at, [*shared[index : index + 1], seen])
            if block.index in self._layers:
                x = x + steer(block.index, x)
        return self._norm(x)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, vocab), float32, of hidden states (N, hidden)."""
        return multiply(self._lean.head, hidden, {}).float()

    def _shared(self, common: Ids) -> list[PastKeyValues]:
        """Keys and values of what all begin with, by layer after the first steered one."""
        if not common:
            return []
        first = self._layers[0] + 1

        def read(_: list[int]) -> Iterator[torch.Tensor]:
            return (past for _, past in frozen_pass(self._lean, [common], 0, (), first))

        (past,) = self._cache.get([("shared", common)], read)
        return [PastKeyValues(*part[None].chunk(2, 1)) for part in past]

    def _before(
        self, turns: Sequence[Turn], common: int
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """What comes out of the first steered layer from each prompt's end on, and the past.

        The past are keys and values (layers, 2 * kv_heads, P, size) of the rest of the prompt.
        """
        first = self._layers[0] + 1

        def read(chosen: list[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            some = [turns[place] for place in chosen]
            found = frozen_pass(self._lean, [_ids(turn) for turn in some], common, (first,), first)
            for (prompt, _), (kept, past) in zip(some, found, strict=True):
                start = len(prompt) - 1 - common
                yield kept[first][start:].clone(), past[:, :, :start].clone()

        return self._cache.get([("steered", common, *turn) for turn in turns], read)

    def _norm(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(self._lean.norm.weight.dtype)
        return self._lean.norm(rows).view(x.shape)


class NetworkBasePass:
    """Through transformers' network, whole, with hooks behind its steered blocks."""

    def __init__(self, base: LoadedModel, layers: Sequence[int]) -> None:
        self._base = base
        self._layers = tuple(layers)

    def plain(self, turns: Sequence[Turn], common: int) -> torch.Tensor:
        """Return the hidden states of the base alone, without gradients."""
        del common
        with torch.no_grad():
            return self._run(turns)

    def steered(self, turns: Sequence[Turn], common: int, steer: Steer) -> torch.Tensor:
        """Return the hidden states; that prompts begin the same makes no difference."""
        del common
        tails = self._tails(turns)
        lengths = torch.tensor([len(answer) for _, answer in turns], device=tails.device)
        real = torch.arange(tails.shape[1], device=tails.device) < lengths[:, None]

        def steering(layer: int) -> Callable[[Any, Any, Any], Any]:
            def after(block: Any, inputs: Any, output: Any) -> Any:
                del block, inputs
                x = output if isinstance(output, torch.Tensor) else output[0]
                # Padding points at the last position, which is some answer's own.
                added = steer(layer, _gathered(x, tails)).to(x.dtype) * real[..., None]
                x = x.scatter_add(1, tails[..., None].expand_as(added), added)
                return x if isinstance(output, torch.Tensor) else (x, *output[1:])

            return after

        blocks = self._base._blocks()
        hooks = [blocks[layer].register_forward_hook(steering(layer)) for layer in self._layers]
        try:
            return self._run(turns)
        finally:
            for hook in hooks:
                hook.remove()

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, vocab), float32, of hidden states (N, hidden).

        The network makes them as when it answers: some scale or bound what their last matrix gives.
        """
        network = self._base.network
        anything = torch.zeros(1, 1, dtype=torch.long, device=hidden.device)
        hook = network.get_decoder().register_forward_hook(_instead(hidden[None]))
        try:
            logits: torch.Tensor = network(input_ids=anything, use_cache=False).logits[0]
        finally:
            hook.remove()
        return logits.float()

    def _run(self, turns: Sequence[Turn]) -> torch.Tensor:
        ids = [torch.tensor(prompt + answer[:-1]) for prompt, answer in turns]
        # Padding stands behind, where causal attention does not look.
        padded = pad_sequence(ids, True).to(self._base.device)
        with self._base.threads.working("training", padded.numel()):
            output = self._base.network.base_model(input_ids=padded, use_cache=False)
        hidden = output.last_hidden_state
        return _gathered(hidden, self._tails(turns))

    def _tails(self, turns: Sequence[Turn]) -> torch.Tensor:
        """Positions (B, A) from the prompts' ends on, at most the last of the batch."""
        longest = max(len(answer) for _, answer in turns)
        end = max(len(prompt) + len(answer) for prompt, answer in turns) - 2
        rows = [[min(len(prompt) - 1 + i, end) for i in range(longest)] for prompt, _ in turns]
        return torch.tensor(rows, device=self._base.device)


def _instead(hidden: torch.Tensor) -> Callable[[Any, Any, Any], Any]:
    def after(body: Any, inputs: Any, output: Any) -> Any:
        del body, inputs
        output.last_hidden_state = hidden
        return output

    return after


def _gathered(x: torch.Tensor, tails: torch.Tensor) -> torch.Tensor:
    return x.gather(1, tails[..., None].expand(*tails.shape, x.shape[-1]))


def _ids(turn: Turn) -> Ids:
    prompt, answer = turn
    return prompt + answer[:-1]
