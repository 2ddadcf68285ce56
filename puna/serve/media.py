"""Pictures and videos of requests: read and decoded in threads of their own, never in the event loop, the last ones kept.

A conversation sends its pictures again with every turn. What they became is kept by content, so a turn decodes only what is new.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from weakref import WeakSet

from puna.core.errors import PunaError
from puna.infer.engine import Engine
from puna.infer.request import Shown
from puna.serve.protocol import ApiError, as_api_error
from puna.tokenizer.chat import Medium
from puna.vision.eyes import Eyes
from puna.vision.fetch import MediaRules
from puna.vision.media import Loaded, decode, fetch, media_key

THREADS = 8
KEPT_BYTES = 256 << 20  # of decoded media that no request is using
MOST_BYTES = 4 << 30  # of decoded media, in use or not


def eyes_of(engine: Engine) -> Eyes | None:
    """What the engine's model sees with; None for a model that reads text alone."""
    return engine.eyes if isinstance(engine.eyes, Eyes) else None


class MediaReader:
    """Reads what messages show.

    Args:
        eyes: None for a model that reads text alone.
        rules: what may be fetched, and how much. root: the only folder that files are read from.
        most: media of one request.
    """

    def __init__(self, eyes: Eyes | None, rules: MediaRules, root: Path | None, most: int):
        self.eyes, self.rules, self.root, self.most = eyes, rules, root, most
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="media")
        self._kept: OrderedDict[bytes, Loaded] = OrderedDict()
        self._alive: WeakSet[Loaded] = WeakSet()
        self._lock = Lock()

    @property
    def modalities(self) -> list[str]:
        """What requests may hold."""
        if self.eyes is None:
            return ["text"]
        return ["text", "image", "video"] if self.eyes.video else ["text", "image"]

    def check(self, media: Sequence[Medium]) -> None:
        """ApiError 400 for media this server takes none of, before anything is read."""
        for medium in media:
            if self.eyes is None:
                raise ApiError(400, "this model reads text alone: leave pictures and videos out", param="messages")
            if medium.kind not in self.modalities:
                raise ApiError(400, f"this model takes no content of kind '{medium.kind}'", param="messages")
        if len(media) > self.most:
            raise ApiError(400, f"at most {self.most} pictures and videos in a request", param="messages")

    async def shown(self, media: Sequence[tuple[int, Medium]]) -> tuple[Shown, ...]:
        """Media ready for the engine, each with its place in the prompt; ApiError 400 for what cannot be read."""
        loop = asyncio.get_running_loop()
        reads = [loop.run_in_executor(self._threads, self.load, medium) for _, medium in media]
        try:
            loaded = await asyncio.gather(*reads)
        except PunaError as error:
            told = as_api_error(error)
            raise ApiError(told.status, told.message, param="messages") from None
        return tuple(Shown(at, one) for (at, _), one in zip(media, loaded, strict=True))

    def load(self, medium: Medium) -> Loaded:
        """One medium, decoded unless it was lately; ApiError 429 when requests hold all the memory there is for media."""
        assert self.eyes is not None
        with self._lock:
            if sum(each.bytes for each in self._alive) > MOST_BYTES:
                raise ApiError(429, "too many pictures are being looked at: try again shortly", code="too_many_requests")
        source = fetch(medium, self.root, self.rules)
        key = media_key(source, medium, self.rules, self.eyes.shape, self.eyes.frames)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        loaded = decode(source, medium, self.rules, self.eyes.shape, self.eyes.frames)
        with self._lock:
            self._kept[key] = loaded
            self._alive.add(loaded)
            while len(self._kept) > 1 and sum(each.bytes for each in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
        return loaded

    def close(self) -> None:
        """Take no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
