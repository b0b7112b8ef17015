"""Noticing that an answer has begun to say the same again.

The rule is SOVL's: two adjacent equal n-grams, of three tokens by default. It goes by token ids
alone and looks at nothing but the answer, so a prompt may be repeated, and so may any words that
others stand between. What says the same twice in a row on purpose is met by it all the same, such
as the zeros of 1000000 where each digit is a token, or the dashes of a table; the setting
`enable_repetition_check` is there to turn it off.
"""

from collections import deque

from sovl_daemon.engine.errors import OptionError


class Repetition:
    """Follows one answer, a token at a time, in constant time and memory.

    Raises:
        OptionError: `n` is below 1.

    """

    def __init__(self, n: int = 3) -> None:
        if n < 1:
            raise OptionError(f"n {n} is not allowed: give an n-gram's length, 1 or more")
        self._last: deque[int] = deque(maxlen=n)
        self._n = n
        self._repeated = 0

    @property
    def repeated(self) -> int:
        """How many tokens at the end of the answer equal those `n` before them.

        After `push` said True, that many are to be dropped, so that what was said twice stands
        once; `n` of them if the answer is stopped at once. Below `n` they are tokens that the next
        ones may show to be a repetition: a stream that must not take back a word holds them.
        """
        return self._repeated

    def push(self, token_id: int) -> bool:
        """Add the answer's next token; tell whether the last `n` equal the `n` before them."""
        same = len(self._last) == self._n and self._last[0] == token_id
        self._repeated = self._repeated + 1 if same else 0
        self._last.append(token_id)
        return self._repeated >= self._n
