"""Which changes of the code no test notices: mutants by mutmut, a score for each file.

Without FILE it takes those below, with the unit tests beside them. It works on a copy of the
checkout in a temporary folder; mutmut is installed into a folder of its own beside the caches of
the daemon. Of a file with many mutants a sample is tried, the same for the same seed.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import platformdirs

MUTMUT = "mutmut==3.8.1"
PACKAGES = ("agents", "bus", "config", "sovl_daemon")
TESTS: dict[str, tuple[str, ...]] = {
    "bus/pending_commands.py": ("test_bus_pending_commands",),
    "sovl_daemon/restart.py": ("test_restart",),
    "sovl_daemon/mind/temperament.py": ("test_mind_temperament",),
    "sovl_daemon/mind/curiosity.py": ("test_mind_curiosity",),
    "sovl_daemon/control/guard.py": ("test_control_guard",),
    "sovl_daemon/control/ladder.py": ("test_control_decider",),
    "sovl_daemon/memory/interactions.py": ("test_interactions",),
    "sovl_daemon/state/manifest.py": ("test_state_store", "test_state_damage"),
    "agents/gestation.py": ("test_gestation",),
    "agents/curiosity.py": ("test_curiosity",),
}
SURVIVED, UNTESTED = 0, 33  # what mutmut writes down of a mutant that lived

_CONFIG = """
[tool.mutmut]
source_paths = {packages}
only_mutate = ["{file}"]
also_copy = {others}
pytest_add_cli_args = ["-p", "no:cacheprovider"]
pytest_add_cli_args_test_selection = {tests}
track_dependencies = false
"""


def main() -> None:
    options = _options()
    chosen = {file: options.tests or TESTS.get(file, ()) for file in options.files or TESTS}
    if untold := [file for file, tests in chosen.items() if not tests]:
        sys.exit(f"say by --tests which unit tests are those of {', '.join(untold)}")
    mutmut = _installed()
    for file, tests in chosen.items():
        with tempfile.TemporaryDirectory(prefix="mutants") as folder:
            copy = Path(folder)
            _copy_checkout(copy)
            paths = [name if "/" in name else f"tests/unit/{name}.py" for name in tests]
            with (copy / "pyproject.toml").open("a") as config:
                config.write(_config(copy, file, paths))
            _report(file, mutmut, copy, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("mutate", description=__doc__)
    parser.add_argument("files", metavar="FILE", nargs="*", help="such as bus/pending_commands.py")
    parser.add_argument(
        "--tests", nargs="+", metavar="TEST", help="their tests, else as told below"
    )
    parser.add_argument("--most", type=int, default=60, help="mutants of a file (default: 60)")
    parser.add_argument("--minutes", type=float, default=10, help="a file's time (default: 10)")
    parser.add_argument("--seed", type=int, default=1, help="draws the sample (default: 1)")
    parser.add_argument("--show", action="store_true", help="show each mutant that lived as a diff")
    return parser.parse_args()


def _installed() -> Path:
    """The command, in an environment of its own that sees the packages of this one."""
    folder = platformdirs.user_cache_path("sovl") / "mutmut"
    command = folder / "bin" / "mutmut"
    if not command.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        packages = next(folder.glob("lib/python*/site-packages"))
        (packages / "project.pth").write_text(f"import site; site.addsitedir({_packages()!r})\n")
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", MUTMUT], check=True)
    return command


def _packages() -> str:
    return sysconfig.get_path("purelib")


def _copy_checkout(copy: Path) -> None:
    """What git knows, as it is now."""
    told = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], stdout=-1, check=True)
    for name in told.stdout.decode().splitlines():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # removed, but not yet in the index
            shutil.copy(name, copy / name)


def _config(copy: Path, file: str, tests: list[str]) -> str:
    others = [each.name for each in copy.iterdir() if each.is_dir() and each.name not in PACKAGES]
    words = {"packages": list(PACKAGES), "others": others, "tests": tests}
    return _CONFIG.format(file=file, **{key: json.dumps(value) for key, value in words.items()})


def _report(file: str, mutmut: Path, copy: Path, options: argparse.Namespace) -> None:
    _run(mutmut, copy, ["none"], minutes=options.minutes)  # makes the mutants, and runs none
    names = sorted(_codes(copy, file))
    sample = sorted(random.Random(options.seed).sample(names, min(options.most, len(names))))
    begun = time.monotonic()
    _run(mutmut, copy, sample, minutes=options.minutes)
    codes = {name: code for name, code in _codes(copy, file).items() if code is not None}
    count = Counter(code in (SURVIVED, UNTESTED) for code in codes.values())
    score = 100 * count[False] / max(1, len(codes))
    print(
        f"{file}: {score:.0f} % ({count[False]} of {len(codes)} killed; {len(names)} in the file; "
        f"{time.monotonic() - begun:.0f} s)",
        flush=True,
    )
    for name in sorted(name for name, code in codes.items() if code in (SURVIVED, UNTESTED)):
        print(f"  lived: {name}", flush=True)
        if options.show:
            print("".join(_diff(mutmut, copy, name)), flush=True)


def _run(mutmut: Path, copy: Path, mutants: list[str], *, minutes: float) -> None:
    """Try these mutants one after another, until they or the time are over."""
    words = [mutmut, "run", "--max-children", "1", *mutants]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (copy / "output").open("w") as output, suppress(subprocess.TimeoutExpired):
        subprocess.run(
            words, cwd=copy, env=quiet, stdout=output, stderr=output, timeout=60 * minutes
        )


def _codes(copy: Path, file: str) -> dict[str, int | None]:
    meta = copy / "mutants" / f"{file}.meta"
    if not meta.exists():
        sys.exit(f"{file}: no mutants\n{(copy / 'output').read_text()[-2000:]}")
    found: dict[str, int | None] = json.loads(meta.read_text())["exit_code_by_key"]
    return found


def _diff(mutmut: Path, copy: Path, name: str) -> Iterator[str]:
    shown = subprocess.run([mutmut, "show", name], cwd=copy, capture_output=True, text=True)
    return (f"    {line}\n" for line in shown.stdout.splitlines() if line[:1] in "+-@")


if __name__ == "__main__":
    main()
