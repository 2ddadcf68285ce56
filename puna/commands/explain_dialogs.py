"""The part of `puna explain` about dialogs: what every quality selection decided, and by which predicates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.commands.options import table

if TYPE_CHECKING:
    from puna.core.stage import Artifact

STAGE = "post.quality.select"
SHOWN_CHARS = 400  # of a dialog


def selection(place: str | None) -> Artifact | None:
    """The quality selection whose directory this is; None for anything else."""
    from puna.core import store

    found = store.read(Path(place)) if place else None
    return found if found is not None and found.record.get("stage") == STAGE else None


def of_run(run_dir: Path) -> list[Artifact]:
    """The quality selections of a run."""
    from puna.core.explain import pointed

    return [artifact for artifact in pointed(run_dir).values() if artifact.record.get("stage") == STAGE]


def gather(key: str, made: list[Artifact]) -> list[dict[str, Any]]:
    """What each quality selection says of the dialog with this id, with `selection` added; empty if none has it."""
    if not made:
        return []
    from puna.post.quality.explain import stories

    return [{"selection": artifact.name, **story} for artifact in made for story in stories(artifact.path, key)]


def text(story: dict[str, Any]) -> str:
    """A story for people."""
    decision = "kept" if story["keep"] else f"left out: it fails `{story['reason']}`"
    if story["rewritten"]:
        decision += ", rewritten"
    rows = [
        [row["name"], _number(row["value"]), _number(row["limit"]), _mark(row["passes"]), row["detail"]]
        for row in story["predicates"]
    ]
    worth = f"quality {story['quality']:.3g} x difficulty {story['difficulty_level']:.3g} = {story['worth']:.3g}"
    said = story["text"][:SHOWN_CHARS]
    return "\n".join([
        f"{story['id']} in {story['selection']}: {decision}", worth,
        table(rows, ["predicate", "value", "limit", "", "about"]), said,
    ])  # fmt: skip


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def _mark(passes: bool | None) -> str:
    return "" if passes is None else "passes" if passes else "fails"
