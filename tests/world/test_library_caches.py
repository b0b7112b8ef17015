"""What libraries write goes where the configuration says, whatever home there is, if any."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sovl_daemon.testing import PATIENCE_S, SOVL, Daemon, until
from tests import tiny_models
from tests.integration.test_model_hub import OPEN, Hub, serving
from tests.world import situation

# A system call that makes or changes something, and the path that it names first.
_WRITES = re.compile(
    r"\b(?:open(?:at)?\((?:AT_FDCWD, )?\"(?P<opened>[^\"]+)\", [^)]*O_(?:WRONLY|RDWR|CREAT)"
    r"|(?:mkdir|rename|unlink|symlink|link)(?:at2?)?\((?:AT_FDCWD, )?\"(?P<named>[^\"]+)\")"
    r".*\) = [^-]"
)
_OTHERS = ("/dev/", "/proc/", "/sys/")


class Service:
    """The `sovl` command as a service without a home runs it, within one folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.home = root, root / "home"
        self.home.mkdir()
        kept = {"PATH", "LANG", "PYTHONPATH", "OMP_NUM_THREADS"}
        self.environment = {key: value for key, value in os.environ.items() if key in kept} | {
            "HOME": str(self.home),
            "TMPDIR": str(root / "tmp"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "XDG_CONFIG_HOME": str(root / "config"),
            "SOVL_STORE__CACHE_DIR": str(root / "cache"),
            "SOVL_STORE__STATE_DIR": str(root / "state"),
            "SOVL_BUS__RUNTIME_DIR": str(root / "run"),
        }
        (root / "tmp").mkdir()

    def run(self, *words: str, wrapper: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*wrapper, *SOVL, *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stderr
        return done

    def strays(self) -> list[str]:
        """What lies in the home, which nobody may have written to."""
        return [str(path) for path in self.home.rglob("*")]


@pytest.fixture
def service(runtime: Path) -> Service:
    return Service(runtime)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    files = tiny_models.save(tiny_models.llama(), tmp_path / "repository")
    with serving(type("OneHub", (Hub,), {"files": files, "asked": set()})) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@situation("huggingface/datasets#1581", "Without a home a hub's model goes into our cache.")
def test_a_hub_s_model_for_a_service_without_a_home(service: Service, hub: str) -> None:
    service.environment["HF_ENDPOINT"] = hub
    service.run("model", "pull", OPEN)
    assert service.strays() == []
    fetched = service.root / "cache" / "libraries" / "huggingface" / "hub"
    assert list(fetched.glob("models--*/snapshots/*/config.json"))
    service.environment["HF_HOME"] = str(service.root / "mine")
    service.run("model", "pull", OPEN, "--force")
    assert list((service.root / "mine" / "hub").glob("models--*"))


@situation("matplotlib/matplotlib#20122", "A service without a home draws a picture, unwarned.")
def test_a_picture_without_a_home(service: Service) -> None:
    done = service.run("mind", "simulate", "--hours", "1", "--plot", str(service.root / "day.png"))
    assert service.strays() == []
    assert "matplotlib" not in done.stderr.lower()
    assert (service.root / "cache" / "libraries" / "matplotlib").is_dir()


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@situation("own", "Start, pull, eval and a picture write nowhere but into the daemon's folders.")
def test_what_the_commands_write(service: Service, hub: str) -> None:
    service.environment["HF_ENDPOINT"] = hub
    record = service.root / "strace"
    # -D: the traced command is our child, so that a signal reaches it.
    tracing = ("strace", "-D", "-f", "-qq", "-s", "300", "-e", "trace=file", "-o", str(record))
    ours = (str(service.root), *_OTHERS)
    commands = (
        ("model", "pull", OPEN),
        ("model", "eval", "owner--mind", "--windows", "1", "--precision", "fp16"),
        ("mind", "simulate", "--hours", "1", "--plot", str(service.root / "day.svg")),
    )
    seen = []
    for words in commands:
        service.run(*words, wrapper=tracing)
        wait_for_tracer(record)
        seen += written(record, _OTHERS)
        assert written(record, ours) == []
    assert seen
    models = {"core_config.base_model_name": OPEN, "core_config.scaffold_model_name": OPEN}
    short = {"generation.system_prompt": "", "core_config.cross_attn_layers": [0, 1]}
    daemon = Daemon(service.root, wrapper=tracing, **models, **short)
    daemon.environment = service.environment
    daemon.start()
    try:
        daemon.wait()
        with daemon.client() as client:
            client.ask("generate", prompt="Hi!", max_tokens=2)
            client.ask("int8")
    finally:
        daemon.stop()
    wait_for_tracer(record)
    assert written(record, ours) == []
    assert service.strays() == []


def wait_for_tracer(record: Path) -> None:
    """It outlives what it traced by a moment, and has not written all it saw before its end."""
    for _ in until():
        running = psutil.process_iter(["cmdline"])
        if not any(str(record) in (each.info["cmdline"] or ()) for each in running):
            return
    raise AssertionError("strace did not end")


def written(record: Path, ours: tuple[str, ...]) -> list[str]:
    """The paths outside our folders that a traced command made, changed or removed."""
    found = (_WRITES.search(line) for line in record.read_text(errors="replace").splitlines())
    paths = {match["opened"] or match["named"] for match in found if match}
    return sorted(path for path in paths if path.startswith("/") and not path.startswith(ours))


@situation("kserve/kserve#3576", "A cache that the user chose, and a login at the hub, stay.")
def test_a_user_s_own_choice_and_login_stay(tmp_path: Path) -> None:
    token = tmp_path / ".cache" / "huggingface" / "token"
    token.parent.mkdir(parents=True)
    token.write_text("secret")
    asked = (
        "import os; from config import Paths, Settings\n"
        "from sovl_daemon.library_caches import use_library_caches\n"
        "use_library_caches(Paths.of(Settings()))\n"
        "print(os.environ['MPLCONFIGDIR'], os.environ['HF_TOKEN_PATH'], os.environ['TORCH_HOME'])"
    )
    environment = {"HOME": str(tmp_path), "CACHE_DIRECTORY": "/c", "MPLCONFIGDIR": "/mine"}
    found = subprocess.run(
        [sys.executable, "-c", asked],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    ).stdout.split()
    assert found == ["/mine", str(token), "/c/libraries/torch"]
