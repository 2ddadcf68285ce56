"""Which requests are in the batch: first come first served.

By the paper's rule (section 4.2.2), `reserve`, a request enters when its maximum length fits: the maximum output length is fixed
beforehand, all pages a request can ever need are reserved when it enters, and nothing is ever swapped out. By the other rule,
`optimistic`, it enters when its prompt and one page for each sample fit, and `puna.infer.growth` finds pages for the rest.
Prompts are computed in chunks under a token budget, so a long prompt delays the running rows by one chunk and no more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from puna.infer.pages import BlockPool, page_keys
from puna.infer.request import Shown
from puna.infer.shaping import Shaper

Admission = Literal["reserve", "optimistic"]
LOGPROB_CHUNK = 256  # most positions of one call whose logits are all kept


@dataclass(eq=False)
class Group:
    """Samples of one request that share a prompt.

    Attributes:
        request: the request's id; `first`: index of the group's first sample.
        samples: how many; prompt: int64 [P].
        limit: most tokens a sample may write.
        written: the end of `prompt` that is an answer already, of a sample that had to make room; logprob: the sum of its tokens.
        made_room: whether it has, running or not.
        alternatives: how many to name for each written token. prompt_logprobs: whether every token of the prompt is to be judged;
            prompt_values: what was found so far.
        tables: int64 [samples, W] page numbers, once admitted. The full prompt pages are the same numbers in every row.
        done: prompt tokens already in the cache. shaper: changes the logits of its samples, if the request asks for it.
        keys_of_pages: of the prompt's full pages, once looked at.
        media: what the prompt shows, media_keys: what its pages are known by besides their tokens (`puna.infer.pages.page_keys`).
        seen: what was seen of it, once the model has looked.
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
    alternatives: int = 0
    prompt_logprobs: bool = False
    prompt_values: list[float | None] = field(default_factory=list)
    written: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    logprob: float = 0.0
    made_room: bool = False
    tables: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    done: int = 0
    keys_of_pages: list[bytes] = field(default_factory=list)
    media: tuple[Shown, ...] = ()
    media_keys: Sequence[tuple[int, bytes]] = ()
    seen: tuple[Any, ...] = ()

    @property
    def left(self) -> int:
        """Most tokens a sample may still write."""
        return self.limit - len(self.written)

    @property
    def arrival(self) -> tuple[int, int]:
        """What groups are ordered by."""
        return self.request, self.first


@dataclass
class Chunk:
    """Prompt positions `start` .. `stop - 1` of a group, computed in this step."""

    group: Group
    start: int
    stop: int

    @property
    def complete(self) -> bool:
        """Whether the prompt ends with it."""
        return self.stop == len(self.group.prompt)


def pages_needed(prompt: int, limit: int, page_size: int) -> tuple[int, int]:
    """(pages shared by all samples, further pages of each): the last token written is never read, so it needs no place."""
    shared = prompt // page_size
    return shared, -(-(prompt + limit - 1) // page_size) - shared


class Scheduler:
    """Waiting and prefilling groups over one page pool."""

    def __init__(
        self, pool: BlockPool, *, page_size: int, max_running: int, prefill_tokens: int,
        prefix_cache: bool = True, admission: Admission = "reserve",
    ):  # fmt: skip
        self.pool, self.page_size = pool, page_size
        self.max_running, self.prefill_tokens = max_running, prefill_tokens
        self.prefix_cache, self.admission = prefix_cache, admission
        self.waiting: deque[Group] = deque()
        self.prefilling: list[Group] = []

    def admit(self, running: int) -> None:
        """Move waiting groups in while rows and pages last; the first that does not fit makes the others wait.

        `running` is the number of rows. A group that made room once comes back only when the rows beside it can grow by a page.
        """
        rows = running + sum(group.samples for group in self.prefilling)
        while self.waiting:
            group = self.waiting[0]
            if rows + group.samples > self.max_running:
                return
            shared, own = pages_needed(len(group.prompt), group.left, self.page_size)
            if self.admission == "optimistic":
                own = min(own, 1)
            found = self._found(group)
            resting = int((self.pool.references[found] == 0).sum())
            need = shared - len(found) + group.samples * own + resting
            if need + (rows if group.made_room else 0) > self.pool.free:
                return
            self.waiting.popleft()
            self._enter(group, found, shared, own)
            rows += group.samples

    def chunks(self) -> list[Chunk]:
        """Prompt chunks of the next step; rows times the widest chunk stay within `prefill_tokens`."""
        picked: list[Chunk] = []
        widest = judged = 0
        for group in self.prefilling:
            left = len(group.prompt) - group.done
            budget = min(self.prefill_tokens, LOGPROB_CHUNK) if group.prompt_logprobs else self.prefill_tokens
            judged += left if group.prompt_logprobs else 0
            if not picked:
                left = min(left, budget)
            elif (
                not picked[0].complete
                or left > budget
                or judged > LOGPROB_CHUNK
                or (len(picked) + 1) * max(widest, left) > self.prefill_tokens
            ):
                break
            widest = max(widest, left)
            picked.append(Chunk(group, group.done, group.done + left))
        return picked

    def advance(self, chunks: list[Chunk]) -> list[Group]:
        """Record that `chunks` were computed; returns the groups whose prompt is now complete, in order of arrival."""
        for chunk in chunks:
            chunk.group.done = chunk.stop
        self.prefilling = [group for group in self.prefilling if group.done < len(group.prompt)]
        return [chunk.group for chunk in chunks if chunk.complete]

    def cancel(self, request: int) -> None:
        """Forget the groups of a request that are not running yet."""
        for group in [group for group in self.prefilling if group.request == request]:
            self.leave(group)
        self.waiting = deque(group for group in self.waiting if group.request != request)

    def leave(self, group: Group) -> None:
        """Take a group out before its prompt is complete.

        Groups behind it may read pages it has named and not filled: they fill them themselves.
        """
        self.prefilling.remove(group)
        empty = group.tables[0, group.done // self.page_size : len(group.prompt) // self.page_size]
        for other in self.prefilling:
            missing = np.flatnonzero(np.isin(other.tables[0, : other.done // self.page_size], empty))
            if len(missing):
                other.done = int(missing[0]) * self.page_size
        self.pool.unname(empty)
        self.pool.release(group.tables.reshape(-1))
        group.done, group.tables = 0, np.zeros((0, 0), np.int64)

    def _found(self, group: Group) -> np.ndarray:
        """Known pages the prompt begins with; its last token is always computed, for the logits after it."""
        if not self.prefix_cache:
            return np.zeros(0, np.int64)
        group.keys_of_pages = page_keys(group.prompt, self.page_size, group.keys_of_pages, group.media_keys)
        if group.prompt_logprobs:
            return np.zeros(0, np.int64)
        return self.pool.find(group.keys_of_pages[: (len(group.prompt) - 1) // self.page_size])

    def _enter(self, group: Group, found: np.ndarray, shared: int, own: int) -> None:
        """Give a group its pages. They are named before they are filled: prompts are computed in order of entry, so whoever
        finds them here reads them later."""
        self.pool.claim(found, group.samples)
        new = self.pool.take(shared - len(found))
        self.pool.share(new, group.samples - 1)
        prompt_pages = np.concatenate((found, new))
        if self.prefix_cache:
            self.pool.name(group.keys_of_pages, prompt_pages)
        own_pages = self.pool.take(group.samples * own).reshape(group.samples, own)
        group.tables = np.concatenate((np.broadcast_to(prompt_pages, (group.samples, shared)), own_pages), axis=1)
        group.done = len(found) * self.page_size
        self.prefilling.append(group)
