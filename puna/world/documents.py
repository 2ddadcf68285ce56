"""Pages with a few words of text: reading is the only way to answer (paper 7.1: text in pictures, rendered documents)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from puna.world.drawing import LETTER, Asked, Look, canvas, scale_of, write
from puna.world.lexicon import NOUNS

if TYPE_CHECKING:
    from PIL import Image

WORDS = tuple(NOUNS["en"])  # the text model can write them
LINES = (2, 3)
MARGIN = 3  # pixels at the size of a letter
ORDER = ("first", "second", "third")


@dataclass(frozen=True)
class Document:
    """Words, one a line."""

    words: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"document {self.caption}"

    @property
    def caption(self) -> str:
        return " ".join(self.words)

    def asked(self, look: Look, rng: random.Random) -> list[Asked]:
        """One of its words."""
        line = rng.randrange(len(self.words))
        return [Asked("word", f"What is the {ORDER[line]} word?", self.words[line])]

    def draw(self, look: Look, rng: random.Random) -> list[Image.Image]:
        """One picture: dark letters on light paper, the page's place varies by some pixels."""
        scale = scale_of(look.size)
        shade = rng.randint(215, 255)
        image, _ = canvas(look.size, (shade, shade, rng.randint(200, 255)))
        ink = (rng.randrange(90), rng.randrange(60), rng.randrange(90))
        room = look.size - scale * (LETTER[0] * max(map(len, self.words)) + 2 * MARGIN)
        left = scale * MARGIN + rng.uniform(0, max(0, room))
        height = look.size / len(self.words)
        for i, word in enumerate(self.words):
            slack = (height - scale * LETTER[1]) / 4
            write(image, word, (left, height * (i + 0.5) - scale * LETTER[1] / 2 + rng.uniform(-slack, slack)), ink)
        return [image]


def any_document(rng: random.Random) -> Document:
    """A page of two or three different words."""
    return Document(tuple(rng.sample(WORDS, rng.randint(*LINES))))
