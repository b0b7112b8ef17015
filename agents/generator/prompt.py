"""What the engine is given to answer: the messages it sees, and how it draws the next token."""

from __future__ import annotations

from typing import TypeVar

from config import Settings
from sovl_daemon.contracts.generator import Generate
from sovl_daemon.contracts.scribe import ConversationContext
from sovl_daemon.engine.serving.options import SamplingOptions
from sovl_daemon.engine.text.message import Message

T = TypeVar("T")


def messages_of(system: str, context: ConversationContext, prompt: str) -> list[Message]:
    """What the model sees: the system prompt, the last messages, and the new prompt.

    What it asked by itself stands before what answers it.
    """
    messages = [Message("system", system)] if system else []
    for each in context.interactions:
        messages = with_question(messages, each.question)
        messages.append(Message("user", each.prompt))
        messages.append(Message("assistant", each.response))
    return [*with_question(messages, context.question), Message("user", prompt)]


def with_question(said: list[Message], question: str | None) -> list[Message]:
    """What was said, and a question of the mind's own; right after an answer it is part of it."""
    if question is None:
        return said
    if said and said[-1].role == "assistant":
        return [*said[:-1], Message("assistant", f"{said[-1].content}\n{question}")]
    return [*said, Message("assistant", question)]


def options_of(request: Generate, settings: Settings, temperature: float) -> SamplingOptions:
    """How to answer; what the request leaves out is configured. Raises OptionError."""
    defaults = settings.generation

    def chosen(value: T | None, default: T) -> T:
        return default if value is None else value

    return SamplingOptions(
        temperature=chosen(request.temperature, temperature),
        top_k=chosen(request.top_k, defaults.top_k),
        top_p=chosen(request.top_p, defaults.top_p),
        seed=chosen(request.seed, defaults.seed),
        max_new_tokens=chosen(request.max_tokens, defaults.max_new_tokens),
    )
