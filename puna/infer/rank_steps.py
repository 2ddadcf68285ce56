"""One call of the network computed by several ranks: rank 0 says what to compute, every rank does its part.

A call travels as a few int64 numbers and one flat int64 array. It is cut into micro-batches that flow through the stages of the
pipeline (section 6.1): while one stage computes a piece the stage before it computes the next. The parts of the logits come back
to rank 0, where the engine is; it also tells the others to copy pages, and gives a sign of life while nothing is asked, so that a
rank whose wait ends knows that rank 0 is gone.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import pairwise

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _get_default_store

from puna.core.errors import RunError
from puna.infer.cache import PagedCache
from puna.infer.shards import Place, Stage
from puna.infer.spans import Spans
from puna.infer.torch_steps import TorchSteps

OPEN, CALL, COPY, ALIVE, END = range(5)
HEADER = 8  # numbers of a command: which, length of the array that follows, and up to six of its own
SIGNS_PER_WAIT = 4  # signs of life within the time a rank waits
LAST_WORDS_SECONDS = 3.0  # for ranks to say why they end
FAILED = "puna/failed"


class RankCache(PagedCache):
    """This rank's layers and heads of the cache; on rank 0, copying pages copies them on every rank."""

    def __init__(self, stage: Stage, pages: int, page_size: int):
        shape = stage.shape
        super().__init__(layers=shape.layers, pages=pages, page_size=page_size, kv_heads=shape.kv_heads, head_dim=shape.head_size,
                         dtype=stage.dtype, device=stage.place.device)  # fmt: skip
        self.steps: RankSteps | None = None

    def copy_pages(self, source: Tensor, target: Tensor) -> None:
        if self.steps is not None:
            self.steps.tell(COPY, (), (source.cpu().numpy(), target.cpu().numpy()))
        super().copy_pages(source, target)


class RankSteps:
    """Calls of a model whose parts are on all ranks, seen from rank 0. The other ranks must be in `work`."""

    mixes = False  # runs are padded to the longest

    def __init__(self, stage: Stage, pages: int, page_size: int):
        self.place = stage.place
        self.failure: RunError | None = None
        self._lock, self._ended = threading.RLock(), threading.Event()
        self.tell(OPEN, (pages, page_size))
        self.cache = RankCache(stage, pages, page_size)
        self.cache.steps = self
        self._part = _Part(stage, self.cache)
        self._signs = threading.Thread(target=self._give_signs, name="signs of life", daemon=True)
        self._signs.start()

    def logits(self, spans: Spans) -> Tensor:
        """Write the runs' keys and values to every rank's pages; logits [Q, V] after the tokens asked for.

        Raises RunError when a rank has ended or does not answer, which every later call then raises too.
        """
        arrays = (spans.tokens, spans.starts, spans.sizes, spans.table, spans.wanted)
        with self._together():
            self.tell(CALL, (len(spans.tokens), *spans.table.shape, len(spans.wanted)), arrays)
            return self._part.collect(self._part.compute(spans), len(spans.wanted))

    def tell(self, command: int, numbers: Sequence[int], arrays: Sequence[np.ndarray] = ()) -> None:
        """Give every rank a command."""
        flat = np.concatenate([array.ravel() for array in arrays]) if arrays else np.zeros(0, np.int64)
        header = torch.zeros(HEADER, dtype=torch.int64)
        header[: 2 + len(numbers)] = torch.tensor([command, len(flat), *numbers])
        with self._together():
            dist.broadcast(header, 0, group=self.place.talk)
            if len(flat):
                dist.broadcast(torch.from_numpy(flat), 0, group=self.place.talk)

    def close(self) -> None:
        """Let the other ranks end; nothing to do after a failure, which they see for themselves."""
        self._ended.set()
        self._signs.join()
        if self.failure is None:
            self.tell(END, ())

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """One command at a time; what fails in it is remembered, since ranks that are out of step never find together again."""
        with self._lock:
            if self.failure is not None:
                raise self.failure
            try:
                yield
            except RuntimeError as error:
                self.failure = RunError(
                    f"the {self.place.layout.ranks} ranks of the model no longer work together: {_last_words(self.place, error)}",
                    fix="see the output of that rank, then start all of them again",
                )
                raise self.failure from error

    def _give_signs(self) -> None:
        with contextlib.suppress(RunError):
            while not self._ended.wait(self.place.layout.seconds / SIGNS_PER_WAIT):
                self.tell(ALIVE, ())


class _Part:
    """What one rank does in a call."""

    def __init__(self, stage: Stage, cache: PagedCache):
        self.stage, self.place, self.steps = stage, stage.place, TorchSteps(stage, cache)

    @torch.no_grad()
    def compute(self, spans: Spans) -> Tensor | None:
        """This rank's part of a call: in the last stage its part of the logits [Q, V/T], if any are asked for."""
        pieces = cut(spans, self.place.layout.micro_batches or self.place.layout.pipeline)
        self.stage.pipe.expect([(len(piece.sizes), int(piece.sizes.max())) for piece in pieces])
        found = []
        for piece in pieces:
            states = self.steps.states(piece)
            if self.place.last and len(piece.wanted):
                found.append(self.stage.lm_head(states))
        self.stage.pipe.flush()
        return torch.cat(found) if found else None

    def collect(self, own: Tensor | None, wanted: int) -> Tensor:
        """On rank 0: logits [Q, V] from the ranks of the last stage."""
        place, config = self.place, self.stage.config
        dtype = self.stage.dtype
        if not wanted:
            return torch.empty(0, config.vocab_size, dtype=dtype, device=place.device)
        begin = (place.layout.pipeline - 1) * place.layout.tensor
        parts, works = [], []
        for part in range(place.layout.tensor):
            if begin + part == 0:
                assert own is not None
                parts.append(own)
                continue
            parts.append(torch.empty(wanted, len(place.vocabulary(config, part)), dtype=dtype, device=place.device))
            works.append(dist.irecv(parts[-1], begin + part, group=place.answers))
        for work in works:
            if work is not None:
                work.wait()
        return torch.cat(parts, 1)


def work(stage: Stage) -> None:
    """The life of every rank but 0: do what it says until it says END. RunError when it is gone."""
    place, part = stage.place, None
    try:
        while True:
            command, numbers, flat = _heard(place)
            if command == END:
                return
            if command == OPEN:
                part = _Part(stage, RankCache(stage, numbers[0], numbers[1]))
            elif command == COPY and part is not None:
                part.steps.cache.copy_pages(*flat.to(place.device).chunk(2))
            elif command == CALL and part is not None:
                logits = part.compute(_spans(flat.numpy(), *numbers[:4]))
                if logits is not None:
                    dist.send(logits.contiguous(), 0, group=place.answers)
    except Exception as error:
        say_failed(place.rank, error)
        raise


def _heard(place: Place) -> tuple[int, list[int], Tensor]:
    """The next command of rank 0, with its numbers and its array; RunError when there is no rank 0 any more."""
    header = torch.zeros(HEADER, dtype=torch.int64)
    try:
        dist.broadcast(header, 0, group=place.talk)
        command, length, *numbers = header.tolist()
        flat = torch.zeros(length, dtype=torch.int64)
        if length:
            dist.broadcast(flat, 0, group=place.talk)
    except RuntimeError as error:
        raise RunError(f"rank 0 of the model is gone, and rank {place.rank} ends with it", fix="see its output") from error
    return command, numbers, flat


def cut(spans: Spans, pieces: int) -> list[Spans]:
    """A call in at most `pieces` parts of about equal tokens; a run that is cut is continued in the next part."""
    ends = spans.sizes.cumsum()
    begins = ends - spans.sizes
    total = len(spans.tokens)
    parts = []
    for low, high in pairwise(total * i // min(pieces, total) for i in range(min(pieces, total) + 1)):
        first, last = begins.clip(low), ends.clip(max=high)
        here = first < last
        wanted = spans.wanted[(spans.wanted >= low) & (spans.wanted < high)] - low
        starts, sizes = (spans.starts + first - begins)[here], (last - first)[here]
        parts.append(Spans(spans.tokens[low:high], starts, sizes, spans.table[here], wanted))
    return parts


def _spans(flat: np.ndarray, tokens: int, runs: int, pages: int, wanted: int) -> Spans:
    sizes = (tokens, runs, runs, runs * pages, wanted)
    ids, starts, lengths, table, asked = np.split(flat, np.cumsum(sizes)[:-1])
    return Spans(ids, starts, lengths, table.reshape(runs, pages), asked)


def say_failed(rank: int, error: Exception) -> None:
    """Leave word of what ended this rank, where rank 0 looks for it."""
    with contextlib.suppress(Exception):  # the place may be gone too
        store = _get_default_store()
        order = store.add(FAILED, 1)
        store.set(f"{FAILED}/{rank}", f"{order} {type(error).__name__}: {error}".splitlines()[0])


def _last_words(place: Place, error: Exception) -> str:
    """Why the ranks fell apart: what the first to fail said, else which of them say nothing, else what was seen here."""
    others = set(range(1, place.layout.ranks))
    said: dict[int, str] = {}
    with contextlib.suppress(Exception):
        store, until = _get_default_store(), time.monotonic() + LAST_WORDS_SECONDS
        store.set_timeout(timedelta(seconds=LAST_WORDS_SECONDS))
        while len(said) < len(others) and time.monotonic() < until:
            said |= {rank: store.get(f"{FAILED}/{rank}").decode() for rank in others - said.keys()
                     if store.check([f"{FAILED}/{rank}"])}  # fmt: skip
            time.sleep(0.05)
    silent = sorted(others - said.keys())
    if silent and (said or len(others) == 1):
        return f"rank {', '.join(map(str, silent))} ended or hangs without a word"
    if said:
        rank, words = min(said.items(), key=lambda item: int(item[1].split(" ", 1)[0]))
        return f"rank {rank}: {words.split(' ', 1)[1]}"
    return str(error).splitlines()[0]
