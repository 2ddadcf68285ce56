"""Pictures, videos and sounds of requests: read and decoded in threads of their own, never in the event loop, the last ones kept.

A conversation sends its media again with every turn. What they became is kept by content, so a turn decodes only what is new.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from weakref import WeakSet

from puna.core.errors import InputError, PunaError
from puna.infer.engine import Engine
from puna.serve.protocol import ApiError, as_api_error
from puna.speech.clip import Clip, decode_clip, fetch_sound, load_clip
from puna.speech.ears import Ears
from puna.tokenizer.chat import Medium
from puna.vision.eyes import Eyes
from puna.vision.fetch import MediaRules
from puna.vision.media import Loaded, decode, fetch, load, media_key

THREADS = 8
KEPT_BYTES = 256 << 20  # of decoded media that no request is using
MOST_BYTES = 4 << 30  # of decoded media, in use or not


def eyes_of(engine: Engine) -> Eyes | None:
    """What the engine's model sees with; None for a model that sees nothing."""
    return engine.eyes if isinstance(engine.eyes, Eyes) else None


def ears_of(engine: Engine) -> Ears | None:
    """What the engine's model hears with; None for a model that does not listen."""
    return engine.eyes if isinstance(engine.eyes, Ears) else None


def sounds_of(engine: Engine, loaded: Sequence[Loaded | Clip]) -> list[int]:
    """The tokens of each sound among these media, for `render`."""
    ears = ears_of(engine)
    return [] if ears is None else [ears.tokens(each) for each in loaded if isinstance(each, Clip)]


def load_for(engine: Engine, medium: Medium, root: Path | None, rules: MediaRules) -> Loaded | Clip:
    """One medium as the engine's model takes it; InputError where it takes none, or it cannot be read."""
    eyes, ears = eyes_of(engine), ears_of(engine)
    if ears is not None:
        return load_clip(medium, root, rules, ears.model.sound)
    if eyes is None:
        raise InputError("this model reads text alone", fix="leave pictures out, or take a model that sees")
    return load(medium, root, rules, eyes.shape, eyes.frames)


class MediaReader:
    """Reads what messages show.

    Args:
        senses: eyes or ears; None for a model that reads text alone.
        rules: what may be fetched, and how much. root: the only folder that files are read from.
        most: media of one request.
    """

    def __init__(self, senses: Eyes | Ears | None, rules: MediaRules, root: Path | None, most: int):
        self.senses, self.rules, self.root, self.most = senses, rules, root, most
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="media")
        self._kept: OrderedDict[bytes, Loaded | Clip] = OrderedDict()
        self._alive: WeakSet[Loaded | Clip] = WeakSet()
        self._lock = Lock()

    @property
    def modalities(self) -> list[str]:
        """What requests may hold."""
        if self.senses is None:
            return ["text"]
        if isinstance(self.senses, Ears):
            return ["text", "audio"]
        return ["text", "image", "video"] if self.senses.video else ["text", "image"]

    def check(self, media: Sequence[Medium]) -> None:
        """ApiError 400 for media this server takes none of, before anything is read."""
        for medium in media:
            if self.senses is None:
                raise ApiError(400, "this model reads text alone: leave media out", param="messages")
            if medium.kind == "audio" and "audio" not in self.modalities:
                raise ApiError(400, "this model has no ears: a sound needs a model that listens", param="messages")
            if medium.kind not in self.modalities:
                raise ApiError(400, f"this model takes no content of kind '{medium.kind}'", param="messages")
        if len(media) > self.most:
            raise ApiError(400, f"at most {self.most} pictures, videos and sounds in a request", param="messages")

    async def read(self, media: Sequence[Medium]) -> list[Loaded | Clip]:
        """Media ready for the engine; ApiError 400 for what cannot be read."""
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.gather(*(loop.run_in_executor(self._threads, self.load, medium) for medium in media))
        except PunaError as error:
            told = as_api_error(error)
            raise ApiError(told.status, told.message, param="messages") from None

    def load(self, medium: Medium) -> Loaded | Clip:
        """One medium, decoded unless it was lately; ApiError 429 when requests hold all the memory there is for media."""
        with self._lock:
            if sum(each.bytes for each in self._alive) > MOST_BYTES:
                raise ApiError(429, "too many media are being looked at: try again shortly", code="too_many_requests")
        key, read = self._fetched(medium)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        loaded = read()
        with self._lock:
            self._kept[key] = loaded
            self._alive.add(loaded)
            while len(self._kept) > 1 and sum(each.bytes for each in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
        return loaded

    def _fetched(self, medium: Medium) -> tuple[bytes, Callable[[], Loaded | Clip]]:
        """What names a medium's content, and what decodes it."""
        senses, rules = self.senses, self.rules
        assert senses is not None
        if isinstance(senses, Ears):
            sound, shape = fetch_sound(medium, self.root, rules), senses.model.sound
            return blake2b(sound).digest(), lambda: decode_clip(sound, medium, shape)
        source = fetch(medium, self.root, rules)
        seen, frames = senses.shape, senses.frames
        return media_key(source, medium, rules, seen, frames), lambda: decode(source, medium, rules, seen, frames)

    def close(self) -> None:
        """Take no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
