"""Reading what a judge wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence

from puna.post.synth.steps import Answer

_SCORE = re.compile(r"\bscore\W{0,4}([1-5])(?![\d./])", re.IGNORECASE)


def mean_score(answers: Sequence[Answer]) -> float:
    """Mean of the scores from 1 to 5 behind "Score:"; an answer that names none, or several, counts as 1."""
    found = [set(_SCORE.findall(answer.text)) for answer in answers]
    scores = [int(next(iter(one))) if len(one) == 1 else 1 for one in found]
    return round(sum(scores) / len(scores), 3)
