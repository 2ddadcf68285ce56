"""What one annotator has decided: preference rows in a file of their own, written as they are made (paper 4.2.1).

A row is on the disk before the next comparison is shown, so a kill loses at most the one at hand; a line that a kill cut short is
taken off when the file is opened again. The row keeps what is needed to judge the judging: which candidate stood on the left,
the seed that chose it, seconds, whether the best answer was edited, and the message with which the dialog goes on.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from puna.core.errors import InputError
from puna.core.rng import python_stream
from puna.post.comparisons import Comparison
from puna.tokenizer.dialog import Candidate, MessageRow, Preference, Row, Strength, content_id

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
EDITED = 2  # place of an edited answer among a row's candidates
SKIPPED = ".skipped"  # ending of the names of the files that list what was passed over

Side = Literal["left", "right"]


class Decision(Row):
    """What the page sends. `edited` is the better answer as the annotator would have it; `follow` what is said next."""

    item: str
    side: Side
    strength: Strength
    edited: MessageRow | None = None
    follow: MessageRow | None = None
    seconds: float = Field(default=0.0, ge=0, allow_inf_nan=False)


@dataclass(frozen=True)
class Done:
    """One thing done: the comparison, the place of its line, and the one that it opened (None for none)."""

    item: str
    skipped: bool
    start: int
    follow: Comparison | None = None


class Annotations:
    """The rows of one annotator, `folder/NAME.jsonl`, and the ids passed over, `folder/NAME.skipped`.

    Raises InputError for a name that is no file name, and for a file that holds other rows.
    """

    def __init__(self, folder: Path, name: str):
        if not NAME.fullmatch(name) or name.endswith(SKIPPED):
            what = "a name is letters, digits, '.', '_' and '-', at most 40"
            raise InputError(what, where=name[:60], fix="choose another name")
        self.name = name
        self.path, self.skips = folder / f"{name}.jsonl", folder / f"{name}{SKIPPED}"
        rows = [Done(item_of(row, self.path), False, start, follow_up(row)) for start, row in _whole_lines(self.path, Preference)]
        self.done: list[Done] = []
        for start, skip in _whole_lines(self.skips, _Skip):
            self.done += rows[len(self.done) - self._skipped : skip.after]
            self.done.append(Done(skip.item, True, start))
        self.done += rows[len(self.done) - self._skipped :]

    @property
    def _skipped(self) -> int:
        return sum(done.skipped for done in self.done)

    @property
    def counts(self) -> dict[str, int]:
        """Rows written, comparisons passed over, and dialogs that go on."""
        opened = sum(done.follow is not None for done in self.done)
        return {"done": len(self.done) - self._skipped, "skipped": self._skipped, "opened": opened}

    def knows(self, item: str) -> bool:
        """Whether this comparison is decided or passed over."""
        return any(done.item == item for done in self.done)

    def open(self, comparisons: Sequence[Comparison]) -> Iterator[Comparison]:
        """What is left to do: dialogs that go on first, the last one first of all."""
        known = {done.item for done in self.done}
        follows = [done.follow for done in reversed(self.done) if done.follow is not None]
        return (comparison for comparison in [*follows, *comparisons] if comparison.id not in known)

    def decide(self, comparison: Comparison, left: int, decision: Decision, seed: int) -> Preference:
        """Write the row of a decision and return it."""
        row = preference(comparison, left, decision, self.name, seed)
        start = _append(self.path, row.model_dump(mode="json"))
        self.done.append(Done(comparison.id, False, start, follow_up(row)))
        return row

    def skip(self, item: str) -> None:
        """Pass a comparison over."""
        start = _append(self.skips, {"item": item, "after": self.counts["done"]})
        self.done.append(Done(item, True, start))

    def undo(self) -> str | None:
        """Take the last thing back and return its comparison's id; None when there is nothing."""
        if not self.done:
            return None
        last = self.done.pop()
        _cut(self.skips if last.skipped else self.path, last.start)
        return last.item


class _Skip(Row):
    item: str
    after: int


def left_of(comparison: Comparison, annotator: str, seed: int) -> int:
    """Which of the two candidates this annotator sees on the left."""
    return python_stream(seed, "left", annotator, comparison.id).randrange(2)


def preference(comparison: Comparison, left: int, decision: Decision, annotator: str, seed: int) -> Preference:
    """The row of a decision: edited over chosen over rejected."""
    chosen = left if decision.side == "left" else 1 - left
    candidates, ranking = list(comparison.candidates), [chosen, 1 - chosen]
    before, after = candidates[chosen].messages[0], decision.edited
    if after is not None and (after.content, after.tool_calls) != (before.content, before.tool_calls):
        candidates.append(Candidate(messages=[after], origin=f"annotator:{annotator}"))
        ranking = [EDITED, *ranking]
    checks: dict[str, Any] = {
        "item": comparison.id,
        "left": left,
        "order_seed": seed,
        "seconds": round(decision.seconds, 1),
    }
    if decision.follow is not None:
        checks["follow"] = decision.follow.model_dump(mode="json", exclude_none=True)
    return Preference(
        id=content_id({"item": comparison.id, "annotator": annotator, "candidates": candidates, "ranking": ranking}),
        context=comparison.context,
        tools=comparison.tools,
        candidates=candidates,
        ranking=ranking,
        strength=decision.strength,
        kind="human",
        provenance=comparison.provenance.model_copy(update={"judge": annotator, "checks": checks}),
    )


def follow_up(row: Preference) -> Comparison | None:
    """The comparison that a row opens: its context, its best answer, and what was said next; None if nothing was."""
    said = row.provenance.checks.get("follow")
    if not said:
        return None
    context = [*row.context, *row.candidates[row.ranking[0]].messages, MessageRow.model_validate(said)]
    provenance = row.provenance.model_copy(update={"judge": None, "checks": {}, "parents": [row.id]})
    return Comparison(content_id({"context": context, "tools": row.tools}), context, row.tools, (), provenance)


def item_of(row: Preference, path: Path) -> str:
    """The comparison that a row decides; InputError for a row that no annotation page wrote."""
    item = row.provenance.checks.get("item")
    if row.kind != "human" or not isinstance(item, str):
        raise InputError("this file holds rows that no annotation page wrote", where=str(path), fix="choose another --out")
    return item


def _whole_lines(path: Path, cls: Any) -> Iterator[tuple[int, Any]]:
    """(place, row) of every line; a last one that was cut short is taken off the file."""
    if not path.is_file():
        return
    lines, start = path.read_bytes().splitlines(keepends=True), 0
    for number, line in enumerate(lines, start=1):
        try:
            row = cls.model_validate_json(line)
        except ValidationError as error:
            if number == len(lines) and not line.endswith(b"\n"):
                _cut(path, start)
                return
            fix = "mend that line, or choose another --out"
            raise InputError("this is no line of annotations", where=f"{path}:{number}", fix=fix) from error
        yield start, row
        start += len(line)
    if lines and not lines[-1].endswith(b"\n"):
        _write(path, b"\n")


def _append(path: Path, value: dict[str, Any]) -> int:
    """Add a line, on the disk when this returns; where it starts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    start = path.stat().st_size if path.exists() else 0
    try:
        _write(path, json.dumps(value, ensure_ascii=False).encode() + b"\n")
    except OSError:
        if path.exists():
            _cut(path, start)
        raise
    return start


def _write(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)
        os.fsync(file.fileno())
