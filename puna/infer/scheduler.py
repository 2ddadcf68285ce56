"""Which requests are in the batch: first come first served, and a request enters only when its maximum length fits.

That is the paper's admission rule (section 4.2.2): the maximum output length is fixed beforehand, all pages a request can ever
need are reserved when it enters, and nothing is ever swapped out. Prompts are computed in chunks under a token budget, so a
long prompt delays the running rows by one chunk and no more.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from puna.infer.pages import BlockPool
from puna.infer.shaping import Shaper


@dataclass
class Group:
    """Samples of one request that share a prompt.

    Attributes:
        request: the request's id; `first`: index of the group's first sample.
        samples: how many; prompt: int64 [P].
        limit: most tokens a sample may write.
        tables: int64 [samples, W] page numbers, once admitted. The full prompt pages are the same numbers in every row.
        done: prompt tokens already in the cache. shaper: changes the logits of its samples, if the request asks for it.
    """

    request: int
    first: int
    samples: int
    prompt: np.ndarray
    limit: int
    keys: np.ndarray
    temperature: float
    top_p: float
    stop_ids: tuple[int, ...] = ()
    shaper: Shaper | None = None
    tables: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    done: int = 0


@dataclass
class Chunk:
    """Prompt positions `start` .. `stop - 1` of a group, computed in this step."""

    group: Group
    start: int
    stop: int


def pages_needed(prompt: int, limit: int, samples: int, page_size: int) -> tuple[int, int]:
    """(pages shared by all samples, further pages of each): the last token written is never read, so it needs no place."""
    shared = prompt // page_size
    return shared, -(-(prompt + limit - 1) // page_size) - shared


class Scheduler:
    """Waiting and prefilling groups over one page pool."""

    def __init__(self, pool: BlockPool, *, page_size: int, max_running: int, prefill_tokens: int):
        self.pool, self.page_size = pool, page_size
        self.max_running, self.prefill_tokens = max_running, prefill_tokens
        self.waiting: deque[Group] = deque()
        self.prefilling: list[Group] = []

    def admit(self, running: int) -> None:
        """Move waiting groups in while rows and pages last; the first that does not fit makes the others wait."""
        rows = running + sum(group.samples for group in self.prefilling)
        while self.waiting:
            group = self.waiting[0]
            shared, own = pages_needed(len(group.prompt), group.limit, group.samples, self.page_size)
            if rows + group.samples > self.max_running or shared + group.samples * own > self.pool.free:
                return
            self.waiting.popleft()
            prompt_pages = self.pool.take(shared)
            self.pool.share(prompt_pages, group.samples - 1)
            own_pages = self.pool.take(group.samples * own).reshape(group.samples, own)
            group.tables = np.concatenate((np.broadcast_to(prompt_pages, (group.samples, shared)), own_pages), axis=1)
            rows += group.samples
            self.prefilling.append(group)

    def chunks(self) -> list[Chunk]:
        """Prompt chunks of the next step; rows times the widest chunk stay within `prefill_tokens`."""
        picked: list[Chunk] = []
        widest = 0
        for group in self.prefilling:
            left = len(group.prompt) - group.done
            if not picked:
                left = min(left, self.prefill_tokens)
            elif (len(picked) + 1) * max(widest, left) > self.prefill_tokens:
                break
            widest = max(widest, left)
            picked.append(Chunk(group, group.done, group.done + left))
        return picked

    def advance(self, chunks: list[Chunk]) -> list[Group]:
        """Record that `chunks` were computed; returns the groups whose prompt is now complete, in order of arrival."""
        for chunk in chunks:
            chunk.group.done = chunk.stop
        complete = [chunk.group for chunk in chunks if chunk.stop == len(chunk.group.prompt)]
        self.prefilling = [group for group in self.prefilling if group.done < len(group.prompt)]
        return complete

    def cancel(self, request: int) -> None:
        """Forget the groups of a request that are not running yet."""
        for group in self.prefilling:
            if group.request == request:
                self.pool.release(group.tables.reshape(-1))
        self.waiting = deque(group for group in self.waiting if group.request != request)
        self.prefilling = [group for group in self.prefilling if group.request != request]
