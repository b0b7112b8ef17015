"""A Python of its own for what is only compared with: nothing of it comes into ours."""

import os
import subprocess
import venv
from collections.abc import Mapping
from pathlib import Path

HOME = Path(__file__).parents[1] / ".venv-bench"
PYTHON = HOME / "bin" / "python"


def install(*arguments: str) -> None:
    """Install by pip into that Python, which is made on first use."""
    if not PYTHON.exists():
        venv.create(HOME, with_pip=True)
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, *arguments], check=True)


def environment() -> Mapping[str, str]:
    """What it is run in: it does not see our packages."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
