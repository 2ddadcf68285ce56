"""Rows of tokens out of examples: many short documents in one row, each blind to the others.

Packing is where training goes wrong in silence: documents that see their neighbours (section 3.2 of the paper masks them),
positions that run on, dialogs cut in two so that the second half has no prompt, over-long ones that vanish. So: nothing is split
or dropped here; what is too long is counted and named by whoever asked; positions restart; `documents_BT` says who sees whom.
The order of examples is a pure function of (seed, epoch) and the batch a pure function of the step.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from puna.core.errors import InputError
from puna.core.rng import numpy_stream

if TYPE_CHECKING:
    from puna.model.attention import Mask

IGNORED = -100  # target that no loss reads, the field's convention
PADDING = -1  # document id of a position that holds no token

Example = tuple[Sequence[int] | np.ndarray, Sequence[int] | np.ndarray]  # token ids, and 1 where the token is to be learnt


class Examples(Protocol):
    """Examples by number that are read when they are drawn."""

    def __len__(self) -> int:
        """How many there are, those left out included."""
        ...

    def length(self, i: int) -> int:
        """Tokens of example i, at most a row; 0 if it is left out."""
        ...

    def __getitem__(self, i: int) -> Example:
        """Example i, one that is not left out."""
        ...


class Listed:
    """A list of examples that all fit."""

    def __init__(self, examples: Sequence[Example]):
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def length(self, i: int) -> int:
        """Tokens of example i."""
        return len(self.examples[i][0])

    def __getitem__(self, i: int) -> Example:
        return self.examples[i]


@dataclass
class SharedRows:
    """Rows whose positions several processes share.

    Attributes:
        documents_BT: document of every position of the whole rows.
        queries: int64 [T], positions in the row that are here. keys: int64 [S], positions in the order in which keys come.
    """

    documents_BT: Tensor
    queries: Tensor
    keys: Tensor

    def to(self, device: str | torch.device) -> SharedRows:
        """The same on `device`."""
        return SharedRows(self.documents_BT.to(device), self.queries.to(device), self.keys.to(device))


@dataclass
class Batch:
    """Rows that go through the model together. B rows, T positions.

    Attributes:
        ids_BT: int64 token ids, 0 in padding.
        targets_BT: int64 token that follows within the same document, IGNORED where nothing is learnt.
        positions_BT: int64 position within the document.
        documents_BT: int64 document of each position, PADDING where there is none.
        weights_BT: float32 weight of each target, or None for 1.
        extra: whatever an objective wants to find again (rewards, reference log-probabilities).
        shared: where the T positions are only a part of each row, whose others are elsewhere; None for whole rows.
        blocks_BT: int64 block of each position within its document; blocks above 0 see themselves and block 0 only. None is 0.
    """

    ids_BT: Tensor
    targets_BT: Tensor
    positions_BT: Tensor
    documents_BT: Tensor
    weights_BT: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    shared: SharedRows | None = None
    blocks_BT: Tensor | None = None
    _mask: Mask | None = None
    _plain: bool | None = None
    _supervised: Tensor | None = None

    def mask(self) -> Mask | None:
        """Attention mask [B,1,T,S], or None when plain causal attention is the same because no row holds two documents."""
        if self._mask is None and not self.plain():
            from puna.model.attention import block_rule, document_rule, rule_mask

            device, (rows, queries) = self.ids_BT.device, self.ids_BT.shape
            whole = self.documents_BT if self.shared is None else self.shared.documents_BT
            own, others = (None, None) if self.shared is None else (self.shared.queries, self.shared.keys)
            rule = document_rule(whole, own, others) if self.blocks_BT is None else block_rule(whole, self.blocks_BT)
            self._mask = rule_mask(rule, rows, queries, whole.shape[1], device)
        return self._mask

    def plain(self) -> bool:
        """Whether every row is whole and holds one document at most."""
        if self._plain is None:
            documents = self.documents_BT
            alone = (documents == documents[:, :1]) | (documents == PADDING)
            self._plain = self.shared is None and self.blocks_BT is None and bool(alone.all())
        return self._plain

    def supervised(self) -> Tensor:
        """Flat indices [N] (into B*T) of the positions whose target is learnt."""
        if self._supervised is None:
            self._supervised = (self.targets_BT.reshape(-1) != IGNORED).nonzero()[:, 0]
        return self._supervised

    def tokens(self) -> int:
        """Positions that hold a token."""
        return int((self.documents_BT != PADDING).sum())

    def to(self, device: str | torch.device) -> Batch:
        """This batch on `device`; what needs a look at its values is computed before it leaves."""
        if self.ids_BT.device == torch.device(device):
            return self
        plain, supervised = self.plain(), self.supervised()
        move = {name: value.to(device) for name, value in self.extra.items()}
        weights = None if self.weights_BT is None else self.weights_BT.to(device)
        blocks = None if self.blocks_BT is None else self.blocks_BT.to(device)
        return Batch(
            self.ids_BT.to(device), self.targets_BT.to(device), self.positions_BT.to(device), self.documents_BT.to(device),
            weights, move, self.shared and self.shared.to(device), blocks, None, plain, supervised.to(device),
        )  # fmt: skip

    def rows(self, start: int, end: int) -> Batch:
        """The rows from `start` to `end` as a batch; `extra` must be per row."""
        part = slice(start, end)
        weights = None if self.weights_BT is None else self.weights_BT[part]
        extra = {name: value[part] for name, value in self.extra.items()}
        blocks = None if self.blocks_BT is None else self.blocks_BT[part]
        return Batch(
            self.ids_BT[part], self.targets_BT[part], self.positions_BT[part], self.documents_BT[part], weights, extra,
            blocks_BT=blocks,
        )  # fmt: skip


def batch_from(ids: np.ndarray, targets: np.ndarray, positions: np.ndarray, documents: np.ndarray) -> Batch:
    """A batch over int64 arrays [B,T]; memory is shared where the arrays are contiguous."""
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in (ids, targets, positions, documents)]
    return Batch(tensors[0], tensors[1], tensors[2], tensors[3])


def empty_batch(rows: int, length: int) -> Batch:
    """Rows of padding only: what a rank computes when there is nothing left for it."""
    shape = (rows, length)
    return Batch(
        torch.zeros(shape, dtype=torch.int64), torch.full(shape, IGNORED), torch.zeros(shape, dtype=torch.int64),
        torch.full(shape, PADDING),
    )  # fmt: skip


def plan_rows(lengths: Sequence[int], length: int, rows: int | None = None) -> tuple[list[list[int]], list[int]]:
    """Best-fit decreasing: which examples share a row of `length` tokens.

    Returns (examples of each row, examples left over because `rows` rows were full). Ties go to the earlier example and the
    earlier row, so the plan is a pure function of the lengths. Raises InputError for an example longer than a row.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    if order and lengths[order[0]] > length:
        raise InputError(f"an example of {lengths[order[0]]} tokens does not fit a row of {length}", where=f"example {order[0]}",
                         fix="raise the row length, or leave over-long examples out before packing")  # fmt: skip
    plan: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), sorted
    left: list[int] = []
    for i in order:
        at = bisect_left(room, (lengths[i], -1))
        if at < len(room):
            free, row = room.pop(at)
        elif rows is None or len(plan) < rows:
            free, row = length, len(plan)
            plan.append([])
        else:
            left.append(i)
            continue
        plan[row].append(i)
        insort(room, (free - lengths[i], row))
    return [sorted(row) for row in plan], sorted(left)


def pack(examples: Sequence[Example], rows: int | None, length: int) -> Batch:
    """Put whole examples into `rows` rows (None: as many as it takes) of `length` tokens.

    `documents_BT` holds the index of the example in `examples`, so per-example sums can be formed. Raises InputError when the
    examples do not fit: nothing is dropped here.
    """
    plan, left = plan_rows([len(ids) for ids, _ in examples], length, rows)
    if left:
        raise InputError(f"{len(left)} of {len(examples)} examples do not fit into {rows} rows of {length} tokens",
                         fix="plan the rows first with plan_rows")  # fmt: skip
    return _fill(examples, plan, max(1, len(plan)) if rows is None else rows, length)


def stacked(examples: Sequence[Example], length: int) -> Batch:
    """One example a row, numbered as by `pack`; none may be longer than `length`."""
    return _fill(examples, [[i] for i in range(len(examples))], len(examples), length)


def _fill(examples: Sequence[Example], plan: list[list[int]], rows: int, length: int) -> Batch:
    ids = np.zeros((rows, length), np.int64)
    targets = np.full((rows, length), IGNORED, np.int64)
    positions = np.zeros((rows, length), np.int64)
    documents = np.full((rows, length), PADDING, np.int64)
    for row, members in enumerate(plan):
        start = 0
        for i in members:
            tokens = np.asarray(examples[i][0], np.int64)
            learn = np.asarray(examples[i][1])
            end = start + len(tokens)
            ids[row, start:end] = tokens
            targets[row, start : end - 1] = np.where(learn[1:] > 0, tokens[1:], IGNORED)
            positions[row, start:end] = np.arange(len(tokens))
            documents[row, start:end] = i
            start = end
    return batch_from(ids, targets, positions, documents)


class Epochs:
    """An endless order of `n` examples, a fresh permutation each epoch, readable at any place without reading what is before."""

    def __init__(self, n: int, seed: int):
        if n < 1:
            raise InputError("there is no example to draw from", fix="check the data this stage reads")
        self.n, self.seed = n, seed
        self._cached: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def permutation(self, epoch: int) -> np.ndarray:
        """Order of the examples in one epoch, int64 [n]."""
        if self._cached[0] != epoch:
            self._cached = (epoch, numpy_stream(self.seed, "epoch", epoch).permutation(self.n))
        return self._cached[1]

    def __getitem__(self, draw: int) -> int:
        """The example drawn at place `draw` (from 0)."""
        return int(self.permutation(draw // self.n)[draw % self.n])

    def __iter__(self) -> Iterator[int]:
        draw = 0
        while True:
            yield self[draw]
            draw += 1


def epochs(n: int, seed: int) -> Epochs:
    """The order in which `n` examples are visited, epoch after epoch."""
    return Epochs(n, seed)


class DialogBatches:
    """Packed batches of whole dialogs: `self(step)` are the micro-batches of one optimiser step.

    Attributes:
        overlong: of a list, indices of the examples longer than a row, never used; the caller reports them.
    """

    def __init__(
        self, examples: Sequence[Example] | Examples, length: int, batch_tokens: int, seed: int, *,
        rank: int = 0, world: int = 1, micro_rows: int | None = None,
    ):  # fmt: skip
        self.length, self.rows = length, max(1, batch_tokens // length)
        self.overlong: list[int] = []
        if isinstance(examples, Sequence):
            self.overlong = [i for i, (ids, _) in enumerate(examples) if len(ids) > length]
            examples = Listed([(ids, mask) for ids, mask in examples if len(ids) <= length])
        self.examples: Examples = examples
        if not len(self.examples):
            raise self._nothing(len(self.overlong))
        self.rank, self.world, self.micro_rows = rank, world, micro_rows or self.rows
        self._order = epochs(len(self.examples), seed)
        self._plans: list[list[list[int]]] = []  # example indices of each row, per step
        self._waiting: list[int] = []
        self._drawn = 0

    def __call__(self, step: int) -> list[Batch]:
        """Micro-batches of `step` for this rank, at least one and as many as on every other, as sharded weights need it."""
        while len(self._plans) <= step:
            self._plans.append(self._next_plan())
        plan = self._plans[step]
        mine, most = plan[self.rank :: self.world], -(-len(plan) // self.world)
        parts = [mine[i : i + self.micro_rows] for i in range(0, most, self.micro_rows)]
        return [self._batch(part) if part else empty_batch(1, self.length) for part in parts]

    def _batch(self, plan: list[list[int]]) -> Batch:
        members = [i for row in plan for i in row]
        place = iter(range(len(members)))  # the same dialog may be in a small batch twice: number the places, not the dialogs
        return _fill([self.examples[i] for i in members], [[next(place) for _ in row] for row in plan], len(plan), self.length)

    def _next_plan(self) -> list[list[int]]:
        """Draw until the rows could be full, pack, and keep what did not fit for the next step."""
        capacity, length = self.rows * self.length, self.examples.length
        drawn, total, passed = self._waiting, sum(map(length, self._waiting)), 0
        while total < capacity:
            i = self._order[self._drawn]
            self._drawn += 1
            passed = 0 if length(i) else passed + 1
            if passed == 2 * len(self.examples) - 1:  # among so many draws in a row lies a whole epoch
                raise self._nothing(len(self.examples))
            if length(i):
                drawn.append(i)
                total += length(i)
        plan, left = plan_rows([length(i) for i in drawn], self.length, self.rows)
        self._waiting = [drawn[i] for i in left]
        return [[drawn[i] for i in row] for row in plan]

    def _nothing(self, examples: int) -> InputError:
        return InputError(f"none of {examples} examples fits a row of {self.length} tokens", fix="raise the row length")


def dialog_batches(
    examples: Sequence[Example] | Examples, length: int, batch_tokens: int, seed: int, *,
    rank: int = 0, world: int = 1, micro_rows: int | None = None,
) -> DialogBatches:  # fmt: skip
    """Batches of whole examples as a pure function of the step: rows of `length`, `batch_tokens` over all ranks."""
    return DialogBatches(examples, length, batch_tokens, seed, rank=rank, world=world, micro_rows=micro_rows)


Batches = Callable[[int], list[Batch]]
