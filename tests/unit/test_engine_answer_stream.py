"""What of an answer is shown, and when."""

from collections.abc import Sequence

from sovl_daemon.engine.serving.answer_stream import ChunkWriter, Repetition
from sovl_daemon.engine.serving.token_sequence import Token
from sovl_daemon.engine.text.text_stream import AnswerText


class Letters:
    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


def written(text: str, *, check: bool = True) -> tuple[str, str | None, int]:
    """The text that is shown, why the answer ended, and how many tokens were taken."""
    writer = ChunkWriter(AnswerText(Letters()), Repetition() if check else None)
    pieces = []
    for letter in text:
        piece = writer.push(Token(ord(letter), 0.5, 0.0))
        pieces += [piece] if piece else []
        if writer.stopped:
            break
    pieces.append(writer.finish(0.0, 1))
    summary = pieces[-1].summary
    assert summary is not None
    assert sum(piece.tokens for piece in pieces) == summary.generated_tokens
    return "".join(p.text for p in pieces), writer.stopped, summary.generated_tokens


def test_what_is_said_again_is_left_out_and_ends_the_answer() -> None:
    assert written("so abcabcabc") == ("so abc", "repetition", 9)


def test_what_only_begins_alike_is_shown_whole() -> None:
    assert written("abcabxabyabz") == ("abcabxabyabz", None, 12)
    assert written("abcab") == ("abcab", None, 5)


def test_without_the_check_all_is_shown() -> None:
    assert written("abcabcabc", check=False) == ("abcabcabc", None, 9)


async def test_an_engine_stops_where_it_is_told_to(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from sovl_daemon.engine.serving.options import SamplingOptions
    from tests.unit.engine_tiny import save_tiny
    from tests.unit.test_engine import HELLO, load

    engine = await load(save_tiny(tmp_path))
    engine.tokenizer.stop_ids = frozenset()
    try:
        # So heavy a reward makes even a random model say the same for ever.
        options = SamplingOptions(temperature=0, max_new_tokens=60, repetition_penalty=0.1)
        free = [piece async for piece in engine.generate(HELLO, options)][-1].summary
        held = engine.generate(HELLO, options, stop_repetition=True)
        stopped = [piece async for piece in held][-1].summary
    finally:
        await engine.close()
    assert free is not None
    assert stopped is not None
    assert (free.finish_reason, stopped.finish_reason) == ("length", "repetition")
    assert stopped.generated_tokens < free.generated_tokens
