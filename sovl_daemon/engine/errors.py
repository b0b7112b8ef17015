"""What can go wrong in the engine; each message is one line that says what to do next."""

import re
import traceback

_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


class EngineError(RuntimeError):
    """Base of every error the engine raises on purpose."""


class OptionError(EngineError, ValueError):
    """An option or a message has a value that is not allowed."""


class ModelLoadError(EngineError):
    """A folder does not hold a model that this engine can run."""


class TemplateError(ModelLoadError):
    """A chat template is no use: it fails, never ends, or loses what was said."""


class PromptTooLongError(EngineError):
    """The messages that may not be dropped do not fit into the context.

    They need `tokens`, or more where `why` tells of which little that was seen.
    """

    def __init__(self, tokens: int, limit: int, why: str = "") -> None:
        needed = f"at least {tokens} tokens ({why})" if why else f"{tokens} tokens"
        super().__init__(
            f"prompt too long: system prompt and last message need {needed}, "
            f"{limit} fit beside the answer; shorten the message or raise the context length"
        )
        self.tokens = tokens
        self.limit = limit


class ArtifactError(EngineError, ValueError):
    """A saved artifact, such as a probe or a token map, is damaged or belongs to something else."""


class NonFiniteLogitsError(EngineError):
    """The model produced NaN or infinity instead of a distribution over tokens."""


class NonFiniteLossError(EngineError):
    """The training loss is not a number."""


class EngineOutOfMemoryError(EngineError):
    """A step found no memory; the job it belonged to is gone, the engine goes on."""


class CacheError(EngineError):
    """A model's cache cannot forget its last positions."""


class JobCancelledError(EngineError):
    """The job was cancelled before it was done."""


class EngineStoppedError(EngineError):
    """The tensor thread has stopped and takes no more work."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether Python or any allocator of torch ran out of memory.

    By message, because torch's CPU allocator raises a plain RuntimeError.
    """
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def settled(error: BaseException) -> BaseException:
    """Return `error`, clearly told if it is out of memory, without the tensors its frames hold."""
    # The traceback stays readable.
    traceback.clear_frames(error.__traceback__)
    if isinstance(error, EngineOutOfMemoryError) or not is_out_of_memory(error):
        return error
    return EngineOutOfMemoryError(
        f"out of memory ({first_line(error)}): shorten the context or free memory"
    )
