import pytest

from sovl_daemon.engine.errors import OptionError, is_out_of_memory
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.engine.text.message import Message


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("temperature", -0.1, "temperature -0.1 is not allowed: give from 0 to 5 (0 is greedy)"),
        ("temperature", float("nan"), "temperature nan"),
        ("top_p", 0.0, "top_p 0.0"),
        ("top_p", 1.01, "top_p 1.01"),
        ("top_k", -1, "top_k -1"),
        ("top_k", 2.5, "top_k 2.5 is not allowed: give a whole number"),
        ("top_k", True, "top_k True"),
        ("repetition_penalty", 0, "repetition_penalty 0"),
        ("max_new_tokens", 0, "max_new_tokens 0"),
        ("seed", -1, "seed -1"),
        ("seed", "x", "seed 'x'"),
    ],
)
def test_out_of_range_is_refused_by_name(name: str, value: object, expected: str) -> None:
    with pytest.raises(OptionError) as caught:
        SamplingOptions(**{name: value})  # type: ignore[arg-type]
    assert str(caught.value).startswith(expected)


def test_the_edges_are_allowed() -> None:
    low = SamplingOptions(temperature=0, top_k=0, top_p=1e-6, repetition_penalty=0.1, seed=0)
    high = SamplingOptions(temperature=5, top_p=1, repetition_penalty=10, seed=2**63 - 1)
    assert (low.temperature, high.seed) == (0, 2**63 - 1)


def test_unknown_role_is_refused() -> None:
    with pytest.raises(OptionError, match="'robot' is unknown"):
        Message("robot", "hi")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_is_recognised(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
