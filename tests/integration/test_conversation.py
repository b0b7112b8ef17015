"""Talking to the real model, through the daemon, as users do."""

import json
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import psutil
import pytest

from sovl_daemon.cli import exits
from sovl_daemon.client import CommandError
from sovl_daemon.testing import PATIENCE_S, Daemon, running, until
from tests.screen import Terminal

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("default_model")]
PARIS = "What is the capital of France?"
# By chance a story may be over soon, the likeliest one is long.
STORY = {"prompt": "Tell me a long story about the sea.", "max_tokens": 400, "temperature": 0}


@pytest.fixture(scope="module")
def daemon(module_runtime: Path) -> Iterator[Daemon]:
    # How many threads share out a sum decides on its rounding, and here answers are compared.
    with running(module_runtime, **{"host.threads": 1}) as found:
        yield found


def test_once_answers_and_stops(runtime: Path) -> None:
    daemon = Daemon(runtime)
    answer = daemon.sovl("run", "--once", PARIS)
    assert answer.returncode == 0, answer.stderr
    assert "Paris" in answer.stdout
    assert daemon.sovl("ping").returncode == exits.DOWN


def test_text_streams_and_adds_up(daemon: Daemon) -> None:
    with daemon.client() as client:
        *steps, result = client.stream("generate", prompt=PARIS, temperature=0)
    assert "".join(step["text"] for step in steps) == result["text"]
    assert "Paris" in result["text"]
    assert len(steps) > 3
    assert result["finish_reason"] == "stop"


@contextmanager
def nothing_kept(daemon: Daemon) -> Iterator[None]:
    """Without the prefix cache: in 16 bits, how a prompt is divided decides on rounding."""
    daemon.sovl("config", "prefix_cache_mb", "0")
    try:
        with daemon.client() as client:
            for _ in until():
                if client.ask("generate", prompt=PARIS, max_tokens=1)["cached_tokens"] == 0:
                    break
        yield
    finally:
        daemon.sovl("config", "prefix_cache_mb", "64")


def test_seed_repeats(daemon: Daemon) -> None:
    args = {"prompt": "Invent a name for a cat.", "max_tokens": 12}
    with nothing_kept(daemon), daemon.client() as client:
        texts = [client.ask("generate", **args, seed=seed)["text"] for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


def test_conversations_side_by_side_are_answered(daemon: Daemon) -> None:
    questions = [PARIS, "How much is 1 + 1?", "Name a colour."] * 4

    async def several() -> list[str]:
        texts = [""] * len(questions)

        async def one(index: int) -> None:
            async with daemon.async_client() as client:
                args = {"prompt": questions[index], "temperature": 0, "max_tokens": 24}
                texts[index] = (await client.ask("generate", **args))["text"]

        async with anyio.create_task_group() as tasks:
            for index in range(len(questions)):
                tasks.start_soon(one, index)
        return texts

    texts = anyio.run(several)
    assert all("Paris" in text for text in texts[::3])
    assert all(texts)


def test_options_change_the_answer(daemon: Daemon) -> None:
    args = {"prompt": PARIS, "max_tokens": 16}  # no two words are about as likely here
    with daemon.client() as client:
        free = client.ask("generate", **args, temperature=2, seed=1)
        tied = [
            client.ask("generate", **args, seed=1, **options)
            for options in ({"temperature": 0}, {"temperature": 2, "top_k": 1})
        ]
        narrow = client.ask("generate", **args, top_p=1e-6)
    assert tied[0]["text"] == tied[1]["text"] == narrow["text"] != free["text"]
    assert free["tokens"] <= 16


def test_conversation_goes_on_and_is_bounded(daemon: Daemon) -> None:
    with daemon.client() as client:
        first = client.ask("generate", prompt="Remember the number 1.", max_tokens=4)
        lengths = [first["prompt_tokens"]]
        anew = []
        for number in range(2, 9):
            again = client.ask(
                "generate",
                prompt=f"Remember the number {number}.",
                max_tokens=4,
                conversation=first["conversation"],
            )
            lengths.append(again["prompt_tokens"])
            anew.append(again["prompt_tokens"] - again["cached_tokens"])
        fresh = client.ask("generate", prompt="Remember the number 1.", max_tokens=4)
    assert lengths[:6] == sorted(set(lengths[:6])), "each turn adds to what the model sees"
    assert max(anew[:5]) < 20, "what was said before is not read again"
    assert lengths[6] <= lengths[5] + 4, "ten messages at most"
    assert fresh["prompt_tokens"] == lengths[0]


def test_cancelled_answer_ends_at_once_and_is_not_recorded(daemon: Daemon) -> None:
    with daemon.client() as client:
        before = client.ask("history", limit=1)
        for step in client.stream("generate", **STORY):
            if "text" in step:
                break  # leaving cancels
        for _ in until():
            if client.control("status")["in_flight"] == 0:
                break
        assert client.control("status")["in_flight"] == 0
        assert client.ask("history", limit=1) == before


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["generate", ""], exits.USAGE, "an empty prompt has no answer"),
        (["generate", "x", "--temperature", "9"], exits.USAGE, "temperature: Input should be less"),
        (["generate", "x", "--conversation", "a b"], exits.USAGE, "conversation: "),
        (["generate", "word " * 3000], exits.USAGE, "prompt too long"),
        (["generate", "x", "--deadline", "0.001"], exits.SLOW, "no answer before the deadline"),
        (["generate", "x", "--deadline", "-1"], exits.USAGE, "deadline_s: "),
        (["generate", "x", "--deadline", "nan"], exits.USAGE, "deadline_s: "),
        (["call", "generte", "prompt=x"], exits.UNKNOWN_COMMAND, "did you mean generate?"),
        (["call", "generate", "promt=x"], exits.USAGE, "did you mean prompt?"),
        (["call", "generate", "prompt=x", "y"], exits.USAGE, "max_tokens: Input should be"),
        (["statsu"], exits.UNKNOWN_COMMAND, "did you mean stats?"),
        (["config", "base_temprature"], exits.USAGE, "base_temperature"),
        (["config", "base_temperature", "9"], exits.USAGE, "0.5 to 1.5"),
        (["pause", "nobody"], exits.USAGE, "there are: "),
        (["logs", "--level", "loud"], exits.USAGE, "is not one of"),
    ],
)
def test_mistakes_are_one_line(daemon: Daemon, words: list[str], code: int, complaint: str) -> None:
    answer = daemon.sovl(*words)
    assert answer.returncode == code, answer.stderr
    assert complaint in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_setting_takes_effect_at_once_and_stays(daemon: Daemon) -> None:
    changed = json.loads(daemon.sovl("config", "max_new_tokens", "5", "--json").stdout)
    assert (changed["before"], changed["value"], changed["restart"]) == (60, 5, False)
    try:
        with daemon.client() as client:
            for _ in until():
                if (
                    client.ask("generate", prompt="Tell me a long story.", temperature=0)["tokens"]
                    == 5
                ):
                    break
            assert (
                client.ask("generate", prompt="Tell me a long story.", temperature=0)["tokens"] == 5
            )
        saved = json.loads((daemon.root / "sovl" / "config.json").read_text())
        assert saved == {"generation": {"max_new_tokens": 5}}
    finally:
        daemon.sovl("config", "max_new_tokens", "60")


def test_busy_is_said_so(daemon: Daemon) -> None:
    def refused() -> CommandError:
        async def flood() -> None:
            async with daemon.async_client() as client, anyio.create_task_group() as tasks:
                for _ in range(70):
                    tasks.start_soon(lambda: client.ask("generate", **STORY))

        with pytest.raises(ExceptionGroup) as caught:
            anyio.run(flood)
        return next(e for e in caught.value.exceptions if isinstance(e, CommandError))

    error = refused()
    assert error.code == "busy"
    assert exits.exit_code(error) == exits.BUSY_NOW
    with daemon.client() as client:
        for _ in until():
            if not client.control("status")["in_flight"]:
                return
    raise AssertionError("what was cancelled is still under way")


def test_killed_host_in_mid_answer(daemon: Daemon) -> None:
    host = daemon.worker()
    with daemon.client() as client:
        with pytest.raises(CommandError) as caught:
            for step in client.stream("generate", **STORY):
                if "text" in step and host.is_running():
                    host.kill()
                    host.wait()
        assert caught.value.code == "agent_lost"
        assert "Paris" in client.ask("generate", prompt=PARIS, temperature=0)["text"]


def test_killed_hub_loses_no_acknowledged_interaction(runtime: Path) -> None:
    daemon = Daemon(runtime).start().wait()
    acknowledged: list[int] = []

    def talk() -> None:
        try:
            with daemon.client() as client:
                while True:
                    answer = client.ask("generate", prompt="Hi!", max_tokens=2)
                    acknowledged.append(answer["interaction"])
        except CommandError:
            pass  # the hub is gone, as it should be

    talker = threading.Thread(target=talk)
    talker.start()
    for _ in until():
        if len(acknowledged) >= 5:
            break
    host = daemon.worker()
    daemon.kill()
    talker.join(PATIENCE_S)
    assert psutil.wait_procs([host], 3)[1] == [], "an orphan stayed"
    daemon.start().wait()
    with daemon.client() as client:
        kept = {each["id"] for each in client.ask("history", limit=1000)["interactions"]}
    daemon.stop()
    assert len(acknowledged) >= 5
    assert set(acknowledged) <= kept


def test_dry_run_leaves_no_trace(runtime: Path) -> None:
    with running(runtime, "--dry-run") as daemon, daemon.client() as client:
        assert client.control("status")["dry_run"] is True
        client.ask("generate", prompt="Hi!", max_tokens=3)
        assert len(client.ask("history", limit=5)["interactions"]) == 1
        with pytest.raises(CommandError, match="prompt too long"):
            client.ask("generate", prompt="word " * 150)
    assert not (runtime / "state" / "sovl.db").exists()


def test_database_is_what_it_says(daemon: Daemon) -> None:
    with daemon.client() as client:
        answer = client.ask("generate", prompt=PARIS, temperature=0)
    with sqlite3.connect(daemon.root / "state" / "sovl.db") as database:
        row = database.execute(
            "SELECT prompt, response, tokens FROM interactions WHERE id = ?",
            (answer["interaction"],),
        ).fetchone()
    assert row == (PARIS, answer["text"], answer["tokens"])


def test_console_talks_and_obeys(daemon: Daemon) -> None:
    lines = f"\n   \n{PARIS}\nnew\nstatus\nhistory\nconfig base_temperature\npause nobody\nquit\n"
    said = daemon.sovl("console", text=lines)
    assert said.returncode == 0, said.stderr
    assert "New conversation: " in said.stdout
    assert "generator" in said.stdout
    assert "controls_config.base_temperature = 0.7" in said.stdout
    assert "no agent 'nobody'" in said.stderr


def test_ctrl_c_cancels_the_answer_not_the_console(daemon: Daemon) -> None:
    terminal = Terminal(daemon)
    try:
        terminal.screen.wait_for("Type help")
        terminal.type("generate Tell me a long story about the sea.")
        for _ in until():
            with daemon.client() as client:
                if client.control("status")["in_flight"]:
                    break
        time.sleep(0.2)  # in the midst of it, and before a short story ends
        terminal.process.send_signal(signal.SIGINT)
        terminal.screen.wait_for("cancelled")
        terminal.type("ping")
        terminal.screen.wait_for("uptime_s")
        terminal.type("quit")
        assert terminal.process.wait(PATIENCE_S) == 0
    finally:
        terminal.process.kill()


def test_precision_switches_while_it_talks(daemon: Daemon) -> None:
    def switched(to: str) -> None:
        daemon.sovl("config", "quantization", to)
        for _ in until():
            events = [e for e in daemon.events() if e["event"] == "precision.switched"]
            if events and events[-1]["precision"] == to:
                return
        raise AssertionError(f"never switched to {to}")

    with nothing_kept(daemon), daemon.client() as client:
        before = client.ask("generate", prompt=PARIS, temperature=0)
        try:
            for to in ("int8", "int4"):
                talk = client.stream("generate", **STORY)
                next(talk)
                switched(to)
                *_, told = talk
                assert told["finish_reason"] in ("length", "stop", "repetition")
                assert told["tokens"] > 20
                assert "Paris" in client.ask("generate", prompt=PARIS, temperature=0)["text"]
        finally:
            switched("fp16")
        again = client.ask("generate", prompt=PARIS, temperature=0)
    assert again["text"] == before["text"]
    assert again["confidence"] == before["confidence"], "back again is exact"


def test_weights_are_offloaded_while_it_talks(daemon: Daemon) -> None:
    def placed(offloaded: str) -> None:
        before = sum(e["event"] == "weights.placed" for e in daemon.events())
        daemon.sovl("config", "offload_weights", offloaded)
        daemon.logged("weights.placed", before + 1)

    with nothing_kept(daemon), daemon.client() as client:
        before = client.ask("generate", prompt=PARIS, temperature=0)
        talk = client.stream("generate", **(STORY | {"max_tokens": 60}))
        next(talk)
        try:
            placed("true")
            *_, told = talk
            assert told["tokens"] > 20
            assert "Paris" in client.ask("generate", prompt=PARIS, temperature=0)["text"]
        finally:
            placed("false")
        again = client.ask("generate", prompt=PARIS, temperature=0)
    assert (again["text"], again["confidence"]) == (before["text"], before["confidence"])


def test_precision_holds_from_the_start(runtime: Path) -> None:
    with running(runtime, **{"core_config.quantization": "int8"}) as daemon:
        assert any(e.get("precision") == "int8" for e in daemon.events())
        with daemon.client() as client:
            assert "Paris" in client.ask("generate", prompt=PARIS, temperature=0)["text"]
