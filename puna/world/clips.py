"""Short clips of moving shapes, whose questions only the order of the frames answers (paper 7.4: more than one frame needed).

Shapes move on a torus: what leaves on one side comes back on the other. A shape's place in any one frame is then uniform
whatever its direction, so a single frame says nothing of it. In shuffled frames the line of the motion is left, but not which way
along it: that control scores one half on the direction, and one half on the order of two motions as well.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from puna.world.drawing import Asked, Look, Point, Thing, canvas, dark, draw_thing
from puna.world.scenes import any_thing

if TYPE_CHECKING:
    from PIL import Image

STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # of a picture's side; y goes down
LINES = (("left", "right"), ("up", "down"))
TRAVEL = 0.75  # of the side, of a shape that moves all the time; from frame to frame never so far that the way back is shorter
TRAVEL_IN_TURN = 0.6  # of each of two shapes
RADIUS = 0.15
TWO_SHARE = 0.5  # clips in which two shapes move, one after the other


@dataclass(frozen=True)
class Mover:
    """A shape and the way it moves."""

    thing: Thing
    way: str


@dataclass(frozen=True)
class Clip:
    """One shape that moves, or two along parallel lines, the second after the first."""

    movers: tuple[Mover, ...]

    @property
    def key(self) -> str:
        return f"clip {self.caption}"

    @property
    def caption(self) -> str:
        return ", then ".join(f"{mover.thing.name} moves {mover.way}" for mover in self.movers)

    def asked(self, look: Look, rng: random.Random) -> list[Asked]:
        """The way of a shape, and which of two moves first."""
        mover = rng.choice(self.movers)
        found = [Asked("direction", f"Which way does the {mover.thing.name} move?", mover.way)]
        if len(self.movers) == 2:
            found.append(Asked("order", "What moves first?", self.movers[0].thing.name))
        return found

    def draw(self, look: Look, rng: random.Random) -> list[Image.Image]:
        """The frames; no two neighbours are equal."""
        colour, starts = dark(rng), self.starts(rng)
        frames = []
        for frame in range(look.frames):
            image, pen = canvas(look.size, colour)
            for mover, (x, y) in zip(self.movers, self.places(starts, frame, look.frames), strict=True):
                for tile in range(9):  # what lies across a border is seen on both sides
                    at = ((x + tile % 3 - 1) * look.size, (y + tile // 3 - 1) * look.size)
                    draw_thing(pen, mover.thing, at, RADIUS * look.size)
            frames.append(image)
        return frames

    def starts(self, rng: random.Random) -> list[Point]:
        """Where the shapes begin, in picture sides: anywhere on the torus, two of them half a side apart across their lines."""
        x, y = rng.random(), rng.random()
        if len(self.movers) == 1:
            return [(x, y)]
        along = rng.random()
        across = (y + 0.5) % 1 if self.movers[0].way in LINES[0] else (x + 0.5) % 1
        return [(x, y), (along, across) if self.movers[0].way in LINES[0] else (across, along)]

    def places(self, starts: list[Point], frame: int, frames: int) -> list[Point]:
        """Where the shapes are in a frame, in picture sides."""
        done, found = frame / (frames - 1), []
        for turn, (mover, (x, y)) in enumerate(zip(self.movers, starts, strict=True)):
            share = done * len(self.movers) - turn
            moved = (TRAVEL if len(self.movers) == 1 else TRAVEL_IN_TURN) * min(1.0, max(0.0, share))
            dx, dy = STEPS[mover.way]
            found.append(((x + dx * moved) % 1, (y + dy * moved) % 1))
        return found


def any_clip(look: Look, rng: random.Random) -> Clip:
    """A clip of one shape, or of two of different shapes; every way is equally likely."""
    line = rng.choice(LINES)
    movers = [Mover(any_thing(look, rng), rng.choice(line))]
    if rng.random() < TWO_SHARE:
        other = any_thing(look, rng)
        while other.shape == movers[0].thing.shape:
            other = any_thing(look, rng)
        movers.append(Mover(other, rng.choice(line)))
    return Clip(tuple(movers))
