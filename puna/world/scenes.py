"""Scenes: one to four coloured shapes, each in a quarter of the picture of its own."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from puna.world.drawing import COLOURS, SHAPES, Asked, Look, Thing, canvas, dark, draw_thing

if TYPE_CHECKING:
    from PIL import Image

PLACES = ("top left", "top right", "bottom left", "bottom right")
RADIUS = (0.14, 0.2)  # of the picture's side
OFF_CENTRE = 0.05  # of the picture's side, at most


@dataclass(frozen=True)
class Scene:
    """Things by their places (numbers in PLACES, ascending)."""

    things: tuple[tuple[int, Thing], ...]

    @property
    def key(self) -> str:
        return self.caption

    @property
    def caption(self) -> str:
        return ", ".join(f"{thing.name} {PLACES[place]}" for place, thing in self.things)

    def asked(self, look: Look, rng: random.Random) -> list[Asked]:
        """Questions of every kind that this scene has one answer to."""
        things = [thing for _, thing in self.things]
        shapes = [thing.shape for thing in things]
        found = [Asked("count", "How many things are there?", str(len(things)))]
        place, thing = rng.choice(self.things)
        found.append(Asked("what", f"What is {PLACES[place]}?", thing.name))
        single = [(place, thing) for place, thing in self.things if shapes.count(thing.shape) == 1]
        if single:
            _, thing = rng.choice(single)
            found.append(Asked("colour", f"What colour is the {thing.shape}?", thing.colour))
            place, thing = rng.choice(single)
            found.append(Asked("where", f"Where is the {thing.shape}?", PLACES[place]))
        return [*found, *_exists(shapes, SHAPES[: look.shapes], rng)]

    def draw(self, look: Look, rng: random.Random) -> list[Image.Image]:
        """One picture; sizes of the things and their places in the quarter vary."""
        image, pen = canvas(look.size, dark(rng))
        for place, thing in self.things:
            at = tuple(look.size * (0.25 + 0.5 * side + rng.uniform(-OFF_CENTRE, OFF_CENTRE)) for side in (place % 2, place // 2))
            draw_thing(pen, thing, (at[0], at[1]), look.size * rng.uniform(*RADIUS))
        return [image]


def _exists(shapes: list[str], known: tuple[str, ...], rng: random.Random) -> list[Asked]:
    """Yes and no are equally likely, also for those who know how many things there are; nothing where there is no "no"."""
    absent = [shape for shape in known if shape not in shapes]
    if not absent:
        return []
    shape, answer = (rng.choice(absent), "no") if rng.random() < 0.5 else (rng.choice(shapes), "yes")
    return [Asked("exists", f"Is there a {shape}?", answer)]


def any_scene(look: Look, rng: random.Random) -> Scene:
    """A scene of one to `look.things` things, each number equally likely."""
    places = sorted(rng.sample(range(len(PLACES)), rng.randint(1, look.things)))
    return Scene(tuple((place, any_thing(look, rng)) for place in places))


def any_thing(look: Look, rng: random.Random) -> Thing:
    """Some shape in some colour."""
    return Thing(rng.choice(SHAPES[: look.shapes]), rng.choice(list(COLOURS)[: look.colours]))
