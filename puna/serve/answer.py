"""From tokens to text while they arrive: incomplete characters and possible stop strings are held back until they are decided.

A token may end in the middle of a character, and a stop string may begin in one token and end in another. What `push` returns can
therefore always be shown: it is never taken back.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from puna.tokenizer.bpe import Tokenizer


class AnswerStream:
    """The text of one answer as it grows.

    Args:
        tokenizer: decodes the ids.
        stops: strings at which the text ends; they are left out of it.
        calls: whether <|python_tag|> opens a tool call, or is dropped like other special tokens (no tools were offered).

    Attributes:
        text: everything released so far.
        call: the tool call, or None if there is none.
        stopped: a stop string was found; nothing follows.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = (), *, calls: bool = True):
        self.tokenizer, self.calls = tokenizer, calls
        self.stops = tuple(stop for stop in stops if stop)
        self.text = ""
        self.call: str | None = None
        self.stopped = False
        self._held = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """Take one token (no terminator) and return the text that is now certain, often an empty string."""
        if self.stopped:
            return ""
        if self.tokenizer.is_special(token_id):
            return self._open_call() if self.calls and token_id == self.tokenizer.python_tag_id and self.call is None else ""
        return self._take(self._decoder.decode(self.tokenizer.token_bytes(token_id)))

    def finish(self) -> str:
        """The answer is over: return what was still held back."""
        new = self._take(self._decoder.decode(b"", final=True))
        return new + self._release(len(self._held))

    def _open_call(self) -> str:
        new = self.finish()
        if not self.stopped:
            self.call = ""
        self._decoder.reset()
        return new

    def _take(self, new: str) -> str:
        if self.call is not None:
            self.call += new
            return ""
        self._held += new
        found = [at for at in (self._held.find(stop) for stop in self.stops) if at >= 0]
        if found:
            self.stopped = True
            released = self._release(min(found))
            self._held = ""
            return released
        return self._release(len(self._held) - self._undecided())

    def _undecided(self) -> int:
        """Length of the longest end of the held text that could be the beginning of a stop string."""
        longest = max((len(stop) - 1 for stop in self.stops), default=0)
        for size in range(min(longest, len(self._held)), 0, -1):
            tail = self._held[-size:]
            if any(stop.startswith(tail) for stop in self.stops):
                return size
        return 0

    def _release(self, size: int) -> str:
        released, self._held = self._held[:size], self._held[size:]
        self.text += released
        return released
