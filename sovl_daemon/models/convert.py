"""Turning a checkpoint into 16-bit safetensors and a tokenizer. Loads torch and transformers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partialmethod
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
import tqdm  # type: ignore[import-untyped]
import transformers
from tokenizers import pre_tokenizers
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from sovl_daemon.models.checkpoint import Header
from sovl_daemon.models.errors import ConversionError, first_line
from sovl_daemon.models.progress import ProgressCallback, StageProgress, begin

HALF_MAX = 65504.0
# float16 rounds a number of its normal range by at most 2^-11 of it; twice that for a whole
# tensor means that much of it lies below the normal range.
HALF_ROUNDING = 2.0**-10

# GGUF files name their pre-tokenizer. These, a list in llama.cpp (llama-vocab.cpp), cut every
# digit off before anything else, which transformers' own reader of GGUF leaves out.
_DIGIT_SPLITTING = {"smollm", "starcoder", "refact", "command-r", "codeshell"}


@dataclass(frozen=True, slots=True)
class Converted:
    """Precision of the stored weights, and their number with shared ones counted once."""

    dtype: str
    parameters: int


class _Location(TypedDict):
    """Arguments of transformers' `from_pretrained`."""

    pretrained_model_name_or_path: str
    gguf_file: NotRequired[str]
    local_files_only: bool
    trust_remote_code: bool


def convert(checkpoint: Path, header: Header, target: Path, report: ProgressCallback) -> Converted:
    """Load a GGUF file or a transformers folder and save it as 16-bit safetensors.

    Raises:
        ConversionError: transformers does not know it, weights are missing or not finite, or it
            has no tokenizer that fits.

    """
    try:
        with _quiet():
            begin("reading the tokenizer", report)
            tokenizer = load_tokenizer(checkpoint, header)
            begin("loading the weights", report)
            model = load_model(checkpoint, header)
            check_vocabulary(model, tokenizer)
            check_finite(model)
            dtype = choose_dtype(model, header, report)
            model.to(dtype)
            check_finite(model)
            begin("saving the weights", report)
            _complete_generation_config(model, tokenizer)
            limit = getattr(model.config, "max_position_embeddings", None)
            if limit and tokenizer.model_max_length >= VERY_LARGE_INTEGER:
                tokenizer.model_max_length = limit  # those from GGUF have none of their own
            model.save_pretrained(target)
            tokenizer.save_pretrained(target)
            if tokenizer.is_fast:
                _drop_foreign_tokens(target, _rows(model))
            return Converted(str(dtype).removeprefix("torch."), model.num_parameters())
    except ConversionError:
        raise
    except Exception as error:  # transformers raises every kind for a model that it cannot load
        raise ConversionError(
            f"{checkpoint.name} cannot be converted: {_cause(error, header)}"
        ) from error


def _cause(error: Exception, header: Header) -> str:
    """Say in a line what went wrong, and what to do where that is known."""
    says = first_line(error)
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        needed = 4 * header.parameters / 1e6
        return (
            f"no memory for its weights, about {needed:,.0f} MB: end other programs, or choose a "
            "smaller model"
        )
    if "trust_remote_code" in str(error):
        return "it needs code of its own, which is never run: choose one that transformers knows"
    if "Unrecognized configuration class" in str(error):
        return "it is no language model, or one that sees or hears, too: choose one of text alone"
    if "tiktoken" in says or "sentencepiece" in says or "backend tokenizer" in says:
        return (
            "its tokenizer is in a form that is not read here: put the tokenizer.json of its "
            "family beside the weights, or pull another conversion of it"
        )
    if "does not recognize this architecture" in str(error):
        return f"{says[:120]} …: its kind is newer than this transformers: choose another model"
    if "size mismatch" in str(error) or "mismatched" in str(error):
        return "its weights have other shapes than its config.json says: one is of another model"
    if isinstance(error, NotImplementedError) or "not supported yet" in str(error):
        return f"{says}: pull the original in safetensors, or a file in Q8_0 or F16"
    return says


def load_tokenizer(checkpoint: Path, header: Header) -> Any:
    """Load the tokenizer with its special tokens and chat template."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(**_location(checkpoint))
    of_processor = checkpoint / "chat_template.json"
    if not tokenizer.chat_template and of_processor.is_file():
        # Models that see or hear too keep it there, where no tokenizer looks.
        tokenizer.chat_template = json.loads(of_processor.read_bytes())["chat_template"]
    if header.pre_tokenizer in _DIGIT_SPLITTING:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    return tokenizer


def load_model(checkpoint: Path, header: Header) -> Any:
    """Load the model in the 16-bit type it is stored in, else in float32.

    Raises:
        ConversionError: the checkpoint lacks some of the model's weights.

    """
    dtype = getattr(torch, header.half_dtype or "float32")
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        **_location(checkpoint), dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    if missing := sorted(loading["missing_keys"]):
        raise ConversionError(
            f"{checkpoint.name} lacks {len(missing)} weights of a causal language model, "
            f"the first is {missing[0]}: a file is missing, or its configuration is another model's"
        )
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:  # of GGUF: the weights are plain by now, but saving would refuse
        quantizer.remove_quantization_config(model)
    return model


def check_vocabulary(model: Any, tokenizer: Any) -> None:
    """Check that every token of text has an embedding; those added beside may have none.

    Raises:
        ConversionError: the tokenizer is another model's.

    """
    # Those are dropped after saving, where the file tells them from the rest.
    tokens = tokenizer.vocab_size if tokenizer.is_fast else len(tokenizer)
    if tokens > _rows(model):
        raise ConversionError(
            f"the tokenizer knows {tokens} tokens, the model only {_rows(model)}: "
            "they do not belong together"
        )


def check_finite(model: Any) -> None:
    """Check that every weight is a finite number.

    Raises:
        ConversionError: naming the first weight that is not.

    """
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise ConversionError(
                f"the weights are damaged: {name} holds values that are not finite; fetch the "
                "model again, or choose another"
            )


def choose_dtype(model: Any, header: Header, report: ProgressCallback) -> torch.dtype:
    """Keep a 16-bit source's type; else float16 if every weight survives it, else bfloat16."""
    if header.half_dtype:
        return model.dtype
    weights = list(model.parameters())
    for count, weight in enumerate(weights):
        report(StageProgress("checking the weights", count, len(weights), "tensors"))
        if not survives_half(weight):
            return torch.bfloat16
    return torch.float16


def survives_half(weight: torch.Tensor) -> bool:
    """Tell whether float16 holds a tensor: in range, and rounded by no more than 2^-10 of its norm.

    `weight` [any shape], float32.
    """
    if weight.numel() == 0:
        return True
    if weight.abs().max() >= HALF_MAX:
        return False
    rounding = torch.linalg.vector_norm(weight.half().float() - weight)
    return bool(rounding <= HALF_ROUNDING * torch.linalg.vector_norm(weight))


def _location(checkpoint: Path) -> _Location:
    """Return the arguments of `from_pretrained` for a GGUF file or a folder; nothing remote."""
    here = _Location(
        pretrained_model_name_or_path=str(checkpoint),
        local_files_only=True,
        trust_remote_code=False,
    )
    if checkpoint.is_file():
        here["pretrained_model_name_or_path"] = str(checkpoint.parent)
        here["gguf_file"] = checkpoint.name
    return here


def _rows(model: Any) -> int:
    return model.get_input_embeddings().num_embeddings  # type: ignore[no-any-return]


def _drop_foreign_tokens(folder: Path, rows: int) -> None:
    """Drop added tokens without an embedding, whose text would index past the end of them.

    Fine-tuning often adds one for padding that no model has, and transformers gives every
    byte-level tokenizer from GGUF an `<|endoftext|>`.
    """
    path = folder / "tokenizer.json"
    state = json.loads(path.read_bytes())
    foreign = {each["content"] for each in state["added_tokens"] if each["id"] >= rows}
    if not foreign:
        return
    state["added_tokens"] = [each for each in state["added_tokens"] if each["id"] < rows]
    path.write_text(json.dumps(state, ensure_ascii=False))
    path = folder / "tokenizer_config.json"
    named = json.loads(path.read_bytes()).items()
    config = {key: value for key, value in named if str(value) not in foreign}
    if more := config.get("extra_special_tokens"):
        config["extra_special_tokens"] = [each for each in more if each not in foreign]
    path.write_text(json.dumps(config, ensure_ascii=False, indent=2))


def _complete_generation_config(model: Any, tokenizer: Any) -> None:
    """Make sure that generation stops at the tokenizer's end token and that the config saves."""
    generation = model.generation_config
    if generation.eos_token_id is None:
        generation.eos_token_id = tokenizer.eos_token_id
    try:
        generation.validate(strict=True)
    except ValueError:
        generation.do_sample = True  # it sets a temperature or the like, which means sampling


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' bars and advice: we report our own progress.

    tqdm has no switch for a running process; its documented way is a new default for `disable`.
    """
    initialise, verbosity = tqdm.tqdm.__init__, transformers.logging.get_verbosity()
    tqdm.tqdm.__init__ = partialmethod(initialise, disable=True)
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        tqdm.tqdm.__init__ = initialise
        transformers.logging.set_verbosity(verbosity)
