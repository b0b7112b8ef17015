"""What ./scripts/bench offers is there."""

import ast

import pytest
from bench import MODULES, NAMES

from tests.unit.test_docs import ROOT


@pytest.mark.parametrize("module", MODULES)
def test_every_name_stands_for_one_that_can_be_run(module: str) -> None:
    source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text()
    functions = [each for each in ast.parse(source).body if isinstance(each, ast.FunctionDef)]
    assert "run" in [each.name for each in functions]


def test_no_name_is_given_twice() -> None:
    assert len(NAMES) == len(MODULES)
