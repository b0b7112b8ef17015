"""What chat templates write, asked of a process of their own."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sovl_daemon.engine.errors import TemplateError
from sovl_daemon.engine.text import template_child

_PATIENCE_S = 120.0  # by the clock, where others have the processor

Conversation = Mapping[str, Any]


def render(
    template: str, variables: Mapping[str, Any], conversations: Sequence[Conversation]
) -> list[str | TemplateError]:
    """Return what `template` writes for each conversation, or why it writes nothing.

    A conversation holds the variables that are its own, `variables` those of all.

    Raises:
        TemplateError: it never ends, or there is no process to be had.

    """
    order = {"template": template, "variables": variables, "conversations": conversations}
    command = [sys.executable, "-P", template_child.__file__]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(order),
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            cwd="/",
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TemplateError(f"it does not end within {_PATIENCE_S:.0f} s") from None
    except OSError as error:
        raise TemplateError(f"no process can be started for it ({error.strerror})") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:]
        spent = f"it takes over {template_child.CPU_S} s of processor time"
        raise TemplateError(spent if done.returncode < 0 else "".join(said) or "no answer")
    return [
        outcome["text"] if "text" in outcome else TemplateError(outcome["error"])
        for outcome in json.loads(done.stdout)
    ]
