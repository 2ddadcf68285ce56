"""Pre-training batches as a pure function of (seed, step, rank, world): nothing to save, nothing to skip over on resume.

Each source group is an endless virtual stream: its documents in a fresh seeded order every epoch, one behind the other. Rows of
seq_len tokens are cut from it, every token once per epoch; which group a row comes from follows the mix (section 3.1.2) in
shuffled blocks, so that how many rows a group has given before any row is a sum and not a history. Documents do not see each
other, positions restart with each document (and at the row's start), and no document is asked to predict the next one's begin.
A source with a weight of its own (`general/wiki`, see `puna.data.mix`) is a stream of its own, made of its documents alone. As
all of this is arithmetic, it can be run backwards: `TokenStream.find` says at which steps a document is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from puna.core.errors import InputError
from puna.core.rng import numpy_stream
from puna.data.mix import BLOCK, REST, row_quotas, split_key
from puna.train.packing import IGNORED, Batch, batch_from, empty_batch
from puna.train.schedule import Batching, Schedule

SourcesOf = Callable[[str], np.ndarray]  # group -> source name of each of its documents, [documents]


class Documents(Protocol):
    """What a stream reads of a token shard (`puna.data.shards.TokenShard`)."""

    tokens: np.ndarray
    ends: np.ndarray


@dataclass(frozen=True)
class Reading:
    """One stretch of a document that one row of one step reads.

    Attributes:
        step, row: optimiser step and row within it, over all ranks.
        column: place in the row of the stretch's first token.
        start, tokens: first token of the document that is read here (its begin token is 0), and how many.
        stream, epoch: key of the mix the row was drawn for, and how often that stream had been read whole before.
    """

    step: int
    row: int
    column: int
    start: int
    tokens: int
    stream: str
    epoch: int


class GroupStream:
    """The documents of one group, or some of them, as an endless sequence of tokens, readable at any place.

    Args:
        shard: tokens [N] and document ends [documents].
        seed: of the order; None keeps the order of the shard in every epoch (held-out data).
        members: indices of the documents that are in the stream, ascending; None for all.
    """

    def __init__(self, shard: Documents, seed: int | None, members: np.ndarray | None = None):
        self.tokens, self.members = shard.tokens, members
        self.ends = np.asarray(shard.ends, np.int64)
        self.starts = np.concatenate([[0], self.ends[:-1]]).astype(np.int64)
        if members is not None:
            self.starts, self.ends = self.starts[members], self.ends[members]
        self.size = int((self.ends - self.starts).sum())
        self.seed = seed
        self._orders: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Documents in the epoch's order, and where each ends in the epoch."""
        if epoch not in self._orders:
            count = len(self.ends)
            order = np.arange(count) if self.seed is None else numpy_stream(self.seed, "epoch", epoch).permutation(count)
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = order, np.cumsum((self.ends - self.starts)[order])
        return self._orders[epoch]

    def read(self, offset: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`count` tokens from `offset` on: ids, document number within this read (from 0), position within the document.

        A document that began before `offset` counts its positions from here.
        """
        ids = np.empty(count, np.int64)
        documents, positions = np.empty(count, np.int64), np.empty(count, np.int64)
        done = number = 0
        epoch, at = divmod(offset, self.size)
        while done < count:
            order, ends = self._order(epoch)
            for place in range(int(np.searchsorted(ends, at, "right")), len(order)):
                take = min(int(ends[place]) - at, count - done)
                start = int(self.ends[order[place]]) - (int(ends[place]) - at)
                ids[done : done + take] = self.tokens[start : start + take]
                documents[done : done + take] = number
                positions[done : done + take] = np.arange(take)
                done, at, number = done + take, at + take, number + 1
                if done == count:
                    break
            epoch, at = epoch + 1, 0
        return ids, documents, positions

    def offsets(self, document: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(epoch, first offset, length) of a document of the shard in every epoch that begins before offset `end`."""
        index = document if self.members is None else int(np.searchsorted(self.members, document))
        if self.members is not None and (index == len(self.members) or self.members[index] != document):
            return
        length = int(self.ends[index] - self.starts[index])
        for epoch in range(-(-end // self.size) if self.size else 0):
            order, ends = self._order(epoch)
            yield epoch, epoch * self.size + int(ends[np.flatnonzero(order == index)[0]]) - length, length


class TokenStream:
    """Batches for a schedule: `self(step)` are this rank's micro-batches, always at least one.

    Args:
        shards: token shard of each group.
        mix: weight by group, source (`group/source`) or rest of a group (`group/*`) where the schedule's batching names no mix.
        schedule: its batching says rows and row length at each step.
        seed: of document orders and of the row mix.
        micro_rows: rows of a micro-batch; None runs a rank's rows at once.
        sources: needed where a mix names sources.

    Attributes:
        names: every stream that some mix asks for; `extra["stream_B"]` of a batch holds the place of each row's stream in it.
    """

    def __init__(
        self, shards: Mapping[str, Documents], mix: Mapping[str, float], schedule: Schedule, seed: int, *,
        rank: int = 0, world: int = 1, micro_rows: int | None = None, sources: SourcesOf | None = None,
    ):  # fmt: skip
        self.groups = {name: GroupStream(shards[name], _group_seed(seed, name)) for name in sorted(shards)}
        self.schedule, self.seed, self.rank, self.world, self.micro_rows = schedule, seed, rank, world, micro_rows
        if not schedule.segments:
            raise InputError("this schedule has no batching, so there is nothing to cut rows by")
        mixes = [self._streams_of(batching.mix or mix, shards, sources) for _, batching in schedule.segments]
        self.segments = [
            _Segment(first, batching, _quotas(weights, self.groups), _group_seed(seed, f"rows-{first}"))
            for (first, batching), weights in zip(schedule.segments, mixes, strict=True)
        ]
        self.bases = self._bases()
        self.names = sorted({name for segment in self.segments for name in segment.names})
        self._numbers = {name: number for number, name in enumerate(self.names)}

    def _streams_of(
        self, mix: Mapping[str, float], shards: Mapping[str, Documents], sources: SourcesOf | None
    ) -> dict[str, float]:
        """Weight by stream; streams of single sources are made where the mix names them."""
        found = {}
        for key, weight in mix.items():
            group, source = split_key(key)
            name = key
            if source is not None and group in shards:
                if sources is None:
                    raise InputError(f"the mix names the source '{key}' and these shards do not say their sources",
                                     fix="run `data.shards` again, or weigh groups only")  # fmt: skip
                named = sorted(s for g, s in map(split_key, mix) if g == group and s not in (None, REST))
                inside = ~np.isin(sources(group), named) if source == REST else sources(group) == source
                name = f"{key} without {', '.join(named)}" if source == REST else key  # what the rest is differs between mixes
                if name not in self.groups:
                    self.groups[name] = GroupStream(shards[group], _group_seed(self.seed, name), np.flatnonzero(inside))
            found[name] = weight
        return found

    def _bases(self) -> list[dict[str, int]]:
        """Tokens each group has given before each segment."""
        bases = [dict.fromkeys(self.groups, 0)]
        for segment, after in zip(self.segments[:-1], self.segments[1:], strict=True):
            rows = (after.first - segment.first) * segment.batching.rows
            bases.append({
                name: base + segment.rows_before(name, rows) * segment.batching.seq_len for name, base in bases[-1].items()
            })  # fmt: skip
        return bases

    def __call__(self, step: int) -> list[Batch]:
        """Micro-batches of `step` for this rank."""
        at = max(i for i, segment in enumerate(self.segments) if segment.first <= step)
        segment, base = self.segments[at], self.bases[at]
        rows, length = segment.batching.rows, segment.batching.seq_len
        first = (step - segment.first) * rows
        mine = range(first + rows * self.rank // self.world, first + rows * (self.rank + 1) // self.world)
        micro = self.micro_rows or rows
        parts = [mine[i : i + micro] for i in range(0, len(mine), micro)]
        return [self._batch(segment, base, part) for part in parts] or [empty_batch(1, length)]

    def _batch(self, segment: _Segment, base: dict[str, int], rows: range) -> Batch:
        length = segment.batching.seq_len
        places = [segment.place(row) for row in rows]
        batch = batch_of([self.groups[name].read(base[name] + before * length, length + 1) for name, before in places])
        batch.extra["stream_B"] = torch.tensor([self._numbers[name] for name, _ in places])
        return batch

    def group_of(self, step: int) -> list[str]:
        """The group of each row of `step`, over all ranks; of a source with its own weight, its key in the mix."""
        segment = [s for s in self.segments if s.first <= step][-1]
        first = (step - segment.first) * segment.batching.rows
        return [segment.place(row)[0] for row in range(first, first + segment.batching.rows)]

    def find(self, group: str, document: int) -> list[Reading]:
        """Every row that reads tokens of a document, in order: the stream's arithmetic backwards, no batch is made.

        Args:
            group, document: shard, and index of the document in it.
        Returns: readings by step and row. A row reads its seq_len inputs; the first input of the next row is its last target.
        """
        found: list[Reading] = []
        for name, stream in self.groups.items():
            if split_key(name)[0] != group:
                continue
            reads = self._reads_of(name)
            for epoch, offset, length in stream.offsets(document, max((end for _, _, end in reads), default=0)):
                for segment, base, end in reads:
                    found += segment.readings(name, epoch, offset, length, base, end)
        return sorted(found, key=lambda reading: (reading.step, reading.row, reading.column))

    def _reads_of(self, name: str) -> list[tuple[_Segment, int, int]]:
        """(segment, first offset, offset after the last) of one stream's tokens, for each segment that reads some."""
        found = []
        lasts = [*(segment.first for segment in self.segments[1:]), self.schedule.steps]
        for segment, base, last in zip(self.segments, self.bases, lasts, strict=True):
            rows = segment.rows_before(name, (last - segment.first) * segment.batching.rows)
            if rows:
                found.append((segment, base[name], base[name] + rows * segment.batching.seq_len))
        return found


class _Segment:
    """A stretch of steps with one batching: which group each of its rows comes from."""

    def __init__(self, first: int, batching: Batching, quotas: dict[str, int], seed: int):
        self.first, self.batching, self.quotas, self.seed = first, batching, quotas, seed
        self.names = sorted(quotas)
        self._cached: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def shares(self) -> dict[str, float]:
        """Share of the rows each group really gets."""
        return {name: quota / BLOCK for name, quota in self.quotas.items()}

    def _block(self, block: int) -> np.ndarray:
        """Group index of each row of one block, shuffled."""
        if self._cached[0] != block:
            rows = np.repeat(np.arange(len(self.names)), [self.quotas[name] for name in self.names])
            self._cached = (block, numpy_stream(self.seed, block).permutation(rows))
        return self._cached[1]

    def rows_before(self, name: str, row: int) -> int:
        """How many of the rows before `row` come from `name`."""
        if name not in self.quotas:
            return 0
        block, within = divmod(row, BLOCK)
        return block * self.quotas[name] + int((self._block(block)[:within] == self.names.index(name)).sum())

    def place(self, row: int) -> tuple[str, int]:
        """(group of `row`, rows that group gave before it)."""
        name = self.names[self._block(row // BLOCK)[row % BLOCK]]
        return name, self.rows_before(name, row)

    def row_of(self, name: str, count: int) -> int:
        """The row before which `name` gave `count` rows and which is the next one: the inverse of `place`."""
        block, within = divmod(count, self.quotas[name])
        return block * BLOCK + int(np.flatnonzero(self._block(block) == self.names.index(name))[within])

    def readings(self, name: str, epoch: int, offset: int, length: int, base: int, end: int) -> Iterator[Reading]:
        """Rows of this segment, whose part of the stream is `base` to `end`, that read offsets `offset` to `offset + length`."""
        seq_len, at, stop = self.batching.seq_len, max(offset, base), min(offset + length, end)
        while at < stop:
            count, column = divmod(at - base, seq_len)
            take = min(seq_len - column, stop - at)
            step, row = divmod(self.row_of(name, count), self.batching.rows)
            yield Reading(self.first + step, row, column, at - offset, take, name, epoch)
            at += take


def batch_of(reads: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Batch:
    """Rows of T tokens from reads of T + 1: the last token is only a target, and targets stay within their document."""
    ids, documents, positions = (np.stack(part) for part in zip(*reads, strict=True))
    targets = np.where(documents[:, 1:] == documents[:, :-1], ids[:, 1:], IGNORED)
    return batch_from(ids[:, :-1], targets, positions[:, :-1], documents[:, :-1])


def _group_seed(seed: int, name: str) -> int:
    return int(numpy_stream(seed, "stream", name).integers(1 << 62))


def _quotas(mix: Mapping[str, float], groups: Mapping[str, GroupStream]) -> dict[str, int]:
    """Rows of each stream per block; InputError for a group of which there is nothing to read."""
    for name, weight in mix.items():
        if weight > 0 and (name not in groups or groups[name].size == 0):
            have = ", ".join(n for n, g in groups.items() if g.size) or "nothing"
            raise InputError(f"the mix asks for the group '{name}', of which there are no tokens", where=f"groups: {have}",
                             fix="leave it out of the mix, or add a source of that group")  # fmt: skip
    return row_quotas(mix)
