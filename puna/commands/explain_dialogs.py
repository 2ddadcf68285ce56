"""The part of `puna explain` about dialogs: what every quality selection of a run decided, and by which predicates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from puna.commands.options import table

SHOWN_CHARS = 400  # of a dialog


def gather(key: str, run_dir: Path) -> list[dict[str, Any]]:
    """What each quality selection of a run says of the dialog with this id, with `selection` added; empty if none has it."""
    from puna.core.explain import pointed

    made = [artifact for artifact in pointed(run_dir).values() if artifact.record.get("stage") == "post.quality.select"]
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
