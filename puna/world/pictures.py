"""The mini-world's pictures and clips: each a pure function of seed, split and number, with questions whose answers are known.

Kinds: scenes (count, colour, where, what, exists), bar charts (chart, chart_order), tables (table), documents (word), clips
(direction, order); and of each a description. A truth that is held out is drawn for no training set, whatever the seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from puna.core.errors import InputError
from puna.core.rng import python_stream
from puna.world.charts import any_chart, any_table
from puna.world.clips import any_clip
from puna.world.documents import any_document
from puna.world.drawing import Asked, Look, Truth, split_of
from puna.world.scenes import any_scene

if TYPE_CHECKING:
    from PIL import Image

TRUTHS: dict[str, Callable[[Look, random.Random], Truth]] = {
    "scene": any_scene,
    "chart": lambda look, rng: any_chart(rng),
    "table": lambda look, rng: any_table(rng),
    "document": lambda look, rng: any_document(rng),
    "clip": any_clip,
}
CAPTIONS = {  # what asks for all that a picture shows: the kind of the question, and its wording
    "scene": ("caption", "Describe the picture."),
    "chart": ("chart_caption", "List the bars."),
    "table": ("table_caption", "List the rows."),
    "document": ("text", "What does the page say?"),
    "clip": ("clip_caption", "Describe the video."),
}
FRAME_MS = 125  # how long a frame of a clip is shown, milliseconds
ATTEMPTS = 5000  # truths drawn to find one of a split: of 64, each is missed once in e^78 times


@dataclass(frozen=True)
class Picture:
    """A drawn picture, or a clip where it has several images.

    Attributes:
        images: RGB, all of one size.
        key: what it shows, in one line.
        asked: questions with answers, the caption (see CAPTIONS) first, at most one of each kind.
    """

    kind: str
    images: tuple[Image.Image, ...]
    key: str
    asked: tuple[Asked, ...]

    def save(self, path: Path) -> None:
        """Write it as PNG, a clip as an animated one; no pixel changes."""
        first, *others = self.images
        if others:
            first.save(path, "PNG", save_all=True, append_images=others, duration=FRAME_MS, loop=0)
        else:
            first.save(path, "PNG")


def picture(kind: str, seed: int, split: str, number: int, look: Look) -> Picture:
    """The picture of a kind (of TRUTHS) with a number in a split: train, dev or test.

    Raises InputError where the look allows so few truths that none belongs to the split.
    """
    for attempt in range(ATTEMPTS):
        rng = python_stream(seed, "picture", kind, split, number, attempt)
        truth = TRUTHS[kind](look, rng)
        if split_of(truth.key) == split:
            break
    else:
        raise InputError(f"{ATTEMPTS} pictures of this look were drawn, and none of them is one that {split} may show",
                         where=f"world.{split}: {kind}", fix="allow more shapes, colours or things")  # fmt: skip
    asked = (Asked(*CAPTIONS[kind], truth.caption), *truth.asked(look, rng))
    return Picture(kind, tuple(truth.draw(look, rng)), truth.key, asked)
