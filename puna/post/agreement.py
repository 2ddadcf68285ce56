"""How far annotators agree, and how far the side an answer stands on decides (paper 4.2.1 ranks pairs by hand; nothing there says
how well people repeat one another, so `puna annotate --agreement` does).

Two annotators agree on a comparison when both put the same answer first, edited or not. Kappa takes off the agreement of two who
answer at random with their own habits: (observed - expected) / (1 - expected) (Cohen 1960). Its interval is Cohen's, which takes
the expected agreement as given, with Wilson's interval for the observed one, so that it does not collapse when all agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

from puna.core.errors import InputError
from puna.core.intervals import wilson
from puna.post.annotations import EDITED, SKIPPED, item_of
from puna.tokenizer.dialog import Preference, Strength, content_id, read_rows

STRENGTHS: tuple[Strength, ...] = get_args(Strength)  # the strongest first


@dataclass(frozen=True)
class Vote:
    """What one row says: the candidate that won (0 or 1), how clearly, the candidate on the left, and whether it was edited."""

    winner: int
    strength: Strength
    left: int
    edited: bool


Votes = Mapping[str, Vote]  # by comparison


def agreement(paths: Sequence[Path]) -> dict[str, Any]:
    """The report on files of annotations: `annotators` with counts and position bias, `pairs` with agreement, and `all` of it.

    Raises InputError for files that no annotation page wrote.
    """
    votes = read_votes(paths)
    pairs = [_pair(a, b, votes[a], votes[b]) for a, b in combinations(sorted(votes), 2)]
    every = [vote for found in votes.values() for vote in found.values()]
    shared = [both for a, b in combinations(sorted(votes), 2) for both in _shared(votes[a], votes[b])]
    return {
        "annotators": {name: _counts(list(found.values())) for name, found in sorted(votes.items())},
        "pairs": pairs,
        "all": {**_counts(every), **_agreed(shared)},
    }


def read_votes(paths: Sequence[Path]) -> dict[str, dict[str, Vote]]:
    """Votes by annotator and comparison, which is of the same two answers; of one decided twice the last vote counts."""
    votes: dict[str, dict[str, Vote]] = {}
    for path in paths:
        if path.suffix == SKIPPED:
            continue  # a glob over the folder names these too
        for row in read_rows(path, Preference):
            shown = [candidate.messages for candidate in row.candidates[:EDITED]]  # models may have written others by then
            item = content_id({"item": item_of(row, path), "candidates": shown})
            votes.setdefault(row.provenance.judge or path.stem, {})[item] = _vote(row, path)
    if not votes:
        raise InputError("there are no annotations", where=", ".join(map(str, paths)), fix="puna annotate SOURCE makes them")
    return votes


def _vote(row: Preference, path: Path) -> Vote:
    left = row.provenance.checks.get("left")
    winner = next((place for place in row.ranking if place != EDITED), None)
    if left not in (0, 1) or winner not in (0, 1):
        raise InputError("this row does not say which answer stood on the left", where=str(path), fix="leave the file out")
    return Vote(winner, row.strength, left, EDITED in row.ranking)


def _counts(votes: Sequence[Vote]) -> dict[str, Any]:
    """How many, how clear, how many edited, and how often the left answer won."""
    left = sum(vote.winner == vote.left for vote in votes)
    strengths = Counter(vote.strength for vote in votes)
    return {
        "rows": len(votes),
        "strengths": {strength: strengths[strength] for strength in STRENGTHS},
        "edited": sum(vote.edited for vote in votes),
        "left": _rate(left, len(votes)),
    }


def _shared(first: Votes, second: Votes) -> list[tuple[Vote, Vote]]:
    return [(vote, second[item]) for item, vote in first.items() if item in second]


def _pair(a: str, b: str, first: Votes, second: Votes) -> dict[str, Any]:
    return {"annotators": [a, b], **_agreed(_shared(first, second))}


def _agreed(shared: Sequence[tuple[Vote, Vote]]) -> dict[str, Any]:
    """Agreement on the winner, of all and by the weaker of the two strengths; and on winner and strength together."""
    same = [a.winner == b.winner for a, b in shared]
    alike = sum(a.winner == b.winner and a.strength == b.strength for a, b in shared)
    by_strength = {}
    for strength in STRENGTHS:
        chosen = [s for s, (a, b) in zip(same, shared, strict=True) if _weaker(a, b) == strength]
        by_strength[strength] = _rate(sum(chosen), len(chosen))
    return {
        "shared": len(shared),
        "agree": _rate(sum(same), len(same)),
        "kappa": kappa([(a.winner, b.winner) for a, b in shared]),
        "by_weaker_strength": by_strength,
        "same_strength_too": _rate(alike, len(shared)),
    }


def _weaker(a: Vote, b: Vote) -> Strength:
    return max(a.strength, b.strength, key=STRENGTHS.index)


def kappa(labels: Sequence[tuple[int, int]]) -> dict[str, float | None]:
    """Cohen's kappa of two raters' labels with a 95 % interval; None where chance alone would agree always, or without labels."""
    n = len(labels)
    nothing: dict[str, float | None] = {"value": None, "low": None, "high": None}
    if not n:
        return nothing
    first, second = Counter(a for a, _ in labels), Counter(b for _, b in labels)
    expected = sum(first[label] * second[label] for label in first) / n**2
    if expected == 1:
        return nothing
    agreed = sum(a == b for a, b in labels)
    bounds = {"value": agreed / n, "low": wilson(agreed, n)[0], "high": wilson(agreed, n)[1]}
    return {name: round((share - expected) / (1 - expected), 4) for name, share in bounds.items()}


def _rate(passed: int, n: int) -> dict[str, Any]:
    low, high = wilson(passed, n)
    return {"count": passed, "of": n, "share": round(passed / n, 4) if n else None, "low": round(low, 4), "high": round(high, 4)}


def text(report: Mapping[str, Any]) -> str:
    """The report for people."""
    lines = []
    for name, found in [*report["annotators"].items(), ("all", report["all"])]:
        strengths = ", ".join(f"{count} {strength}" for strength, count in found["strengths"].items())
        lines.append(f"{name}: {found['rows']} rows ({strengths}; {found['edited']} edited), left chosen {_said(found['left'])}")
    for pair in report["pairs"]:
        lines.append(f"{' and '.join(pair['annotators'])}: {_agreement_text(pair)}")
    if len(report["pairs"]) > 1:
        lines.append(f"all pairs: {_agreement_text(report['all'])}")
    return "\n".join(lines)


def _agreement_text(found: Mapping[str, Any]) -> str:
    if not found["shared"]:
        return "no comparison in common"
    kappa = found["kappa"]
    value = "undefined" if kappa["value"] is None else f"{kappa['value']:.2f} [{kappa['low']:.2f}, {kappa['high']:.2f}]"
    by = ", ".join(f"{name} {rate['count']}/{rate['of']}" for name, rate in found["by_weaker_strength"].items() if rate["of"])
    alike = _said(found["same_strength_too"])
    return f"agree on {_said(found['agree'])}, kappa {value}; by the weaker strength: {by}; on the strength too {alike}"


def _said(rate: Mapping[str, Any]) -> str:
    if not rate["of"]:
        return "0 of 0"
    return f"{rate['count']} of {rate['of']} ({100 * rate['share']:.0f} % [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}])"
