"""What is imported for good is not collected; what comes later is."""

import gc
import subprocess
import sys
import weakref

import pytest

from sovl_daemon.heavy_imports import heavy_imports


class Ring:
    def __init__(self) -> None:
        self.own = self


def test_what_was_there_is_left_alone_and_what_comes_later_is_collected() -> None:
    try:
        with heavy_imports():
            assert not gc.isenabled()
            before = Ring()
        after = Ring()
        kept, gone = weakref.ref(before), weakref.ref(after)
        del before, after
        gc.collect()
        assert gc.isenabled()
        assert kept() is not None
        assert gone() is None
    finally:
        gc.unfreeze()


def test_an_import_that_fails_leaves_the_collector_on() -> None:
    try:
        with pytest.raises(ModuleNotFoundError), heavy_imports():
            import no_such_module  # noqa: F401
        assert gc.isenabled()
    finally:
        gc.unfreeze()


def test_the_model_host_never_walks_over_torch_again() -> None:
    script = (
        "import gc\n"
        "from agents.generator.loading import _import_engine, _import_fusion\n"
        "_import_engine(); _import_fusion(); print(len(gc.get_objects()))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert int(found.stdout) < 10_000, found.stderr
