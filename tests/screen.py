"""A terminal, and what shows on it."""

import os
import pty
import subprocess
import threading

from sovl_daemon.testing import SOVL, Daemon, until


class Screen:
    """Reads a terminal in the background, as someone who looks at it would."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self.text = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while data := os.read(self._terminal, 65536):
                self.text += data.decode(errors="replace")
        except OSError:
            return  # closed at the other end

    def wait_for(self, text: str) -> None:
        for _ in until():
            if text in self.text:
                return
        raise AssertionError(f"{text!r} never showed:\n{self.text[-2000:]}")


class Terminal:
    """A console in a terminal of its own."""

    def __init__(self, daemon: Daemon) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [*SOVL, "console"],
            env={**daemon.environment, "TERM": "dumb"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        self.screen = Screen(self._ours)

    def type(self, line: str) -> None:
        os.write(self._ours, f"{line}\r".encode())
