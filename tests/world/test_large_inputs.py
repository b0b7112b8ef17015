"""What grows with the input stops neither signs of life nor anybody else's answers."""

import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest
from transformers import AutoTokenizer

from sovl_daemon.cli import exits
from sovl_daemon.client import CommandError
from sovl_daemon.engine.engine import Engine
from sovl_daemon.engine.errors import PromptTooLongError
from sovl_daemon.engine.judging.judging import PromptParts
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.engine.text.chat import ChatTokenizer
from sovl_daemon.engine.text.message import Message
from sovl_daemon.testing import PATIENCE_S, SOVL, Daemon, running
from tests import tiny_models
from tests.unit.engine_tiny import byte_level_tokenizer, save_tiny
from tests.world import situation

SHORT = SamplingOptions(max_new_tokens=3)
MEGABYTE = 1_000_000
STRANGE = {
    "words": "word " * (MEGABYTE // 5),
    "one word": "a" * MEGABYTE,
    "emoji": "\N{GRINNING FACE}" * (MEGABYTE // 4),
    "combining marks": "e\N{COMBINING ACUTE ACCENT}\N{COMBINING TILDE}" * (MEGABYTE // 5),
    "control characters": "\0\1\x1b" * (MEGABYTE // 3),
    "lines": "\n" * MEGABYTE,
    "turn markers": "<|turn|>" * (MEGABYTE // 8),
}


class Counting:
    """A tokenizer of which is known how much it read, and in which threads."""

    def __init__(self, chat: ChatTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.characters = 0
        self.threads: set[int] = set()
        encode = chat.tokenizer.encode

        def counted(text: str, **options: Any) -> Any:
            self.characters += len(text)
            self.threads.add(threading.get_ident())
            return encode(text, **options)

        monkeypatch.setattr(chat.tokenizer, "encode", counted)


@situation(
    "danny-avila/LibreChat#15246",
    "How much of a text is made into tokens is bounded by what fits, not by what came.",
)
@pytest.mark.parametrize("kind", STRANGE)
def test_no_more_is_read_than_may_fit(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = ChatTokenizer(byte_level_tokenizer())
    read = Counting(chat, monkeypatch)
    with pytest.raises(PromptTooLongError, match="at least") as caught:
        chat.encode([Message("user", STRANGE[kind])], 100)
    assert (read.characters, caught.value.limit) == (0, 100), "refused by its length alone"
    with pytest.raises(PromptTooLongError, match="more was not read"):
        chat.encode([Message("user", STRANGE[kind][:300_000])], 5000)
    assert 0 < read.characters < 50_000


def test_a_long_history_is_dropped_without_reading_it(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = ChatTokenizer(byte_level_tokenizer())
    old = [Message(role, "x" * 20_000) for role in ("user", "assistant") for _ in range(50)]
    new = [Message("user", "old"), Message("assistant", "new"), Message("user", "Hello!")]
    read = Counting(chat, monkeypatch)
    ids = chat.encode([Message("system", "Be kind."), *old, *new], 500)
    assert ids == chat.encode([Message("system", "Be kind."), *new], 500)
    assert read.characters < 50_000


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    engine = await Engine.load(save_tiny(tmp_path / "model"), device="cpu", dtype="float32")
    yield engine
    await engine.close()


@situation(
    "vllm-project/vllm#24910",
    "While a large prompt is prepared, the loop that answers health checks is free.",
)
async def test_nothing_is_made_into_tokens_on_the_loop(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Counting(engine.tokenizer, monkeypatch)
    async for _ in engine.generate([Message("user", "Hi there.")], SHORT):
        pass
    with pytest.raises(PromptTooLongError):
        await anext(engine.generate([Message("user", "word " * 1500)], SHORT))
    await engine.judge(PromptParts("Is it so?\n", "cpu: 5 %\n", ending="\nTrue or false?"))
    assert read.characters > 0
    assert threading.get_ident() not in read.threads


@situation("own", "A prompt that waits behind a long one to be read can be cancelled.")
async def test_a_prompt_that_is_prepared_can_be_cancelled(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(*_: Any) -> list[int]:
        begun.set()
        go.wait(PATIENCE_S)
        return [1, 2, 3]

    monkeypatch.setattr(engine.tokenizer, "encode", slow)

    async def ask() -> None:
        await anext(engine.generate([Message("user", "long")], SHORT))

    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.to_thread.run_sync(begun.wait)
            tasks.start_soon(ask)  # it waits for its turn
            await anyio.sleep(0)
            tasks.cancel_scope.cancel()
    assert not go.is_set()
    go.set()


@situation(
    "huggingface/transformers#47085",
    "One tokenizer serves many threads, whatever its file says of truncation and padding.",
)
def test_one_tokenizer_serves_many_threads(tmp_path: Path) -> None:
    saved = byte_level_tokenizer()
    saved.backend_tokenizer.enable_truncation(8)
    saved.backend_tokenizer.enable_padding(length=50)
    saved.save_pretrained(tmp_path)
    chat = ChatTokenizer(AutoTokenizer.from_pretrained(tmp_path))
    said = [Message("user", "How are you? " * 200)]
    with ThreadPoolExecutor(8) as pool:
        lengths = set(pool.map(lambda _: len(chat.encode(said, 10_000)), range(64)))
    assert len(lengths) == 1
    assert lengths.pop() > 200


@pytest.fixture(scope="module")
def daemon(module_runtime: Path) -> Iterator[Daemon]:
    with running(module_runtime, **tiny_models.settings(module_runtime)) as found:
        yield found
        assert not [each for each in found.events() if each["event"] == "child.restarting"]


@situation(
    "deepspeedai/DeepSpeed-MII#282",
    "A prompt that is far too long is refused in a line, and the next one is answered.",
)
def test_700_kilobytes_are_refused_in_a_line(daemon: Daemon) -> None:
    host = daemon.worker().pid
    found = daemon.sovl("generate", "-", text="The quick brown fox jumps. " * 26_000)
    assert found.returncode == exits.USAGE
    assert found.stderr.startswith("sovl: prompt: prompt too long:")
    assert found.stderr.count("\n") == 1
    assert daemon.sovl("generate", "Hi.").returncode == 0
    assert daemon.worker().pid == host


@situation("own", "Standard input that never ends is refused while it is read.")
def test_endless_standard_input(daemon: Daemon) -> None:
    command = ["sh", "-c", 'yes | "$@"', "sh", *SOVL, "generate", "-"]
    found = subprocess.run(
        command,
        env=daemon.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert found.returncode == exits.USAGE
    assert found.stderr.count("\n") == 1
    assert "standard input has" in found.stderr


@situation("own", "A line too long for the console is refused, and the next one is understood.")
def test_a_long_line_in_the_console(daemon: Daemon) -> None:
    found = daemon.sovl("console", text="x" * 3_000_000 + "\nhistory 1\n")
    assert "sovl: the line has 3000001 bytes" in found.stderr
    assert found.stderr.count("\n") == 1
    assert "interactions" in found.stdout
    assert found.returncode == 0


@situation("own", "A setting that no agent could be told of is refused, and changes nothing.")
def test_a_huge_setting_is_refused(daemon: Daemon) -> None:
    with daemon.client() as client:
        before = client.control("config", key="system_prompt")
        with pytest.raises(CommandError, match="all settings together may have"):
            client.control("config_set", key="system_prompt", value="x" * 500_000)
        assert client.control("config", key="system_prompt") == before
    with pytest.raises(CommandError), daemon.client() as client:
        client.ask("history", **{f"key{number}": 1 for number in range(100_000)})
