"""Reading what a teacher wrote in the form it was asked for: named fields, a yes or no, a list of lines."""

from __future__ import annotations

import re
from collections.abc import Sequence

from puna.post.synth.steps import Answer
from puna.verify.constraints import fold

_YES = re.compile(r"\W*(yes|true)\b", re.IGNORECASE)


def fields(answer: Answer, *names: str) -> list[str] | None:
    """The texts behind "NAME:" or "**NAME**:" at the start of lines, in the order of `names`; None unless each is there once.

    What stands before the first field is ignored; a field ends where the next one begins.
    """
    if not answer.finished:
        return None
    pattern = re.compile(rf"^\W*({'|'.join(map(re.escape, names))})\W{{0,3}}:", re.IGNORECASE | re.MULTILINE)
    marks = list(pattern.finditer(answer.text))
    if len(marks) != len(names):
        return None
    ends = [mark.start() for mark in marks[1:]] + [len(answer.text)]
    found = {mark[1].casefold(): answer.text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)}
    texts = [found.get(name.casefold(), "") for name in names]
    return texts if all(texts) else None


def said_yes(answers: Sequence[Answer], above: float = 0.5) -> bool:
    """Whether a share above `above` of the answers begins with a yes."""
    return sum(bool(_YES.match(answer.text)) for answer in answers) > above * len(answers)


def most_say(answers: Sequence[Answer], wanted: str) -> bool:
    """Whether more than half of the answers hold a text, case and white space ignored."""
    return 2 * sum(fold(wanted) in fold(one.text) for one in answers) > len(answers)
