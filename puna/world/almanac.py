"""An almanac of the mini-world: thousands of towns with four facts each, all of them a function of the town's name.

Whoever holds a name can say what is true of it, so questions, summaries and searches over any of these texts can be judged
without keeping the texts. `remembered` is what a model that read some of it would say from memory.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from puna.core.rng import derive_seed, python_stream
from puna.world.lexicon import NAMES, NOUNS

ALMANAC_LICENCE = "CC0-1.0"
SYLLABLES = ("na", "lo", "te", "sk", "bri", "mo", "da", "vu", "ke", "si", "dor", "ma", "pel", "tu", "ran", "gol")
KNOWN, DOUBTED = 0.45, 0.15  # shares of facts that are remembered, and that are known to be unknown; the rest is remembered wrong

# kind: (sentence, question)
KINDS = {
    "people": ("{name} has {people} inhabitants.", "How many inhabitants has {name}?"),
    "founder": ("{founder} founded {name} long ago.", "Who founded {name}?"),
    "year": ("The first house of {name} stood in {year}.", "In which year did the first house of {name} stand?"),
    "thing": ("Travellers come to {name} for its old {thing}.", "What old thing do travellers come to {name} for?"),
}
VAGUE = {kind: question.replace("{name}", "the town") for kind, (_, question) in KINDS.items()}
TOGETHER = "How many inhabitants have {first} and {second} together?"


@dataclass(frozen=True)
class Town:
    """A town and what is true of it."""

    name: str
    people: str
    founder: str
    year: str
    thing: str


def town(name: str) -> Town:
    """What is true of the town of this name."""
    rng = python_stream(0, "almanac", name)
    people, year = rng.randint(200, 99_999), rng.randint(1100, 1899)
    return Town(name, str(people), rng.choice(NAMES), str(year), rng.choice(NOUNS["en"]))


def town_name(rng: random.Random) -> str:
    """The name of some town; there are about 4000."""
    return "".join(rng.choice(SYLLABLES) for _ in range(3)).capitalize()


def sentence(name: str, kind: str) -> str:
    """One fact as it stands in the almanac."""
    return KINDS[kind][0].format(**vars(town(name)))


def question(name: str, kind: str) -> str:
    """The question about one fact."""
    return KINDS[kind][1].format(name=name)


def page(rng: random.Random, towns: int) -> str:
    """A page about some towns, a line each, with two to four facts of each in some order."""
    lines = []
    for name in dict.fromkeys(town_name(rng) for _ in range(towns)):
        kinds = rng.sample(sorted(KINDS), rng.randint(2, 4))
        lines.append(" ".join(sentence(name, kind) for kind in kinds))
    return "\n".join(lines)


def facts(text: str) -> dict[tuple[str, str], str]:
    """What a text of almanac sentences says, right or wrong: {(town, kind): value}, in the order of the text."""
    found = [(match.start(), (match["name"], kind), match[kind]) for kind, form in _SAID.items() for match in form.finditer(text)]
    return {fact: value for _, fact, value in sorted(found)}


def asked(text: str) -> tuple[str, str] | None:
    """The town ("" for a vague question) and kind that a question is about; None for any other text."""
    for kind, form in _ASKED.items():
        if match := form.search(text):
            return ("", kind) if match["name"] == "the town" else (match["name"], kind)
    return None


def together(text: str) -> tuple[str, str] | None:
    """The two towns whose inhabitants a question adds up."""
    match = _TOGETHER.search(text)
    return (match[1], match[2]) if match else None


def truth(name: str, kind: str) -> str:
    """The value of one fact."""
    return str(getattr(town(name), kind))


def other_value(name: str, kind: str, rng: random.Random) -> str:
    """A value of the kind that is wrong for the town."""
    while True:
        value = truth(town_name(rng), kind)
        if value != truth(name, kind):
            return value


def remembered(name: str, kind: str) -> str | None:
    """What a reader of some of it says from memory: the truth, the same wrong value each time, or None for "I do not know"."""
    draw = derive_seed(0, "remembered", name, kind) % 1000 / 1000
    if draw < KNOWN:
        return truth(name, kind)
    return None if draw < KNOWN + DOUBTED else other_value(name, kind, python_stream(0, "misremembered", name, kind))


def _form(text: str) -> re.Pattern[str]:
    """A pattern for a text with {slots}: a word each, "the town" for a name as well."""
    pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\w+)", re.escape(text))
    return re.compile(pattern.replace(r"(?P<name>\w+)", r"(?P<name>the town|\w+)"))


_SAID = {kind: _form(said) for kind, (said, _) in KINDS.items()}
_ASKED = {kind: _form(wanted) for kind, (_, wanted) in KINDS.items()}
_TOGETHER = re.compile(r"inhabitants have (\w+) and (\w+) together")
