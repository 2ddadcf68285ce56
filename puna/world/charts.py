"""Bar charts and tables with numbers, each with questions whose answers stand in the picture (paper 7.1: structured images)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from puna.world.drawing import COLOURS, LETTER, Asked, Look, canvas, scale_of, write

if TYPE_CHECKING:
    from PIL import Image

PAPER, INK = (245, 245, 240), (20, 20, 30)
BARS = "ABCD"
ROWS, COLUMNS = "ABC", "XY"
HIGHEST = 9
CELLS = (10, 99)


@dataclass(frozen=True)
class Chart:
    """A bar chart: a whole number from 1 to 9 for each letter, no number twice; it stands over its bar."""

    values: tuple[int, ...]

    @property
    def key(self) -> str:
        return f"bar chart {self.caption}"

    @property
    def caption(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in zip(BARS, self.values, strict=False))

    def asked(self, look: Look, rng: random.Random) -> list[Asked]:
        """The value of a bar, and the highest or the lowest bar."""
        bar = rng.randrange(len(self.values))
        word, best = rng.choice([("highest", max), ("lowest", min)])
        name = BARS[self.values.index(best(self.values))]
        return [
            Asked("chart", f"What is the value of {BARS[bar]}?", str(self.values[bar])),
            Asked("chart_order", f"Which bar is the {word}?", name),
        ]

    def draw(self, look: Look, rng: random.Random) -> list[Image.Image]:
        """One picture; colours of the bars vary."""
        size, letter = look.size, scale_of(look.size) * LETTER[1]
        image, pen = canvas(size, PAPER)
        width, floor, room = size / len(self.values), size - letter - 2, size - 2 * letter - 4
        for i, value in enumerate(self.values):
            left, top = width * (i + 0.2), floor - room * value / HIGHEST
            pen.rectangle((left, top, width * (i + 0.8), floor), fill=COLOURS[rng.choice(["red", "green", "blue"])])
            middle = width * (i + 0.5) - scale_of(size) * LETTER[0] / 2
            write(image, str(value), (middle, top - letter), INK)
            write(image, BARS[i], (middle, floor + 2), INK)
        pen.line((0, floor, size, floor), fill=INK)
        return [image]


@dataclass(frozen=True)
class Table:
    """A table of three rows and two columns of numbers of two digits."""

    cells: tuple[tuple[int, ...], ...]

    @property
    def key(self) -> str:
        return f"table {self.caption}"

    @property
    def caption(self) -> str:
        return ", ".join(f"{name} {' '.join(map(str, row))}" for name, row in zip(ROWS, self.cells, strict=True))

    def asked(self, look: Look, rng: random.Random) -> list[Asked]:
        """What stands in a cell."""
        row, column = rng.randrange(len(ROWS)), rng.randrange(len(COLUMNS))
        return [Asked("table", f"What is in row {ROWS[row]}, column {COLUMNS[column]}?", str(self.cells[row][column]))]

    def draw(self, look: Look, rng: random.Random) -> list[Image.Image]:
        """One picture; every second one is white on dark."""
        size = look.size
        paper, ink = (PAPER, INK) if rng.random() < 0.5 else (INK, PAPER)
        image, pen = canvas(size, paper)
        height, width = size / (len(ROWS) + 1), size / (len(COLUMNS) + 1)
        texts = [[" ", *COLUMNS], *([name, *map(str, row)] for name, row in zip(ROWS, self.cells, strict=True))]
        for i, row in enumerate(texts):
            for j, text in enumerate(row):
                left = width * (j + 0.5) - scale_of(size) * LETTER[0] * len(text) / 2
                write(image, text, (left, height * (i + 0.5) - scale_of(size) * LETTER[1] / 2), ink)
        for i in range(1, len(ROWS) + 1):
            pen.line((0, height * i, size, height * i), fill=ink)
        for j in range(1, len(COLUMNS) + 1):
            pen.line((width * j, 0, width * j, size), fill=ink)
        return [image]


def any_chart(rng: random.Random) -> Chart:
    """A chart of two to four bars."""
    return Chart(tuple(rng.sample(range(1, HIGHEST + 1), rng.randint(2, len(BARS)))))


def any_table(rng: random.Random) -> Table:
    """A table of numbers."""
    return Table(tuple(tuple(rng.randint(*CELLS) for _ in COLUMNS) for _ in ROWS))
