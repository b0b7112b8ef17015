"""It learns, sleeps, dreams and wakes: the agents of the mind, with a tiny real model."""

import json
import os
import pty
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from bus.topics import Question
from sovl_daemon.client import CommandError
from sovl_daemon.state import Generation, StateStore
from sovl_daemon.testing import PATIENCE_S, SOVL, Daemon, running, until
from tests import tiny_models

FIXTURES = Path(__file__).parents[1] / "fixtures"
SHORT = "Hi!"  # a question about it fits into the tiny model's context
TOLD = ("The capital of Zorland is Mivek.", "My dog is called Bramble.", "Hello there!")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return tiny_models.settings(tmp_path_factory.mktemp("models"), positions=128)


@pytest.fixture
def daemon(runtime: Path, tiny: dict[str, Any]) -> Iterator[Daemon]:
    with running(runtime, **tiny) as started:
        started.logged("scaffold.ready")
        yield started


@pytest.fixture(scope="module")
def trained(module_runtime: Path, tiny: dict[str, Any]) -> Iterator[Daemon]:
    """A daemon that has learned this or that already, for tests that do not mind."""
    with running(module_runtime, **tiny) as started:
        started.logged("scaffold.ready")
        yield started


def talk(daemon: Daemon, *prompts: str) -> None:
    with daemon.client() as client:
        for prompt in prompts:
            client.ask("generate", prompt=prompt)


def mind(daemon: Daemon) -> dict[str, Any]:
    with daemon.client() as client:
        return client.ask("mind")


def store(daemon: Daemon) -> StateStore:
    return StateStore(daemon.root / "state")


def test_a_night_consumes_what_was_lived_and_is_kept(daemon: Daemon) -> None:
    talk(daemon, *TOLD)
    with daemon.client() as client:
        night = client.ask("gestate")
        again = client.ask("gestate")
    assert (night["woke"], night["learned"], night["generation"]) == ("rested", 3, 1)
    assert night["recall"] > night["recall_before"]
    assert again["learned"] == 0
    assert store(daemon).find("current").manifest.interactions == [1, 2, 3]
    state = mind(daemon)
    assert state["nights"] == 1
    assert 0 < state["influence"] < 1
    daemon.worker("host").kill()
    assert daemon.logged("state.loaded")["generation"] == 1


def test_a_night_that_fails_its_exam_changes_nothing(runtime: Path, tiny: dict[str, Any]) -> None:
    with running(runtime, **tiny | {"night.least_recall": 1.0}) as daemon:
        daemon.logged("scaffold.ready")
        talk(daemon, TOLD[0])
        with daemon.client() as client:
            night = client.ask("gestate")
        assert night["learned"] == 0
        assert "night.least_recall is 1.0" in night["reason"]
        assert store(daemon).numbers() == []
        assert mind(daemon)["influence"] == 0


def test_woken_it_goes_on_with_the_same_night(daemon: Daemon) -> None:
    talk(daemon, *TOLD)
    woken: dict[str, Any] = {}

    def night() -> None:
        with daemon.client() as client:
            woken.update(client.ask("gestate"))

    asleep = threading.Thread(target=night)
    asleep.start()
    for _ in until():  # the first checkpoint is at the tenth step
        if (daemon.root / "state" / "candidate").exists():
            break
    talk(daemon, "Wake up!")
    asleep.join(PATIENCE_S)
    assert woken["woke"] == "called"
    assert not mind(daemon)["asleep"]
    with daemon.client() as client:
        first, second = client.ask("gestate"), client.ask("gestate")
    assert daemon.logged("night.resumed")["step"] >= 10
    assert (first["learned"], second["learned"]) == (3, 1)
    numbers = store(daemon).numbers()
    learned = [store(daemon).find(str(each)).manifest.interactions for each in numbers]
    assert learned == [[1, 2, 3], [4]]


def test_it_may_begin_asleep(runtime: Path, tiny: dict[str, Any]) -> None:
    with running(runtime, **tiny | {"controls_config.is_sleeping": True}) as daemon:
        assert daemon.logged("night.started")["reason"] == "asleep"
        assert daemon.logged("night.ended")["woke"] == "rested"


def test_training_on_pairs_tells_its_steps_and_is_kept(trained: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    pairs = [{"prompt": f"What is {n}?", "response": "A number."} for n in range(12)]
    file.write_text("\n".join(map(json.dumps, pairs)))
    with trained.client() as client:
        *told, result = client.stream("train", epochs=2, file=str(file))
    steps = [each for each in told if "epoch" in each]
    assert {each["epoch"] for each in steps} == {1, 2}
    assert all({"step", "steps", "loss", "tokens_per_s", "left_s"} <= each.keys() for each in steps)
    assert result["validation"] < result["before"]
    assert store(trained).find("current").manifest.number == result["generation"]


def test_a_terminal_sees_a_bar_of_the_steps(trained: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "What is 1?", "response": "A number."}\n' * 12)
    ours, theirs = pty.openpty()
    call = [*SOVL, "call", "train", "epochs=2", f"file={file}"]
    wide = trained.environment | {"TERM": "xterm", "COLUMNS": "120"}
    training = subprocess.Popen(call, env=wide, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    seen = b""
    with suppress(OSError):  # closed at the other end
        while data := os.read(ours, 65536):
            seen += data
    os.close(ours)
    said, _ = training.communicate(timeout=PATIENCE_S)
    assert training.returncode == 0
    for words in (b"Epoch 2/2", b"loss ", b" tokens/s, ", b" s left"):
        assert words in seen
    assert said.startswith("Nothing was validated")  # one prompt cannot be split
    piped = trained.sovl("console", text=f"train 1 {file}\n")
    assert "Epoch 1/1 Step 1/" in piped.stdout
    assert piped.stdout.splitlines()[-1].startswith("Nothing was validated")


def test_training_that_is_cut_off_goes_on(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    pairs = [{"prompt": f"What is {n}?", "response": "A number."} for n in range(12)]
    file.write_text("\n".join(map(json.dumps, pairs)))
    with daemon.client() as client, pytest.raises(CommandError):
        for step in client.stream("train", epochs=30, file=str(file)):
            if step.get("epoch") == 3:
                daemon.worker("host").kill()
    daemon.logged("scaffold.ready", 2)
    whole = Generation.sound(store(daemon).candidate).manifest.metrics["epochs"]
    with daemon.client() as client:
        *told, result = client.stream("train", epochs=30, file=str(file))
    epochs = [each["epoch"] for each in told if "epoch" in each]
    assert epochs[0] == whole + 1 > 2
    assert result["epochs"] == 30
    assert result["validation"] < result["before"]


def test_malformed_pairs_are_refused_by_their_lines(trained: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "a", "response": "b"}\nnonsense\n')
    with trained.client() as client, pytest.raises(CommandError, match="2: "):
        client.ask("train", file=str(file))


def test_save_reset_and_load(daemon: Daemon) -> None:
    talk(daemon, *TOLD)
    with daemon.client() as client:
        client.ask("gestate")
        assert "my_model" in client.ask("save", name="my_model")["text"]
        with pytest.raises(CommandError, match="--force"):
            client.ask("save", name="my_model")
        client.ask("reset")
        assert mind(daemon)["nights"] == 0
        client.ask("load", name="my_model")
        with pytest.raises(CommandError, match="nothing"):
            client.ask("load", name="nothing")
    assert mind(daemon)["nights"] == 1
    assert store(daemon).find("current").fusion()


async def test_it_asks_back_and_knows_the_answer(daemon: Daemon) -> None:
    async with daemon.async_client() as client, client.events("mind.question") as events:
        await events.welcome(PATIENCE_S)
        await client.ask("generate", prompt=SHORT, conversation="a")
        with anyio.fail_after(PATIENCE_S):
            asked = (await anext(aiter(events))).payload
        assert isinstance(asked, Question)
        assert (asked.reason, asked.conversation) == ("reply", "a")
        await client.control("config_set", key="generation.history_messages", value="0", save=False)
        read = [
            (await client.ask("generate", prompt=SHORT, conversation=each))["prompt_tokens"]
            for each in ("b", "a", "a")
        ]
        assert read[0] == read[2] < read[1]  # the question stands before its answer alone
        lived = (await client.ask("history", limit=4))["interactions"]
        assert [each["question"] for each in lived] == [None, None, asked.text, None]
        assert (await client.ask("gestate"))["learned"] == 4


async def test_it_asks_nobody_back_where_confidence_is_not_tracked(daemon: Daemon) -> None:
    tracked = "enable_confidence_tracking"
    async with daemon.async_client() as client, client.events("mind.question") as events:
        await events.welcome(PATIENCE_S)
        await client.control("config_set", key=tracked, value="false", save=False)
        await client.ask("generate", prompt=SHORT, conversation="a")
        await anyio.sleep(2)  # it thinks about what it heard once a second
        await client.control("config_set", key=tracked, value="true", save=False)
        await client.ask("generate", prompt=SHORT, conversation="b")
        with anyio.fail_after(PATIENCE_S):
            asked = (await anext(aiter(events))).payload
    assert isinstance(asked, Question)
    assert asked.conversation == "b"


def test_a_dream_and_what_stays_of_it(daemon: Daemon) -> None:
    with daemon.client() as client, pytest.raises(CommandError, match="nothing to dream of"):
        client.ask("dream")
    talk(daemon, TOLD[0])
    with daemon.client() as client:
        assert client.ask("dream")["interaction"] == 1
    assert [each["name"] for each in mind(daemon)["dreams"]] == ["1"]


def test_a_dream_is_heard_in_answers(runtime: Path, tiny: dict[str, Any]) -> None:
    def confidence(daemon: Daemon, *, dreams: int) -> float:
        """How sure of its first token it is, with so many dreams beside the conversation."""
        with daemon.client() as client:
            for _ in until():
                stats = client.control("stats")["agents"]["dreamer"]
                if stats["dreams_in_context"] == dreams:
                    break
            # Likeliest words, so that what is dreamt of is the same each time.
            asked = {"prompt": SHORT, "max_tokens": 1, "temperature": 0}
            found: float = client.ask("generate", **asked)["confidence"]
            return found

    # As strong as can be: so little training of so young a mind hardly steers.
    strong = {
        "core_config.valid_split_ratio": 0.0,
        "controls_config.enable_lifecycle_weighting": False,
        "controls_config.dream_memory_weight": 0.5,
    }
    file = runtime / "pairs.jsonl"
    file.write_text('{"prompt": "What is 1?", "response": "A number."}\n')
    with running(runtime, **tiny | strong) as daemon, daemon.client() as client:
        client.ask("train", epochs=8, file=str(file))
        undreamt = confidence(daemon, dreams=0)
        client.ask("dream")
        assert confidence(daemon, dreams=1) != pytest.approx(undreamt, rel=1e-4)
        client.control("config_set", key="use_scaffold_memory", value="false")
        assert confidence(daemon, dreams=0) == pytest.approx(undreamt, rel=1e-5)


def test_left_to_itself_it_asks_dreams_and_sleeps(runtime: Path) -> None:
    # A base that is unsure, but not equally of every token, finds its own thoughts strange.
    lively = tiny_models.settings(runtime, positions=128, initializer_range=0.2) | {
        "controls_config.enable_dreaming": True,
        "controls_config.dream_lifecycle_delta": 0.05,
        "controls_config.sleep_log_min": 5,
    }
    with running(runtime, packages=FIXTURES / "hasty", **lively) as daemon:
        assert daemon.logged("curiosity.asked")["reason"] == "unprompted"
        talk(daemon, *TOLD, *TOLD[:2])
        assert daemon.logged("mind.dreamt")["reason"] == "shift"
        with daemon.client() as client:
            # Without it nobody knows that it is not sure enough to learn.
            client.control("config_set", key="enable_confidence_tracking", value="false")
            client.control("config_set", key="enable_gestation", value="true")
        night = daemon.logged("night.started")
        assert (night["reason"], night["entries"]) == ("ready", 5)


def test_the_manuals_words(trained: Daemon) -> None:
    told = {
        "sleep 0.75 2.0 15": "Sleep params: conf=0.75, time_factor=2.0, log_min=15",
        "lifecycle 0.02 exponential": "Lifecycle params: capacity_factor=0.02, curve=exponential",
        "blend 0.95 0.8": "Global blend: weight_cap=0.95, base_temp=0.8",
        "temp 0.85 0.55 0.2 0.4 0.15 0.03 0.6 0.1": "Temperament params: eager=0.85, "
        "sluggish=0.55, mood_influence=0.2, curiosity_boost=0.4, restless_drop=0.15, "
        "melancholy_noise=0.03, conf_feedback_strength=0.6, smoothing_factor=0.1",
        "dream 0.15 0.12 true 0.07 0.2 12 0.6 0.04 0.9 0.15": "Dream params: swing_var=0.15, "
        "lifecycle_delta=0.12, temperament_on=True, noise_scale=0.07, memory_weight=0.2, "
        "memory_maxlen=12, prompt_weight=0.6, novelty_boost=0.04, memory_decay=0.9, "
        "prune_threshold=0.15",
    }
    for line, expected in told.items():
        done = trained.sovl("call", *line.split())
        assert expected in done.stdout, done.stderr
    refused = trained.sovl("call", "sleep", "0.95")
    assert refused.returncode != 0
    assert "sleep_conf_threshold" in refused.stderr
