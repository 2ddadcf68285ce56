"""What became of the stories: rows written as they come, and counts by generator (paper 4.2.2).

A million dialogs do not fit into memory, so of each row only the name is kept: equal dialogs are one row, and a dialog on a
prompt that models are judged by is left out, whoever thought of it (paper 5.1.4).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puna.core.intervals import wilson
from puna.post.prompts import prompt_key
from puna.post.synth.drive import Told
from puna.tokenizer.dialog import Dialog, row_line


@dataclass
class Counts:
    """One generator's items: how many passed, why others did not, and what all of them cost."""

    items: int = 0
    dialogs: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    questions: int = 0
    answers: int = 0
    programs: int = 0
    read: Counter[str] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)

    def add(self, told: Told) -> None:
        self.items += 1
        self.dialogs += len(told.dialogs)
        self.reasons.update([told.reason] if told.reason is not None else [])
        self.questions += told.asks
        self.answers += told.answers
        self.programs += told.programs
        self.read.update(told.read)
        self.written.update(told.written)

    @property
    def accepted(self) -> int:
        return self.items - self.reasons.total()

    def summary(self) -> dict[str, Any]:
        """The counts, with the Wilson interval of the accepted share."""
        low, high = wilson(self.accepted, self.items)
        share = self.accepted / self.items if self.items else 0.0
        return {
            "items": self.items,
            "accepted": self.accepted,
            "accepted_share": {"accuracy": share, "low": low, "high": high, "n": self.items},
            "dialogs": self.dialogs,
            "reasons": dict(sorted(self.reasons.items())),
            "questions": self.questions,
            "answers": self.answers,
            "programs": self.programs,
            "tokens_read": self.read.total(),
            "tokens_written": self.written.total(),
        }


class Tally:
    """Writes `accepted.jsonl` and `rejected.jsonl` into a folder, and counts. A context manager.

    Args:
        generators: names in the order of the summary.
        held: names of prompts (`puna.post.prompts.prompt_key`) that are left out.
    """

    def __init__(self, folder: Path, generators: Iterable[str], held: set[str]):
        self.counts = {name: Counts() for name in generators}
        self.held, self.held_out = held, 0
        self._folder, self._files, self._seen = folder, ExitStack(), set[str]()

    def __enter__(self) -> Tally:
        names = ("accepted.jsonl", "rejected.jsonl")
        self._accepted, self._rejected = (
            self._files.enter_context((self._folder / name).open("w", encoding="utf-8", newline="\n")) for name in names
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    @property
    def rows(self) -> int:
        """Different dialogs that were written."""
        return len(self._seen) - self.held_out

    @property
    def passed(self) -> int:
        """Stories that were accepted."""
        return sum(one.accepted for one in self.counts.values())

    def add(self, told: Told) -> None:
        """Write what a story gave, or why it gave nothing."""
        self.counts[told.generator].add(told)
        if told.reason is not None:
            self._rejected.write(row_line(told))
        for row in told.dialogs:
            dialog = Dialog.model_validate(row)
            if dialog.id in self._seen:
                continue
            self._seen.add(dialog.id)
            if prompt_key(dialog.messages) in self.held:
                self.held_out += 1
            else:
                self._accepted.write(row_line(dialog))

    def tokens(self, role: str) -> tuple[int, int]:
        """Tokens that a role read and wrote, over all generators."""
        every = self.counts.values()
        return sum(one.read[role] for one in every), sum(one.written[role] for one in every)
