"""The running rows as columns: one numpy array per property, so that a decode step does no Python work per row."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from puna.infer.pages import PADDING_PAGE
from puna.infer.scheduler import Group

NO_TOKEN = -1
FIRST_WIDTH = 64  # columns of `output` at the start; doubled when a row needs more


@dataclass
class Rows:
    """R samples that have their prompt in the cache and at least one token written.

    Attributes:
        request, index: whose sample this is.
        length: tokens in the cache; token: the newest token, not in the cache yet; count: tokens written so far.
        limit: most tokens the sample may write; key: of its random numbers; logprob: sum over its tokens.
        table: [R, W] pages; pages: how many of W are the row's; output: [R, L] tokens; stops: [R, Z] its own stop tokens.
        shaper: of its logits, or None. group: whom it started with, which knows the prompt.
        sees: whether its prompt shows media. judged: whether more is told of its tokens than their sum; drafted: tokens that a
            draft model has in its cache too.
    """

    request: np.ndarray
    index: np.ndarray
    length: np.ndarray
    token: np.ndarray
    count: np.ndarray
    limit: np.ndarray
    key: np.ndarray
    temperature: np.ndarray
    top_p: np.ndarray
    logprob: np.ndarray
    pages: np.ndarray
    table: np.ndarray
    output: np.ndarray
    stops: np.ndarray
    shaper: np.ndarray
    group: np.ndarray
    sees: np.ndarray
    judged: np.ndarray
    drafted: np.ndarray

    def __len__(self) -> int:
        return len(self.request)

    def select(self, which: np.ndarray) -> Rows:
        """Rows picked by a boolean or integer array."""
        return Rows(*(getattr(self, f.name)[which] for f in fields(self)))

    def extend(self, other: Rows) -> Rows:
        """These rows, then the other's; the narrower of two tables is padded."""
        if not len(self):
            return other
        return Rows(*(_join(getattr(self, f.name), getattr(other, f.name), _PADDING.get(f.name, 0)) for f in fields(self)))

    def append(self, tokens: np.ndarray, logprobs: np.ndarray, at: np.ndarray | slice = slice(None)) -> None:
        """Write one more token to every row, or to those numbered `at`."""
        self.widen(1)
        self.output[np.arange(len(self))[at], self.count[at]] = tokens
        self.token[at] = tokens
        self.count[at] += 1
        self.logprob[at] += logprobs

    def widen(self, more: int) -> None:
        """Make room for `more` tokens in every row."""
        width = self.output.shape[1]
        if len(self) and self.count.max() + more > width:
            self.output = _padded([self.output, np.zeros((0, max(2 * width, width + more)), np.int64)], NO_TOKEN)

    def add_pages(self, more: np.ndarray, pages: np.ndarray) -> None:
        """Give each row `more` further pages (int64 [R]), in order from `pages`."""
        width = int((self.pages + more).max(initial=0))
        if width > self.table.shape[1]:
            self.table = _padded([self.table, np.zeros((0, width), np.int64)], PADDING_PAGE)
        row = np.repeat(np.arange(len(self)), more)
        place = np.arange(len(row)) - np.repeat(more.cumsum() - more, more)
        self.table[row, self.pages[row] + place] = pages
        self.pages += more

    def tokens(self, row: int) -> np.ndarray:
        """Prompt and answer of one row, int64."""
        group = self.group[row]
        prompt = group.prompt[: len(group.prompt) - len(group.written)]
        return np.concatenate((prompt, self.output[row, : self.count[row]]))

    def own_pages(self) -> np.ndarray:
        """Every page number the rows read, padding left out, shared pages once per reader."""
        return self.table[np.arange(self.table.shape[1]) < self.pages[:, None]]


_PADDING = {"table": PADDING_PAGE, "output": NO_TOKEN, "stops": NO_TOKEN}


def empty_rows() -> Rows:
    """No rows."""
    return started([])


def started(groups: list[Group]) -> Rows:
    """Rows of groups whose prompt has just been computed, with no token written but those of the prompt's end."""
    times = np.array([group.samples for group in groups], dtype=np.int64)

    def column(values: list, dtype: type) -> np.ndarray:
        return np.repeat(np.array(values, dtype=dtype), times)

    total = int(times.sum())
    return Rows(
        request=column([group.request for group in groups], np.int64),
        index=np.concatenate([np.arange(g.first, g.first + g.samples) for g in groups] or [np.zeros(0, np.int64)]),
        length=column([len(group.prompt) for group in groups], np.int64),
        token=np.zeros(total, np.int64),
        count=column([len(group.written) for group in groups], np.int64),
        limit=column([group.limit for group in groups], np.int64),
        key=np.concatenate([group.keys for group in groups] or [np.zeros(0, np.uint64)]),
        temperature=column([group.temperature for group in groups], np.float32),
        top_p=column([group.top_p for group in groups], np.float32),
        logprob=column([group.logprob for group in groups], np.float64),
        pages=column([group.tables.shape[1] for group in groups], np.int64),
        table=_padded([group.tables for group in groups], PADDING_PAGE),
        output=np.repeat(_padded([_outputs(group) for group in groups], NO_TOKEN), times, axis=0),
        stops=np.repeat(_padded([np.array([group.stop_ids], np.int64) for group in groups], NO_TOKEN), times, axis=0),
        shaper=np.array([g.shaper and g.shaper.for_sample() for g in groups for _ in range(g.samples)], dtype=object),
        group=column(groups, object),
        sees=column([len(group.media) > 0 for group in groups], bool),
        judged=column([group.alternatives > 0 or group.prompt_logprobs for group in groups], bool),
        drafted=column([len(group.prompt) for group in groups], np.int64),
    )


def _outputs(group: Group) -> np.ndarray:
    """[1, L]: what the group has written, with room for more."""
    output = np.full((1, max(min(FIRST_WIDTH, group.limit), len(group.written) + 1)), NO_TOKEN, dtype=np.int64)
    output[0, : len(group.written)] = group.written
    return output


def _padded(tables: list[np.ndarray], fill: int) -> np.ndarray:
    width = max((table.shape[1] for table in tables), default=0)
    out = np.full((sum(len(table) for table in tables), width), fill, dtype=np.int64)
    start = 0
    for table in tables:
        out[start : start + len(table), : table.shape[1]] = table
        start += len(table)
    return out


def _join(first: np.ndarray, second: np.ndarray, fill: int) -> np.ndarray:
    if first.ndim == 1:
        return np.concatenate((first, second))
    if first.shape[1] == second.shape[1]:
        return np.concatenate((first, second))
    return _padded([first, second], fill)
