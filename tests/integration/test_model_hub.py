"""Pulling from a hub: a small server that speaks what the hub's client asks for."""

import hashlib
import json
import os
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sovl_daemon.models import ModelStore
from sovl_daemon.testing import SOVL
from tests import tiny_models

COMMIT = "c0ffee" * 6 + "cafe"
OPEN, GATED = "owner/mind", "owner/gated"


class Hub(BaseHTTPRequestHandler):
    """Serves `files` as the repository owner/mind; owner/gated has terms to accept."""

    files: Path
    asked: set[str]
    status = 0  # what it answers to everything; 0 where it works

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        path = urlsplit(self.path).path
        routes = {
            f"/api/models/{OPEN}/revision/main": lambda: {"id": OPEN, "sha": COMMIT},
            f"/api/models/{OPEN}/tree/{COMMIT}": self.tree,
        }
        if self.status:
            self.reply(self.status, b"", {"Retry-After": "0"})
        elif path in routes:
            self.reply(200, json.dumps(routes[path]()).encode())
        elif path.startswith(f"/{OPEN}/resolve/{COMMIT}/"):
            name = path.rpartition("/")[2]
            self.asked.add(name)
            self.reply(200, (self.files / name).read_bytes(), {"X-Repo-Commit": COMMIT})
        elif GATED in path:
            self.reply(403, b"", {"X-Error-Code": "GatedRepo"})
        else:
            self.reply(404, b"", {"X-Error-Code": "RepoNotFound"})

    def tree(self):
        return [
            {
                "type": "file",
                "path": path.name,
                "size": path.stat().st_size,
                "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
            }
            for path in self.files.iterdir()
        ]

    def reply(self, status, body, headers=None):
        self.send_response(status)
        etag = f'"{hashlib.sha1(body).hexdigest()}"'
        for name, value in ({"ETag": etag, "Content-Length": len(body)} | (headers or {})).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path):
    files = tiny_models.save(tiny_models.llama(), tmp_path / "repository")
    (files / "pytorch_model.bin").write_bytes(b"a pickle")
    (files / "modeling_own.py").write_text("raise SystemExit")
    (files / "merges.txt").write_text("#version: 0.2\n")
    with serving(type("OneHub", (Hub,), {"files": files, "asked": set()})) as server:
        yield server


@contextmanager
def serving(handler):
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def pull(tmp_path):
    """Run `sovl model pull NAME --json` against a hub at a port."""

    def run(name, port):
        command = [*SOVL, "model", "pull", name, "--json"]
        settings = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path / "hf")}
        return subprocess.run(
            [*command, "--model-dir", str(tmp_path / "store")],
            env=os.environ | settings,
            capture_output=True,
            text=True,
        )

    return run


def test_weights_configuration_and_tokenizer_are_fetched_and_nothing_else(hub, pull, tmp_path):
    result = pull(OPEN, hub.server_port)
    assert result.returncode == 0, result.stderr
    store = ModelStore(tmp_path / "store")
    assert store.verify(OPEN) == []
    assert store.path(OPEN).name == "owner--mind"
    assert store.list()[0].source == f"hub:{OPEN}"
    asked = hub.RequestHandlerClass.asked
    assert {"model.safetensors", "config.json", "tokenizer.json", "merges.txt"} <= asked
    assert not {name for name in asked if name.endswith((".bin", ".py"))}
    steps = [json.loads(line) for line in result.stdout.splitlines()]
    downloaded = [step for step in steps if step.get("stage") == f"downloading {OPEN}"]
    assert max(step["done"] for step in downloaded) > 100_000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (GATED, "owner/gated is gated: accept its terms on its hub page, then log in"),
        ("owner/nobody", "the hub has no model owner/nobody that this user may read: check"),
        (
            "smollm2-135",
            "the hub has no model smollm2-135 that this user may read: check the name, or log in "
            "with: hf auth login (nearest: smollm2-135m)",
        ),
    ],
)
def test_what_the_hub_refuses_is_one_line(name, message, hub, pull, tmp_path):
    result = pull(name, hub.server_port)
    assert result.returncode == 1
    assert result.stderr.startswith(f"sovl: {message}")
    assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in (tmp_path / "store").iterdir()] == [".locks"]


def test_no_network_is_one_line(pull):
    result = pull(OPEN, port=9)
    assert result.returncode == 75
    assert result.stderr == f"sovl: the hub cannot be reached, and {OPEN} is not in its cache\n"


@pytest.mark.parametrize(("status", "code"), [(503, 75), (504, 75), (429, 75), (403, 1), (401, 1)])
def test_only_a_hub_that_may_answer_later_passes(hub, pull, status, code):
    hub.RequestHandlerClass.status = status
    result = pull(OPEN, hub.server_port)
    assert (result.returncode, len(result.stderr.splitlines())) == (code, 1), result.stderr
