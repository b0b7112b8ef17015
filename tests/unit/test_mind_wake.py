import pytest

from config.controls import ControlsConfig
from sovl_daemon.mind.wake import WakeOptions, wakes


@pytest.mark.parametrize(
    ("has_woken", "knob", "expected"),
    [(False, False, True), (True, False, False), (False, True, False), (True, True, False)],
)
def test_once_a_life(has_woken: bool, knob: bool, expected: bool) -> None:
    assert wakes(has_woken, ControlsConfig(has_woken=knob)) is expected


def test_the_first_words_are_few_and_wild() -> None:
    words = WakeOptions()
    assert (words.temperature, words.top_k) == (1.7, 30)
    assert 1 <= words.max_tokens <= 20
