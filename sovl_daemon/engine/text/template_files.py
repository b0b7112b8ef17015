"""The chat template in a model's folder, read without its tokenizer or its weights."""

import json
from pathlib import Path
from typing import Any

from sovl_daemon.engine.errors import TemplateError, first_line
from sovl_daemon.engine.text.chat_template import ChatTemplate, chat_template


def template_in(folder: Path) -> ChatTemplate:
    """Return how the model in `folder` is talked with.

    Raises:
        TemplateError: its template cannot be used, or its files cannot be read.

    """
    try:
        config = _json(folder / "special_tokens_map.json") | _json(folder / "tokenizer_config.json")
        named = config.get("chat_template")
        if isinstance(named, list):
            named = {each["name"]: each["template"] for each in named}
        single = folder / "chat_template.jinja"
        if single.is_file():
            named = single.read_text(encoding="utf-8")
        more = sorted((folder / "additional_chat_templates").glob("*.jinja"))
        if more:
            default = {"default": named} if isinstance(named, str) else named or {}
            named = default | {each.stem: each.read_text(encoding="utf-8") for each in more}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TemplateError(f"its files cannot be read ({first_line(error)})") from error
    return chat_template(named, _special_tokens(config))


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """Tokens stand there as text, or as an object with their text."""
    found = {}
    for name, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found
