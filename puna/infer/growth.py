"""Pages for answers that grow, and who makes room when there are none.

Under `optimistic` admission a row takes a page when it needs one. When none is left, whoever arrived last gives its pages back
and goes to the front of the queue with what it has written; later its prompt and answer are computed again, as one prompt. Random
numbers belong to positions, so it goes on as if nothing had happened. The oldest row never makes room for another, and no request
is let in that does not fit alone, so there is always one that comes to its end.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from puna.infer.pages import page_keys
from puna.infer.rows import Rows
from puna.infer.scheduler import Group, Scheduler


class Growth:
    """Gives rows their pages and takes them back.

    Attributes:
        preemptions: how often a row or a waiting prompt had to make room.
    """

    def __init__(self, scheduler: Scheduler):
        self.scheduler, self.pool, self.page_size = scheduler, scheduler.pool, scheduler.page_size
        self.preemptions = 0

    def grow(self, rows: Rows) -> Rows:
        """Every row that is left has a page for its next token."""
        while (missing := self._missing(rows, 0)).sum() > self.pool.free:
            rows = self._make_room(rows)
        self._give(rows, missing)
        return rows

    def room(self, rows: Rows, ahead: np.ndarray) -> np.ndarray:
        """How many of `ahead` further tokens (int64 [R]) each row has place for, with pages taken if they are free."""
        missing = self._missing(rows, ahead)
        if missing.sum() <= self.pool.free:
            self._give(rows, missing)
        return np.clip(rows.pages * self.page_size - 1 - rows.length, 0, ahead)

    def release(self, rows: Rows) -> None:
        """Give the rows' pages back; what is full of tokens can be found again."""
        if self.scheduler.prefix_cache:
            for row in range(len(rows)):
                self._name(rows, row)
        self.pool.release(rows.own_pages())

    def _missing(self, rows: Rows, ahead: np.ndarray | int) -> np.ndarray:
        return np.maximum((rows.length + ahead) // self.page_size + 1 - rows.pages, 0)

    def _give(self, rows: Rows, missing: np.ndarray) -> None:
        if count := int(missing.sum()):
            rows.add_pages(missing, self.pool.take(count))

    def _make_room(self, rows: Rows) -> Rows:
        """Rows without the latest arrival, unless that is a prompt still being computed, which leaves instead."""
        self.preemptions += 1
        last = int(np.lexsort((rows.index, rows.request))[-1])
        group = max(self.scheduler.prefilling, key=lambda group: group.arrival, default=None)
        if group is not None and group.arrival > (int(rows.request[last]), int(rows.index[last])):
            self.scheduler.leave(group)
            group.made_room = True
            self.scheduler.waiting.appendleft(group)
            return rows
        self.scheduler.waiting.appendleft(_interrupted(rows, last))
        self.release(rows.select(np.array([last])))
        return rows.select(np.arange(len(rows)) != last)

    def _name(self, rows: Rows, row: int) -> None:
        """Make the full pages of an answer findable; those of its prompt are."""
        tokens = rows.tokens(row)[: min(int(rows.length[row]), int(rows.drafted[row]))]
        known = rows.group[row].keys_of_pages[: len(tokens) // self.page_size]
        keys = page_keys(tokens, self.page_size, known, rows.group[row].media_keys)
        self.pool.name(keys[len(known) :], rows.table[row, len(known) : len(keys)])


def _interrupted(rows: Rows, row: int) -> Group:
    """A row as a group of its own whose prompt ends with its answer so far."""
    return replace(
        rows.group[row], first=int(rows.index[row]), samples=1, prompt=rows.tokens(row), keys=rows.key[row : row + 1].copy(),
        written=rows.output[row, : rows.count[row]].copy(), logprob=float(rows.logprob[row]), made_room=True,
        prompt_logprobs=False, prompt_values=[], tables=np.zeros((0, 0), np.int64), done=0,
        keys_of_pages=list(rows.group[row].keys_of_pages),
    )  # fmt: skip
