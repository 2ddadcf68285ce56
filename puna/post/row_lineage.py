"""Rows of post-training data as lineage: who wrote and judged each, under which terms, and what follows for the artifact (4.2).

The terms of a teacher's outputs come from the stage's own table, else from the row itself, else from the model's well-known name,
else they are unknown, and a release will say so. A person who judges brings no terms.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from puna.core.licences import NOTHING, licence_of_model
from puna.core.lineage import outputs_licence
from puna.core.lineage_rows import FILE, OWN, RowLineage, groups
from puna.core.stage import Artifact, StageContext
from puna.tokenizer.dialog import Provenance

MODELS = ("model", "vision_model")  # kinds of artifacts that write rows


class RecordedRows:
    """The lineage of an artifact's rows, taken down while they are written.

    Args:
        licences: terms of models' outputs by the model's name.
    """

    def __init__(self, ctx: StageContext, licences: Mapping[str, str] | None = None):
        self._ctx, self._licences = ctx, licences or {}
        self._own = {model.digest for kind in MODELS for model in ctx.inputs.all(kind)}  # their terms stand in their own lineage
        self._file = RowLineage(ctx.out / FILE)

    def add(self, part: str, identity: str, provenance: Mapping[str, Any], kind: str = "") -> None:
        """Take down a row of one part; a preference of kind `human` was judged by a person."""
        known = {name: provenance.get(name) for name in ("source", "licence_concluded", "evidence", "round", "parents")}
        teacher, judge = provenance.get("teacher"), provenance.get("judge")
        written, why = self._terms(teacher, provenance.get("teacher_licence"))
        person = kind == "human" and not provenance.get("judge_licence") and not self._is_model(judge)
        judged, how = (NOTHING, "a person's choice") if person else self._terms(judge, provenance.get("judge_licence"))
        self._file.add(
            **known, id=identity, part=part, licence_declared=provenance.get("licence"), teacher=teacher, teacher_licence=written,
            teacher_evidence=why, judge=judge, judge_licence=judged if judge else None, judge_evidence=how if judge else None,
        )  # fmt: skip

    def passing(self, part: str, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Lines of JSON as they came, each taken down."""
        for line in lines:
            row = json.loads(line)
            self.add(part, row["id"], row["provenance"], row.get("kind", ""))
            yield line

    def file(self, part: str, path: Path) -> None:
        """Take down the rows of a finished file."""
        with path.open("rb") as lines:
            for _ in self.passing(part, lines):
                pass

    def rows(self, part: str, rows: Iterable[Any]) -> None:
        """Take down rows that have an `id` and a provenance."""
        for row in rows:
            provenance: Provenance = row.provenance
            self.add(part, row.id, provenance.model_dump(), getattr(row, "kind", ""))

    def close(self, *, declare: bool = True) -> None:
        """Finish the file; the sources of all rows become those of the artifact unless its inputs have them already."""
        self._file.close()
        for group in groups([self._ctx.out / FILE]) if declare else ():
            self._ctx.add_source(**group.source())

    def _is_model(self, name: str | None) -> bool:
        """Whether a judge's name is that of a model we know of."""
        return name is not None and (name in self._own or name in self._licences or licence_of_model(name) is not None)

    def _terms(self, name: str | None, given: str | None) -> tuple[str | None, str | None]:
        if name is None:
            return None, None
        if name in self._own:
            return OWN, "a model of this run"
        if name in self._licences:
            return self._licences[name], "the recipe says so"
        if given and given != OWN:  # which no row from elsewhere can say of itself
            return given, "the row says so"
        return licence_of_model(name) or ("unknown", "nobody says")


def terms_of_outputs(model: Artifact) -> str | None:
    """Terms that go with what a model writes, for rows that may leave the store; None where its lineage is not known."""
    lineage = model.record.get("lineage")
    return None if lineage is None else outputs_licence(lineage)
