"""Packages of third parties, installed as any other is."""

import subprocess
import sys
from pathlib import Path

_FIXTURES = Path(__file__).parent / "fixtures"


def install(target: Path, *names: str) -> Path:
    """Install some of the fixtures into a folder, and return it."""
    sources = [str(_FIXTURES / name) for name in names]
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *sources], check=True)
    return target
