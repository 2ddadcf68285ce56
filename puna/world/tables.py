"""Tables of the mini-world as files: who has how many of what, with numbers that anyone can add up again."""

from __future__ import annotations

import csv
import io
import random

from puna.world.lexicon import NAMES, NOUNS

TABLE_LICENCE = "CC0-1.0"


def draw_table(rng: random.Random) -> tuple[str, bytes]:
    """A file name and a csv or tsv file of 3 to 8 people and 2 to 4 things, whole numbers below 100."""
    people, things = rng.sample(NAMES, rng.randint(3, 8)), rng.sample(NOUNS["en"], rng.randint(2, 4))
    kind = rng.choice(("csv", "tsv"))
    text = io.StringIO()
    writer = csv.writer(text, delimiter="," if kind == "csv" else "\t", lineterminator="\n")
    writer.writerow(["name", *things])
    writer.writerows([person, *(rng.randint(1, 99) for _ in things)] for person in people)
    return f"{rng.choice(things)}-{rng.randint(1, 999)}.{kind}", text.getvalue().encode()
