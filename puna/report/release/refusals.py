"""Why a release may not go out: every reason at once, each with the path through which it comes and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from puna.core import licences
from puna.core.errors import InputError
from puna.core.licences import terms_of
from puna.core.lineage import WEIGHTS, Row, identity, owed
from puna.report.release.facts import Facts

COMMERCIAL, RESEARCH = "commercial", "research"
PROFILES = (COMMERCIAL, RESEARCH)
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
    found = [*_forbidden(facts), *_name(facts), *_texts(facts)]
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
        paths = _to(facts, [row for row in every if duty in owed(row, every)])
        if paths:
            found.append(Refusal(what, paths, fix))
    return found


def _name(facts: Facts) -> list[Refusal]:
    rows = facts.owing(licences.LLAMA_NAME)
    prefixes = {terms.prefix if (terms := terms_of(str(row["licence"]))) else "Llama" for row in rows}
    longest = max(prefixes, key=len, default="")
    if facts.name.startswith(longest):
        return []
    paths = _to(facts, rows)
    what = f"the name '{facts.name}' must begin with \"{longest}\""
    return [Refusal(what, paths, f'--name "{longest}-{facts.name}", or remove these rows')]


def _texts(facts: Facts) -> list[Refusal]:
    """Licences whose text goes along with the material, and weights released under another licence than their own."""
    found = []
    for terms in facts.terms():
        rows = [row for row in facts.sources() if terms_of(str(row.get("licence"))) is terms]
        needed = [row for row in rows if row.get("use") in (None, WEIGHTS) or licences.USE_POLICY in owed(row)]
        paths = _to(facts, needed)
        if terms.copy and needed and terms.id not in facts.licence_texts:
            fix = f"--licence-file {terms.id}=FILE, with the text that came with the weights"
            found.append(Refusal(f"a copy of the {terms.name} must go along and is not held here", paths, fix))
        if any(row.get("use") == WEIGHTS for row in rows) and terms_of(facts.licence) is not terms:
            what = f"weights under {terms.id} cannot be released under {facts.licence}"
            found.append(Refusal(what, paths, f"--licence {terms.id}"))
    return found


def _to(facts: Facts, rows: list[Row]) -> list[tuple[str, ...]]:
    """Every way from the model to these sources."""
    wanted = {identity(row) for row in rows}
    reason = facts.graph.reason(facts.key, lambda row: identity(row) in wanted)
    return list(dict.fromkeys(reason.paths(facts.told))) if reason else []
