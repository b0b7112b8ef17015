"""Which events the code logs: read from the source itself, for docs/logging.md and its test."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

_METHODS = ("debug", "info", "warning", "error", "critical", "exception", "log")
_LOGGERS = ("log", "logger", "get_logger")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class LogEvent:
    """What the code says of one event. `open` if a line may have fields named only at run time."""

    levels: set[str] = field(default_factory=set)
    fields: list[str] = field(default_factory=list)
    open: bool = False

    def note(self, call: ast.Call, method: str) -> None:
        """Add what one call of a logger says."""
        self.levels.add({"exception": "error", "log": "any"}.get(method, method))
        names = [each.arg for each in call.keywords]
        self.open = self.open or None in names
        known = [name for name in names if name and name != "exc_info"]
        if method == "exception" or "exc_info" in names:
            known.append("exception")
        self.fields += [name for name in known if name not in self.fields]


def log_events(modules: Iterable[ast.Module]) -> dict[str, LogEvent]:
    """Every event that these modules log, by name."""
    found: dict[str, LogEvent] = {}
    for module in modules:
        for function in ast.walk(module):
            if isinstance(function, Function):
                for call, method in _log_calls(function):
                    for name in _event_names(call.args[method == "log"], function, module):
                        found.setdefault(name, LogEvent()).note(call, method)
    return dict(sorted(found.items()))


def name_of(expression: ast.AST) -> str:
    """The last name of `a.b.c` or `c`; empty for anything else."""
    return str(getattr(expression, "attr", "") or getattr(expression, "id", ""))


def _log_calls(function: Function) -> Iterator[tuple[ast.Call, str]]:
    for call in ast.walk(function):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            owner = call.func.value
            name = name_of(owner.func if isinstance(owner, ast.Call) else owner)
            if call.func.attr in _METHODS and name in _LOGGERS:
                yield call, call.func.attr


def _event_names(event: ast.expr, function: Function, module: ast.Module) -> list[str]:
    """The name itself, or what is passed for it where it is the function's parameter."""
    if isinstance(event, ast.Constant):
        return [str(event.value)]
    parameters = [each.arg for each in function.args.args if each.arg != "self"]
    if name_of(event) not in parameters:
        return []  # a line of another process that is passed on
    place = parameters.index(name_of(event))
    calls = (each for each in ast.walk(module) if isinstance(each, ast.Call))
    passed = (each.args[place] for each in calls if name_of(each.func) == function.name)
    return [str(each.value) for each in passed if isinstance(each, ast.Constant)]
