"""Why a release may not go out: every reason at once, each with the path through which it comes and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from puna.core import licences
from puna.core.errors import InputError
from puna.core.licences import terms_of
from puna.core.lineage import WEIGHTS, Row, duties, identity, owed, terms_in
from puna.report.release.facts import Facts, terms_of_row

COMMERCIAL, RESEARCH = "commercial", "research"
PROFILES = (COMMERCIAL, RESEARCH)
OWN_LICENCE = "Apache-2.0"  # of weights that no licence from elsewhere binds
OWN_RESEARCH_LICENCE = "CC-BY-NC-4.0"  # of those where a source forbids commercial use
SHOWN_PATHS = 3
HELD_OUT = ("train/test", "prompts/test")  # pairs of splits that must share no prompt


@dataclass(frozen=True)
class Refusal:
    """One reason: what is wrong, the paths to it (names from the model to the source), and the fix."""

    what: str
    paths: list[tuple[str, ...]]
    fix: str

    def text(self) -> str:
        """For people."""
        shown = [f"     path: {' <- '.join(path)}" for path in self.paths[:SHOWN_PATHS]]
        more = [f"     and {len(self.paths) - SHOWN_PATHS} more paths"] if len(self.paths) > SHOWN_PATHS else []
        return "\n".join([self.what, *shown, *more, f"     fix:  {self.fix}"])


class ReleaseRefused(InputError):
    """A release that may not go out (exit code 2), with all its reasons."""

    def __init__(self, reasons: list[Refusal], where: str):
        lines = [f"  {number}. {reason.text()}" for number, reason in enumerate(reasons, 1)]
        count = f"{len(reasons)} reason{'s' if len(reasons) > 1 else ''}"
        super().__init__("\n".join([f"the release is refused for {count}", *lines]), where=where)
        self.reasons = reasons

    def __reduce__(self) -> tuple:
        return type(self), (self.reasons, self.where)


def licence_refusals(facts: Facts) -> list[Refusal]:
    """What the model's sources forbid, or ask for and do not get. Depends on the facts alone."""
    found = [*_forbidden(facts), *_name(facts), *_texts(facts), *_released_under(facts)]
    if licences.UNKNOWN in owed({"licence": facts.licence}) and facts.licence not in facts.licence_texts:
        fix = f"--licence with an SPDX identifier such as Apache-2.0, or --licence-file {facts.licence}=FILE with its text"
        found.append(Refusal(f"nothing is known of the licence '{facts.licence}' to release under", [], fix))
    if facts.profile not in PROFILES:
        found.append(Refusal(f"'{facts.profile}' is no profile", [], f"take one of {', '.join(PROFILES)}"))
    shared = {pair: count for pair, count in (facts.overlap or {}).items() if count and pair in HELD_OUT}
    for pair, count in shared.items():
        fix = "collect the tasks again, so that what is tested is held out"
        found.append(Refusal(f"{count} evaluation prompts are in the training data ({pair})", [(facts.model["name"],)], fix))
    return found


def _forbidden(facts: Facts) -> list[Refusal]:
    found = []
    remove = "remove these rows (puna affected SOURCE lists what is made again), or have the owner's permission on record"
    rules = [
        (licences.UNKNOWN, "the licence of a source is not known",
         "state its `licence` or `concluded` where it is collected, or `teachers: {NAME: LICENCE}` for a model's outputs"),
        (licences.NO_TRAINING, "a teacher's licence forbids that its outputs improve another model", remove),
        (licences.NO_DERIVATIVES, "a licence forbids adapted versions", remove),
    ]  # fmt: skip
    if facts.profile == COMMERCIAL:
        anyway = f"{remove}; or release under --profile research"
        rules += [
            (licences.NON_COMMERCIAL, "a licence forbids commercial use", anyway),
            (licences.NO_COMPETING, "a provider's terms forbid competing models", anyway),
        ]
    every = facts.sources()
    for duty, what, fix in rules:
        rows = [row for row in every if duty in owed(row, every)]
        if rows:
            found.append(Refusal(what, _to(facts, rows), fix))
    return found


def _name(facts: Facts) -> list[Refusal]:
    rows = facts.owing(licences.LLAMA_NAME)
    prefixes = {terms.prefix for row in rows for terms in terms_of_row(row)} | ({"Llama"} if rows else set())
    longest = max(prefixes, key=len, default="")
    if facts.name.startswith(longest):
        return []
    paths = _to(facts, rows)
    what = f"the name '{facts.name}' must begin with \"{longest}\""
    return [Refusal(what, paths, f'--name "{longest}-{facts.name}", or remove these rows')]


def _texts(facts: Facts) -> list[Refusal]:
    """Licences whose text goes along with the material."""
    found = []
    for terms in facts.terms():
        rows = [row for row in facts.sources() if terms in terms_of_row(row)]
        needed = [row for row in rows if row.get("use") in (None, WEIGHTS) or licences.USE_POLICY in terms.outputs]
        paths = _to(facts, needed)
        if terms.copy and needed and terms.id not in facts.licence_texts:
            fix = f"--licence-file {terms.id}=FILE, with the text that came with the weights"
            found.append(Refusal(f"a copy of the {terms.name} must go along and is not held here", paths, fix))
    return found


def _released_under(facts: Facts) -> list[Refusal]:
    """Weights that are released under another licence than their own, and a licence that grants what a source does not."""
    asked = licence_asked(facts)
    fix = f'--licence "{asked}"' if " " in asked else f"--licence {asked}"
    stated, given, found = terms_in(facts.licence), duties(facts.licence), []
    for licence in sorted({str(row.get("licence")) for row in facts.bases()}):
        lost = duties(licence) - given - {licences.ATTRIBUTION, licences.UNKNOWN, licences.NO_DERIVATIVES}
        if lost or any(terms not in stated for terms in terms_in(licence)):
            paths = _to(facts, [row for row in facts.bases() if row.get("licence") == licence])
            what = f"weights under {licence} cannot be released under {facts.licence}"
            found.append(Refusal(what, paths, fix))
    barred = facts.owing(licences.NON_COMMERCIAL)
    if barred and licences.NON_COMMERCIAL not in given and not found:
        what = f"a licence forbids commercial use, which {facts.licence} grants"
        found.append(Refusal(what, _to(facts, barred), fix))
    return found


def licence_asked(facts: Facts) -> str:
    """The licence that a release can have: that of its weights, else our own; no commercial use where a source forbids it."""
    parts = {as_id(str(row["licence"])) for row in facts.bases()}
    if facts.owing(licences.NON_COMMERCIAL) and not any(licences.NON_COMMERCIAL in duties(part) for part in parts):
        parts.add(OWN_RESEARCH_LICENCE)
    bracketed = [f"({part})" if " " in part and len(parts) > 1 else part for part in sorted(parts)]
    return " AND ".join(bracketed) or OWN_LICENCE


def as_id(licence: str) -> str:
    """A licence as lineage and SPDX files spell it."""
    terms = terms_of(licence)
    return terms.id if terms else licence


def _to(facts: Facts, rows: list[Row]) -> list[tuple[str, ...]]:
    """A way from the model to each of these sources."""
    wanted = {identity(row) for row in rows}
    reason = facts.graph.reason(facts.key, lambda row: identity(row) in wanted)
    return list(dict.fromkeys(reason.paths(facts.told))) if reason else []
