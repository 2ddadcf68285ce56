"""Questions about pictures and videos, answered by the engine: for evaluation and wherever else answers are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from puna.core.errors import InputError
from puna.core.rng import derive_seed
from puna.infer.engine import Completion, Engine, Request
from puna.infer.load import load_engine
from puna.infer.request import Shown
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Medium, render
from puna.tokenizer.dialog import Task, media_of, without_media
from puna.vision.eyes import Eyes, open_seeing
from puna.vision.fetch import MediaRules
from puna.vision.media import FRAMES, Loaded, load


def seeing_engine(directory: str | Path) -> tuple[Engine, Tokenizer, Eyes]:
    """Engine, tokenizer and eyes of a `vision_model` directory; InputError for another kind."""
    engine, tokenizer = load_engine(directory, opener=open_seeing)
    if not isinstance(engine.eyes, Eyes):
        raise InputError("this model reads text alone", where=str(directory), fix="give a model that `puna.vision` has trained")
    return engine, tokenizer, engine.eyes


class MediaFiles:
    """The media of tasks, each file decoded once as far as the limit goes; what does not fit is decoded when it is asked for.

    Args:
        eyes: of the model that will look. rules: what may be read. frames: of a video that does not say how many.
        limit: bytes of decoded tiles to keep.
    """

    def __init__(self, eyes: Eyes, rules: MediaRules, frames: int = FRAMES, limit: int = 1 << 30):
        self.eyes, self.rules, self.frames, self.limit = eyes, rules, frames, limit
        self.bytes = 0
        self._kept: dict[tuple[Path, Medium], Loaded] = {}

    def __call__(self, task: Task, root: Path) -> list[Loaded]:
        """The media of a task of a file in the folder `root`, in order; InputError where one cannot be read."""
        return [self._one(medium, root) for medium in media_of(task.prompt)]

    def _one(self, medium: Medium, root: Path) -> Loaded:
        key = root, replace(medium, at=0)  # wherever in a text it stands
        found = self._kept.get(key)
        if found is None:
            found = load(medium, root, self.rules, self.eyes.shape, self.frames)
            size = sum(image.pixels.nbytes for image in found.images)
            if self.bytes + size <= self.limit:
                self._kept[key] = found
                self.bytes += size
        return found


def ask(
    engine: Engine,
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    media: Sequence[Sequence[Loaded]],
    *,
    max_tokens: int,
    n: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Completion]]:
    """`n` answers to each task, which is shown `media` in place of its own; with none of them it is asked as plain text.

    A task's random numbers depend on `seed` and its id, not on its place in the list.
    """
    requests = []
    for task, shown in zip(tasks, media, strict=True):
        prompt = task.prompt if shown else without_media(task.prompt)
        rendered = render(tokenizer, prompt, generation_prompt=True)
        places = [Shown(at, one) for at, one in zip(rendered.media, shown, strict=True)]
        requests.append(
            Request(rendered.ids, n=n, temperature=temperature, top_p=top_p, max_tokens=max_tokens,
                    seed=derive_seed(seed, task.id), media=places)
        )  # fmt: skip
    return engine.generate(requests, progress)
