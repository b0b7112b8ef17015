"""A terminal, and what shows on it."""

import os
import threading

from tests.daemon import until


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
        for _ in until(30):
            if text in self.text:
                return
        raise AssertionError(f"{text!r} never showed:\n{self.text[-2000:]}")
