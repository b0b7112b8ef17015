"""The console: a conversation, with history, completion, streaming and commands."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory
from prompt_toolkit.patch_stdout import patch_stdout

from bus.caller import Call
from bus.commands import Reply
from bus.envelope import new_id
from bus.errors import CANCELLED, CommandError
from bus.topics import QUESTION, Question
from config import Paths, load
from sovl_daemon.cli import exits, render, typed
from sovl_daemon.cli.progress import counted, is_counted
from sovl_daemon.cli.words import arguments_of, parse_line
from sovl_daemon.client import AsyncClient, ClientError
from sovl_daemon.conditions import in_words
from sovl_daemon.contracts.hub import (
    CommandList,
    DaemonStats,
    DaemonStatus,
    ListCommands,
    Ping,
    SettingsChanged,
    ShownConfig,
)

OWN = {
    "help": "Show this list.",
    "new": "Start a new conversation.",
    "quit": "Leave the console; the daemon goes on.",
    "exit": "The same as quit.",
}
VIEWS: dict[str, tuple[type[Reply], Callable[[Any], None]]] = {
    "status": (DaemonStatus, render.status),
    "stats": (DaemonStats, render.stats),
    "config": (ShownConfig, render.settings),
    "config_set": (SettingsChanged, render.setting_changed),
}


class Leave(Exception):
    """The user is done."""


class Console:
    """One conversation. A line is a command if its first word is one, else a prompt."""

    def __init__(self, client: AsyncClient, listed: CommandList) -> None:
        self._client = client
        self._asked = {spec.name: spec for spec in listed.commands}
        self._control = {spec.name: spec for spec in listed.control}
        self.conversation = new_id()
        self._reading = False
        self._questions: list[Question] = []

    @property
    def words(self) -> list[str]:
        """All first words that are commands."""
        return sorted({*OWN, *self._asked, *self._control})

    async def do(self, line: str) -> None:
        """Act on one line. Raises Leave at the end, CommandError and ClientError."""
        word, _, rest = line.strip().partition(" ")
        if word in OWN and not rest:
            self._own(word)
        elif word in self._asked:
            spec = self._asked[word]
            await self._ask(word, **parse_line(rest.strip(), arguments_of(spec)))
        elif word in self._control and (not rest or word in ("config", "pause", "resume")):
            await self._ask_hub(word, rest.strip())
        elif word:
            await self._ask("generate", prompt=line.strip())

    def hear(self, question: Question) -> None:
        """Show a question of SOVL's own, if it asks here; never in the middle of an answer."""
        if question.conversation not in (None, self.conversation):
            return
        self._questions.append(question)
        if self._reading:
            self._show_questions()

    async def next_line(self, read: Callable[[], Awaitable[str]]) -> str:
        """Wait for a line; meanwhile SOVL may ask something."""
        self._show_questions()
        self._reading = True
        try:
            return await read()
        finally:
            self._reading = False

    def _show_questions(self) -> None:
        for question in self._questions:
            why = "asks back" if question.reason == "reply" else "wonders"
            render.console.print(f"[italic cyan]SOVL {why}: {render.escape(question.text)}[/]")
        self._questions.clear()

    def _own(self, word: str) -> None:
        if word in ("quit", "exit"):
            raise Leave
        if word == "new":
            previous, self.conversation = self.conversation, new_id()
            render.console.print(f"New conversation: {self.conversation} (Previous: {previous})")
        if word == "help":
            specs = [*self._asked.values(), *self._control.values()]
            lines = {spec.name: spec.help for spec in specs} | OWN
            render.facts(sorted(lines.items()))
            render.console.print("Anything else is a prompt.")

    async def _ask(self, name: str, /, **args: Any) -> None:
        if "conversation" in self._asked[name].arguments.get("properties", {}):
            args.setdefault("conversation", self.conversation)
        async with self._client.call(name, args) as call:
            with _cancelled_by_ctrl_c(call), counted(render.console) as shown:
                streamed = ""
                steps = 0
                async for step in call:
                    steps += is_counted(step)
                    if shown(step):
                        continue
                    if "text" in step:
                        streamed = step["text"]
                        sys.stdout.write(streamed)
                        sys.stdout.flush()
                    elif "waiting" in step:
                        render.console.print(f"[dim]{render.escape(step['waiting'])} …[/]")
                result = await call.result()
        if streamed and not streamed.endswith("\n"):
            sys.stdout.write("\n")
        if steps or not streamed:  # else the answer is what was streamed
            render.told(result)

    async def _ask_hub(self, name: str, rest: str) -> None:
        key, _, value = rest.partition(" ")
        if name == "config" and value:
            args: dict[str, Any] = {"key": key, "value": value.strip()}
            name = "config_set"
        else:
            args = parse_line(rest, arguments_of(self._control[name]))
        answer = await self._client.control(name, **args)
        if name in VIEWS:
            reply, view = VIEWS[name]
            view(reply.model_validate(answer))
        else:
            render.facts(answer.items())


@contextmanager
def _cancelled_by_ctrl_c(call: Call) -> Iterator[None]:
    """Ctrl-C stops the answer, not the console."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, call.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def run_console(client: AsyncClient) -> None:
    """Talk until the user leaves."""
    console = Console(client, await client.control(ListCommands()))
    if not sys.stdin.isatty():
        await _converse(console, partial(_piped, client.max_message_bytes))
        return
    pong = await client.control(Ping())
    render.console.print(f"SOVL is {pong.state}. Type help for commands, quit to leave.")
    async with _hearing(client, console):
        history = _History(Paths.of(load()).state_dir / "console_history")
        await _converse(console, _typed(history, console.words))


async def _converse(console: Console, read: Callable[[], Awaitable[str]]) -> None:
    while True:
        try:
            await console.do(await console.next_line(read))
        except KeyboardInterrupt:
            continue  # Ctrl-C at the prompt clears the line
        except (EOFError, Leave):
            return
        except CommandError as error:
            if error.code == CANCELLED:
                render.console.print("\n[dim]cancelled[/]")
            else:
                exits.complain(error)
        except ClientError as error:
            exits.complain(error)


@asynccontextmanager
async def _hearing(client: AsyncClient, console: Console) -> AsyncIterator[None]:
    """Let the console show what SOVL asks by itself."""

    async def follow() -> None:
        async with client.events(QUESTION) as events:
            async for event in events:
                if isinstance(event.payload, Question):
                    console.hear(event.payload)

    task = asyncio.create_task(follow())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


class _History(FileHistory):
    """What was typed, also in earlier consoles; of this one alone where the file cannot be used."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._is_told = False

    def load_history_strings(self) -> Iterable[str]:
        """Return the lines of earlier consoles, the last one first."""
        with self._told():
            return [*super().load_history_strings()]
        return []

    def store_string(self, string: str) -> None:
        """Append a line to the file."""
        with self._told():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            super().store_string(string)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Go on without what the system refuses, and say so once."""
        try:
            yield
        except OSError as error:
            if not self._is_told:
                exits.complain(f"{in_words(error)}: this history is not kept")
            self._is_told = True


def _typed(history: _History, words: list[str]) -> Callable[[], Awaitable[str]]:
    session: PromptSession[str] = PromptSession(
        history=history,
        completer=WordCompleter(words, sentence=True),
        complete_while_typing=False,
    )

    async def read() -> str:
        with patch_stdout(raw=True):  # what is printed above the prompt has colours
            return await session.prompt_async("> ")

    return read


async def _piped(max_bytes: int) -> str:
    line = typed.read_line(max_bytes)
    if not line:
        raise EOFError
    return line
