"""What all generated pictures share: colours, shapes, letters, questions with known answers, and which split a truth belongs to.

A picture is drawn from its truth, so every answer is known and every score has a known best. What a picture shows is written in
one line, its key; the hash of the key alone says whether it is for training or held out, so no seed and no size can bring a
held-out picture into training. Letters are Pillow's built-in bitmap font: the same pixels on every machine.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from pydantic import Field

from puna.core.settings import Settings

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]  # red, green, blue, 0-255
Point = tuple[float, float]  # pixels from the left and from the top

COLOURS: dict[str, Colour] = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (230, 210, 40),
    "white": (240, 240, 240),
    "pink": (240, 130, 200),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring", "diamond")
SPLIT_PERCENT = {"train": 80, "dev": 5, "test": 15}  # of all truths
LETTER = (6, 11)  # width and height of a letter of the font, pixels
UNIT = 64  # pixels of a picture whose letters are drawn at their own size


class Look(Settings):
    """How generated pictures look.

    Attributes:
        size: width and height, pixels.
        shapes, colours: how many different ones there are; the first of the lists.
        things: at most so many in a scene.
        frames: of a clip.
    """

    size: int = Field(default=64, ge=48, le=4096)
    shapes: int = Field(default=4, ge=2, le=len(SHAPES))
    colours: int = Field(default=4, ge=2, le=len(COLOURS))
    things: int = Field(default=4, ge=1, le=4)
    frames: int = Field(default=8, ge=4, le=64)


@dataclass(frozen=True)
class Asked:
    """A question about a picture and its only right answer; `kind` is what it takes to answer it."""

    kind: str
    question: str
    answer: str


@dataclass(frozen=True)
class Thing:
    """A coloured shape."""

    shape: str
    colour: str

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


class Truth(Protocol):
    """What a picture shows, before it is drawn."""

    @property
    def key(self) -> str:
        """In one line; equal for pictures that show the same."""
        ...

    @property
    def caption(self) -> str: ...

    def asked(self, look: Look, rng: random.Random) -> list[Asked]:
        """Questions about it, at most one of each kind."""
        ...

    def draw(self, look: Look, rng: random.Random) -> list[Image.Image]:
        """One RGB picture, or the frames of a clip."""
        ...


def split_of(key: str) -> str:
    """The split a truth belongs to, by the hash of its key."""
    place = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") % 100
    for split, percent in SPLIT_PERCENT.items():
        if place < percent:
            return split
        place -= percent
    raise AssertionError("shares add up to 100")


def canvas(size: int, colour: Colour) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty picture and what draws on it."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (size, size), colour)
    return image, ImageDraw.Draw(image)


def draw_thing(pen: ImageDraw.ImageDraw, thing: Thing, at: Point, radius: float) -> None:
    """Draw a shape around a point."""
    (x, y), r, fill, thin = at, radius, COLOURS[thing.colour], radius * 0.3
    box = (x - r, y - r, x + r, y + r)
    if thing.shape == "circle":
        pen.ellipse(box, fill=fill)
    elif thing.shape == "square":
        pen.rectangle((x - 0.9 * r, y - 0.9 * r, x + 0.9 * r, y + 0.9 * r), fill=fill)
    elif thing.shape == "triangle":
        pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=fill)
    elif thing.shape == "cross":
        pen.rectangle((x - r, y - thin, x + r, y + thin), fill=fill)
        pen.rectangle((x - thin, y - r, x + thin, y + r), fill=fill)
    elif thing.shape == "ring":
        pen.ellipse(box, outline=fill, width=max(2, round(r / 3)))
    else:
        pen.polygon([(x, y - r), (x - r, y), (x, y + r), (x + r, y)], fill=fill)


def write(image: Image.Image, text: str, at: Point, colour: Colour) -> None:
    """Write a line of ASCII, `at` its upper left corner, in letters of LETTER pixels times `scale_of` the picture."""
    image.paste(colour, (round(at[0]), round(at[1])), _letters(text, scale_of(image.width)))


@lru_cache(maxsize=4096)
def _letters(text: str, scale: int) -> Image.Image:
    """A line of text as a mask."""
    from PIL import Image, ImageDraw

    mask = Image.new("1", (LETTER[0] * len(text), LETTER[1]))
    ImageDraw.Draw(mask).text((0, 0), text, fill=1, font=_font())
    return mask.resize((mask.width * scale, mask.height * scale))


@lru_cache(maxsize=1)
def _font() -> ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default_imagefont()


def scale_of(size: int) -> int:
    """How many times its own size a letter is drawn in a picture of `size` pixels."""
    return max(1, size // UNIT)


def dark(rng: random.Random) -> Colour:
    """A dark background."""
    return rng.randrange(60), rng.randrange(60), rng.randrange(60)
