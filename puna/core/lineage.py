"""What an artifact is made from, under which licences, and what that asks of whoever passes it on.

Each stage declares the sources it read; an artifact carries those and the union of its inputs'. The result is a file of the
artifact (`lineage.json`), so that a changed licence upstream changes the digest and travels down like any other change. A row
says how its source entered: as data (no `use`), as `weights` that are carried on, or as `outputs` of a model that wrote or judged
something. Weights become outputs where a model only teaches: its answers, scores and logits are all that goes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from puna.core.licence_expression import counted
from puna.core.licences import (
    ATTRIBUTION,
    LLAMA_NAME,
    NO_DERIVATIVES,
    NO_TRAINING,
    NON_COMMERCIAL,
    NOTHING,
    SHARE_ALIKE,
    UNKNOWN,
    Terms,
    terms_of,
)

Row = dict[str, Any]  # {"source", "licence", "rows"}, "use", "role", "declared", and obligations a stage declared itself

WEIGHTS, OUTPUTS = "weights", "outputs"  # values of `use`
MODEL, VISION_MODEL, SPEECH_MODEL = "model", "vision_model", "speech_model"
HOLDERS = (  # kinds of artifact that hold weights
    *(MODEL, "reward", "step_reward", "image_encoder", VISION_MODEL, "vision_reward"),
    *("speech_encoder", SPEECH_MODEL),
)
_TERMS_STAY = {ATTRIBUTION, SHARE_ALIKE, NO_DERIVATIVES}  # with a model: its outputs are no copies of it

_FREE = re.compile(r"^(?:LicenseRef-)?(?:CC0|PDDL|Unlicense|0BSD|MIT-0|public-domain|none-needed)\b", re.IGNORECASE)
_SHARE = re.compile(r"-SA\b|^A?L?GPL|^ODbL|^MPL|^EPL|^EUPL|^CDLA-Sharing|^GFDL", re.IGNORECASE)
_NOTICE = re.compile(
    r"^CC-BY|^MIT|^BSD|^Apache|^PSF|^Python|^ISC|^ODC-By|^A?L?GPL|^ODbL|^MPL|^EPL|^EUPL|^CDLA|^GFDL|^Zlib|^BSL|^Artistic"
    r"|^X11|^OFL|^Unicode|llama",
    re.IGNORECASE,
)


def combine(own: Iterable[Row], inputs: Iterable[Iterable[Row]]) -> list[Row]:
    """Union of declared sources and of the inputs' sources.

    The same source under the same terms stands once. Rows a stage declared twice add up; along two paths from one origin
    they are the same rows, so between inputs the larger count stands.
    """
    merged: dict[str, Row] = {}
    for row in own:
        known = merged.setdefault(identity(row), {**row, "rows": 0})
        known["rows"] += row.get("rows", 0)
    for rows in inputs:
        for row in rows:
            known = merged.setdefault(identity(row), dict(row))
            known["rows"] = max(known.get("rows", 0), row.get("rows", 0))
    return [merged[key] for key in sorted(merged)]


def handed_on(rows: Iterable[Row], carried: bool) -> list[Row]:
    """An input's sources as they go on: where its weights are not `carried`, what was weights counts as outputs."""
    return [{**row, "use": OUTPUTS} if not carried and row.get("use") == WEIGHTS else dict(row) for row in rows]


def carried_weights(kind: str, inputs: list[tuple[str, str]], teacher: int | None) -> list[bool]:
    """Which inputs, given as (name, kind), put their weights into an artifact of `kind`.

    A reward model only judges what a model learns. `teacher`: the place, among the model inputs, of the one that only teaches.
    """
    models = [place for place, (_, given) in enumerate(inputs) if given == MODEL]
    taught_by = models[teacher] if teacher is not None and teacher < len(models) else None
    held = {MODEL} if kind == MODEL else set(HOLDERS if kind in HOLDERS else ())
    return [given in held and place != taught_by for place, (_, given) in enumerate(inputs)]


def obligations(rows: Iterable[Row]) -> list[str]:
    """What the union of some sources obliges to, sorted: by licence, and what a stage declared beside it (`llama_name=True`)."""
    rows = list(rows)
    return sorted(set().union(*(owed(row, rows) for row in rows)) if rows else set())


def owed(row: Row, among: Iterable[Row] = ()) -> set[str]:
    """What one source obliges to.

    `among`: the other sources of the artifact. Some licences let outputs improve models that hold their own weights.
    """
    licence = str(row.get("licence") or "unknown")
    found = duties(licence, str(row.get("use", "")))
    found |= {key.replace("_", "-") for key, value in row.items() if value is True}
    terms = terms_of(licence)
    if NO_TRAINING in found and terms is not None and terms.own_kind:
        kin = (terms_of(str(other.get("licence"))) for other in among if other.get("use") == WEIGHTS)
        if terms in kin:
            return (found - {NO_TRAINING}) | terms.use
    return found


def duties(licence: str, use: str = "") -> set[str]:
    """Obligations of an SPDX expression: `A AND B` asks for both, `A OR B` for the lighter one. `use` as in a row."""
    return set().union(*(_duties_of_name(name, use) for name in _counted(licence, use)))


def terms_in(licence: str, use: str = "") -> list[Terms]:
    """The entries of all licences that count in an SPDX expression. `use` as in a row."""
    return [terms for name in _counted(licence, use) if (terms := terms_of(name)) is not None]


def _counted(licence: str, use: str) -> list[str]:
    def weight(names: list[str]) -> tuple:
        found = set().union(*(_duties_of_name(name, use) for name in names))
        return UNKNOWN in found, len(found), sorted(found)

    return counted(licence, weight)


def _duties_of_name(licence: str, use: str) -> set[str]:
    name = licence.split(" WITH ")[0].strip()
    if (terms := terms_of(name)) is not None:
        return set(terms.outputs if use == OUTPUTS else terms.use)
    if _FREE.search(name):
        return set()
    found = {ATTRIBUTION} if _NOTICE.search(name) else {UNKNOWN}
    found |= {SHARE_ALIKE} if _SHARE.search(name) else set()
    found |= {NON_COMMERCIAL} if re.search(r"-NC\b", name, re.IGNORECASE) else set()
    found |= {NO_DERIVATIVES} if re.search(r"-ND\b", name, re.IGNORECASE) else set()
    if re.search(r"llama", name, re.IGNORECASE):  # of no version we know
        return {UNKNOWN} if use == OUTPUTS else found | {LLAMA_NAME}
    return found - _TERMS_STAY if use == OUTPUTS else found


def outputs_licence(rows: Iterable[Mapping[str, Any]]) -> str:
    """Terms of what a model of these sources writes: an SPDX expression, `none-needed` where nothing is asked."""
    asked = set()
    for row in rows:
        licence = str(row.get("licence") or "unknown")
        if duties(licence, OUTPUTS) if row.get("use") else duties(licence) - _TERMS_STAY:
            asked.add(licence)
    return " AND ".join(sorted(f"({name})" if " " in name else name for name in asked)) or NOTHING


def identity(row: Row) -> str:
    """What makes a source the same source: all but the number of its rows."""
    rest = sorted((key, str(value)) for key, value in row.items() if key not in ("source", "licence", "rows"))
    return repr((str(row.get("source")), str(row.get("licence")), rest))
