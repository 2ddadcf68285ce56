"""A language model as a judge of dialogs: three points for general text, two for code, and how hard a dialog is (paper 4.2.3).

General dialogs get a point each for accuracy, for following the instruction and for tone and presentation; code a point each
for being free of bugs and for what the user meant. Only the highest sum counts as high quality. A reply must name every point
exactly once, one a line, and nothing else is guessed from it: what cannot be read says nothing of the row and is counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from puna.core.rng import derive_seed
from puna.post.synth.steps import Ask
from puna.post.synth.teacher import Teacher
from puna.tokenizer.dialog import Dialog, MessageRow

GENERAL = ("accuracy", "instruction", "tone")
CODE = ("bugs", "intent")
LEVELS = 3  # of difficulty
MAX_TAGS = 12  # intentions that are counted; a longer list is a model that does not stop
REPLY_TOKENS = 96

_WORDING = {
    "accuracy": "everything the last answer states is right",
    "instruction": "it does all that was asked, in the form that was asked for",
    "tone": "its tone and presentation suit the request",
    "bugs": "the code in the last answer has no bug",
    "intent": "the code does what the user meant",
}


class Verdict(NamedTuple):
    """Points of a dialog and the most there are; both 0 where the reply could not be read."""

    points: int
    most: int


class Hardness(NamedTuple):
    """Number of different intentions, and difficulty from 1 to LEVELS; 0 where the reply could not be read."""

    intents: int
    level: int


def judge(teacher: Teacher, dialogs: Sequence[Dialog], seed: int) -> list[Verdict]:
    """Ask for the points of every dialog, once and greedily."""
    kinds = [points_of(dialog) for dialog in dialogs]
    questions = [_question(dialog, _points_asked(kind)) for dialog, kind in zip(dialogs, kinds, strict=True)]
    replies = _replies(teacher, questions, seed)
    return [Verdict(*_points(reply, kind)) for reply, kind in zip(replies, kinds, strict=True)]


def judge_difficulty(teacher: Teacher, dialogs: Sequence[Dialog], seed: int) -> list[Hardness]:
    """Ask for the intentions behind the user's turns (Instag, Lu et al. 2023) and for a level of difficulty."""
    return [read_hardness(reply) for reply in _replies(teacher, [_question(d, _HARDNESS) for d in dialogs], seed)]


def points_of(dialog: Dialog) -> tuple[str, ...]:
    """What a dialog is judged on."""
    return CODE if dialog.capability.partition("/")[0] == "code" else GENERAL


def read_points(reply: str, kind: Sequence[str]) -> int | None:
    """The sum of a reply's points; None unless every one of `kind` stands in it exactly once, as `name: 0` or `name: 1`."""
    found = re.findall(r"^[ \t]*(\w+)[ \t]*:[ \t]*([01])[ \t]*$", reply, re.MULTILINE)
    lines = [line for line in reply.splitlines() if line.strip()]
    if len(lines) != len(found) or sorted(name.lower() for name, _ in found) != sorted(kind):
        return None
    return sum(int(point) for _, point in found)


def read_hardness(reply: str) -> Hardness:
    """Intentions and level of a reply of two lines, `intents: a; b` and `level: 2`."""
    found = re.fullmatch(r"\s*intents:([^\n]+)\n\s*level:[ \t]*([123])\s*", reply, re.IGNORECASE)
    if found is None:
        return Hardness(0, 0)
    tags = {" ".join(tag.casefold().split()) for tag in found[1].split(";") if tag.strip()}
    return Hardness(len(tags), int(found[2])) if 0 < len(tags) <= MAX_TAGS else Hardness(0, 0)


def _points(reply: str, kind: Sequence[str]) -> tuple[int, int]:
    points = read_points(reply, kind)
    return (0, 0) if points is None else (points, len(kind))


def _points_asked(kind: Sequence[str]) -> str:
    asked = "\n".join(f"{name}: 1 if {_WORDING[name]}, else 0" for name in kind)
    return f"Judge the last answer of the dialog above. Reply with these lines and nothing else:\n{asked}"


_HARDNESS = (
    "Name the different intentions behind what the user asks in the dialog above, and say how hard it is to answer well "
    "(1 easy, 2 takes work, 3 hard). Reply with these two lines and nothing else:\nintents: first; second; ...\nlevel: 1, 2 or 3"
)


def _question(dialog: Dialog, asked: str) -> Ask:
    """The dialog as a text and the question behind it: given as turns, it would be gone on with."""
    told = "\n\n".join(f"[{m.role}]\n{m.content or m.tool_calls or ''}" for m in dialog.messages)
    question = MessageRow(role="user", content=f"{told}\n\n---\n{asked}")
    return Ask([question], temperature=0.0, max_tokens=REPLY_TOKENS, role="judge")


def _replies(teacher: Teacher, questions: list[Ask], seed: int) -> list[str]:
    answers = teacher.answers(questions, seeds=[derive_seed(seed, i) for i in range(len(questions))])
    return [one[0].text if one and one[0].finished else "" for one in answers]
