"""A frozen causal language model and its forward pass.

This is the seam for fusion, quantisation and other caches: the decode loop asks for a cache and
for the logits of the next token, nothing else. Llama-family models answer through a lean forward
pass of our own, all others through transformers.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from sovl_daemon.engine.errors import (
    EngineOutOfMemoryError,
    ModelLoadError,
    OptionError,
    first_line,
    is_out_of_memory,
)
from sovl_daemon.engine.model.allocator import return_free_memory
from sovl_daemon.engine.model.kv_cache import Cache, NetworkCache, Span
from sovl_daemon.engine.model.llama import AfterBlock, FusedLinear, Llama, SequenceRows
from sovl_daemon.engine.model.llama_finder import find_llama
from sovl_daemon.engine.model.precision import (
    HALF_DTYPES,
    DtypeChoice,
    Precision,
    choose_dtype,
    unquantised,
)
from sovl_daemon.engine.model.product import is_emulated, native_is_faster, native_kernels
from sovl_daemon.engine.model.switch import (
    MappedWeights,
    PrecisionSwitch,
    obstacle,
    possible_precisions,
)
from sovl_daemon.engine.thread.threads import Threads
from sovl_daemon.limits import available_parallelism, memory

_WARM_UP_TOKENS = 16
# Of the memory: where 16 bits are emulated, prompts and nights are worth so much more of it.
_SMALL_SHARE = 1 / 12
# What families call the number of positions in their settings, and the table of learned ones.
_POSITIONS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
)
_POSITION_TABLE = re.compile(r"(^|[._])(wpe|embed_positions|position_embeddings?)$")


class Fingerprint(NamedTuple):
    """SHA-256 of the base's weights as they are held, and of its next token's logits after a text.

    The second also depends on the machine's arithmetic, the number of threads included.
    """

    precision: Precision
    weights: str
    logits: str


class Steerer(Protocol):
    """What steers the model from outside, and what that needs to know."""

    @property
    def stamp(self) -> int:
        """A number that changes when what conversations remember is out of date; 0 is unsteered."""

    def listen(self, prompt: Sequence[int], cache: Cache, *, since: int) -> None:
        """Read what the steering needs of a prompt, as far as the model is about to read it.

        It steers from position `since` on.
        """


@dataclass(slots=True, eq=False)
class LoadedModel:
    """A model in evaluation mode whose parameters take no gradient.

    `network` is a transformers causal LM; `max_context` is the number of positions it knows, None
    if it has no such limit; `lean` is its fast forward pass, None where there is only the
    network's own; `mapped_weights` are its weights as stored and `path` their folder, None if they
    came from nowhere; `threads` are those of its steps; `fusion` is what steers it. Use it from one
    thread only.
    """

    network: Any
    device: torch.device
    precision: DtypeChoice
    max_context: int | None
    lean: Llama | None = None
    mapped_weights: MappedWeights | None = None
    path: Path | None = None
    threads: Threads = field(default_factory=partial(Threads, 1))
    native_one_token: bool = False
    fusion: Steerer | None = None
    _reading: Sequence[SequenceRows] = ()

    @property
    def parameters(self) -> int:
        """Number of parameters; tied ones count once."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights as they are held now; what is only mapped from a file is none."""
        held = (
            tensor
            for linear in self._linears()
            if linear.matrix.precision != "offloaded"
            for tensor in linear.matrix.tensors()
        )
        return sum(each.numel() * each.element_size() for each in (*held, *self._own_parameters()))

    @property
    def layers(self) -> int:
        """Number of decoder blocks."""
        return int(self.network.config.get_text_config(decoder=True).num_hidden_layers)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end a sequence, as the model's generation settings name them."""
        ids = self.network.generation_config.eos_token_id
        return frozenset([ids] if isinstance(ids, int) else ids or ())

    @property
    def plain(self) -> Precision:
        """The precision it was loaded in."""
        return unquantised(self.precision.dtype)

    @property
    def is_switchable(self) -> bool:
        """Whether its weights can be held otherwise, if anything on this device can."""
        return self.lean is not None and self.mapped_weights is not None

    @property
    def precisions(self) -> list[Precision]:
        """The precisions its weights can be held in, `plain` first."""
        if self.lean is None or self.mapped_weights is None:
            return [self.plain]
        return possible_precisions(self.lean)

    def switch(self, precision: Precision, *, offloaded: bool = False) -> PrecisionSwitch | None:
        """Return what will hold the weights in `precision`, None where there is but one.

        With `offloaded` they stay in their file until they are to be held again. The first time
        on a GPU this takes seconds.

        Raises:
            OptionError: this model cannot be held so here.

        """
        allowed = self.precisions
        if precision not in allowed:
            why = obstacle(self.lean) if self.lean is not None else ""
            raise OptionError(
                f"precision {precision!r} is not possible for this {type(self.network).__name__} "
                f"on {self.device.type}: use {' or '.join(allowed)}{why and f' ({why})'}"
            )
        if self.lean is None or self.mapped_weights is None:
            if offloaded:
                name = type(self.network).__name__
                raise OptionError(f"the weights of this {name} cannot be offloaded")
            return None
        return PrecisionSwitch(
            self.lean, self.mapped_weights, "offloaded" if offloaded else precision
        )

    @property
    def width(self) -> int:
        """Size of a hidden state between two blocks, which in some OPT is not that of a token."""
        return int(self.network.config.get_text_config(decoder=True).hidden_size)

    @property
    def stamp(self) -> int:
        """A number that changes when caches of conversations are out of date."""
        return self.fusion.stamp if self.fusion is not None else 0

    def new_cache(self) -> Cache:
        """Return an empty cache for one conversation."""
        return self.lean.new_cache() if self.lean is not None else NetworkCache(self.network.config)

    def forward(self, spans: Sequence[Span]) -> torch.Tensor:
        """Read each span after what its cache holds; return the next tokens' logits, (B, vocab)."""
        rows = sum(len(span.ids) for span in spans)
        with (
            self.threads.working("decoding" if rows == len(spans) else "reading", rows),
            torch.inference_mode(),
            native_kernels(self.native_one_token and rows == 1),
        ):
            if self.lean is not None:
                return self.lean.forward(spans)
            logits = torch.stack([self._read(span) for span in spans])
        for span in spans:
            span.cache.advance(len(span.ids))
        return logits

    def listen(self, prompt: Sequence[int], cache: Cache, *, since: int) -> None:
        """Let what steers the model read a prompt before the model does; see `Steerer.listen`."""
        if self.fusion is not None:
            with torch.inference_mode():
                self.fusion.listen(prompt, cache, since=since)

    def _read(self, span: Span) -> torch.Tensor:
        span.cache.settle()  # a failed pass may have left something
        self._reading = [SequenceRows(slice(0, len(span.ids)), span, span.cache.length)]
        try:
            output = self.network(
                input_ids=torch.tensor([span.ids], device=self.device),  # (1, T)
                past_key_values=span.cache.dynamic,
                use_cache=True,
                logits_to_keep=1,
            )
        finally:
            self._reading = ()  # another pass through the network is not about this cache
        logits: torch.Tensor = output.logits[0, -1]
        return logits

    def add_after_block(self, index: int, function: AfterBlock) -> Callable[[], object]:
        """Let `function` change the hidden states behind the block `index`; return what ends that.

        Only one function at a time may do so.
        """
        if self.lean is None:

            def after(block: Any, inputs: Any, output: Any) -> Any:
                if not self._reading:
                    return output
                if isinstance(output, torch.Tensor):
                    return function(output[0], self._reading)[None]
                return (function(output[0][0], self._reading)[None], *output[1:])

            hook = self._blocks()[index].register_forward_hook(after)
            return lambda: hook.remove()
        after_block = self.lean.after_block
        after_block[index] = function
        return partial(after_block.pop, index)

    def _blocks(self) -> Any:
        """Find the decoder blocks by structure: as many modules in a list as there are layers."""
        modules = self.network.get_decoder().modules()
        lists = (each for each in modules if isinstance(each, torch.nn.ModuleList))
        return next(each for each in lists if len(each) == self.layers)

    def fingerprint(self, precision: Precision, ids: Sequence[int]) -> Fingerprint:
        """Digest the weights, held in `precision`, and what the plain base makes of `ids`."""
        weights = hashlib.sha256()
        for linear in self._linears():
            for tensor in linear.matrix.tensors():
                weights.update(_bytes(tensor))
        for parameter in self._own_parameters():
            weights.update(_bytes(parameter))
        logits = self.forward([Span(ids, self.new_cache())])
        digest = hashlib.sha256(_bytes(logits)).hexdigest()
        return Fingerprint(precision, weights.hexdigest(), digest)

    def _linears(self) -> Iterator[FusedLinear]:
        """Yield the matrices of the lean pass, in the form that answers."""
        if self.lean is not None:
            for layer in self.lean.linears():
                yield from layer

    def _own_parameters(self) -> Iterator[Any]:
        """Yield the network's weights that no matrix of the lean pass stands for, each once."""
        shared = {id(module.weight) for linear in self._linears() for module in linear.modules}
        return (each for each in self.network.parameters() if id(each) not in shared)

    def warm_up(self) -> None:
        """Run a short prompt and a few tokens, so that the first answer finds everything ready.

        Raises:
            ModelLoadError: the model cannot be run with a key-value cache.

        """
        try:
            cache = self.new_cache()
            count = min(_WARM_UP_TOKENS, (self.max_context or _WARM_UP_TOKENS + 1) - 1)
            self.forward([Span([0] * count, cache)])
            token = Span([0], cache)
            self.forward([token])
            if self.device.type == "cpu" and self.precision.dtype in HALF_DTYPES:
                self.native_one_token = native_is_faster(lambda: self.forward([token]))
        except Exception as error:  # what a network cannot do raises whatever it likes
            if is_out_of_memory(error):
                raise
            name = type(self.network).__name__
            raise ModelLoadError(
                f"{name} cannot decode with a key-value cache ({first_line(error)}); "
                "choose a decoder-only model such as GPT-2 or Llama"
            ) from error


def load_model(
    path: Path, *, device: str = "auto", dtype: str = "auto", threads: int = 1
) -> LoadedModel:
    """Load the causal LM in the folder `path`; nothing is downloaded and no code in it is run.

    `threads` is the number of CPU threads one operation may use, 0 for what is fastest at each
    time.

    Raises:
        ModelLoadError: the folder holds no such model, or one that cannot be loaded.
        OptionError: device, dtype or threads are not allowed here.

    """
    if threads < 0:
        raise OptionError(f"threads {threads} is not allowed: give 1 or more, or 0 for automatic")
    torch.set_num_threads(threads or available_parallelism())
    place = choose_device(device)
    if place.type != "cpu":  # steps end before the work does, so their times say nothing
        threads = threads or max(1, available_parallelism() - 1)
    if not (path / "config.json").is_file():
        raise ModelLoadError(f"no model in {path}: give a folder with config.json and safetensors")
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelLoadError(_unloadable(path, error)) from error
    precision = choose_dtype(dtype, config.dtype or torch.float32, place)
    network = _read_network(path, config, precision.dtype).to(place)
    network.eval().requires_grad_(False)
    max_context = position_limit(network)
    lean = find_llama(network)
    emulated = dtype == "auto" and place.type == "cpu" and is_emulated(precision.dtype)
    room, weights = memory(), sum(each.numel() for each in network.parameters())
    is_small = room is not None and 4 * weights <= _SMALL_SHARE * room.total  # in float32
    if emulated and (lean is None or is_small):
        precision = DtypeChoice(torch.float32, f"{precision.dtype} is emulated here, and slow")
        network = _read_network(path, config, precision.dtype).eval().requires_grad_(False)
        lean = find_llama(network)
    return_free_memory(place)
    return LoadedModel(
        network, place, precision, max_context, lean, MappedWeights(path), path, Threads(threads)
    )


def position_limit(network: Any) -> int | None:
    """Return the number of positions a network knows, None if it has no such limit.

    The least of what its settings say, by whichever name, and of what its table of them holds.
    """
    config = network.config.get_text_config(decoder=True)
    named = [getattr(config, name, None) for name in _POSITIONS]

    def positions_of(table: Any) -> int:
        """Rows that stand for a position: some begin behind the one of the padding token."""
        padding = getattr(table, "padding_idx", None)
        unused = getattr(table, "offset", 0 if padding is None else padding + 1)
        return int(table.num_embeddings - unused)

    tables = [
        positions_of(module)
        for name, module in network.get_decoder().named_modules()  # not what sees images
        if isinstance(module, torch.nn.Embedding) and _POSITION_TABLE.search(name)
    ]
    return min(
        [each for each in named if isinstance(each, int) and each > 0] + tables, default=None
    )


def choose_device(asked: str) -> torch.device:
    """Turn "auto" into a GPU if there is one, else the CPU; check any other name.

    Raises:
        OptionError: torch does not know the device, or this machine does not have it.

    """
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(
            f"device {asked!r} cannot be used ({first_line(error)}): use auto, cpu or cuda"
        ) from error
    return device


def _read_network(path: Path, config: Any, dtype: torch.dtype) -> Any:
    transformers_logging.disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            # The other format is a pickle, which may run code.
            use_safetensors=True,
        )
    except Exception as error:
        if is_out_of_memory(error):
            raise EngineOutOfMemoryError(
                f"no memory to load the model in {path}: end other programs, or choose another"
            ) from error
        raise ModelLoadError(_unloadable(path, error)) from error


def _unloadable(path: Path, error: Exception) -> str:
    return f"cannot load the model in {path} ({first_line(error)}): pull it again or choose another"


def _bytes(tensor: torch.Tensor) -> memoryview:
    plain = tensor.detach().contiguous().cpu().reshape(-1)
    return memoryview(plain.view(torch.uint8).numpy())
