"""`puna export`: dialogs, samples and preferences for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from puna.commands.options import Json, show

SHOWN = 5  # reasons for leaving rows out


def export(
    source: Annotated[Path, typer.Argument(help="A tasks or samples artifact, or JSONL of any shape that post.collect reads.")],
    out: Annotated[Path, typer.Argument(help="JSONL to write; what the form cannot say is listed in OUT.left_out.jsonl.")],
    form: Annotated[
        str, typer.Option("--as", help="hf (messages), sharegpt, alpaca, or trl (preferences: prompt, chosen, rejected).")
    ] = "hf",
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="What samples answer: a tasks artifact, or JSONL of tasks.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write dialogs or preferences as other tools read them; reading them back gives the same rows."""
    from puna.post.export import export as write

    report = write(source, out, form, prompts=prompts)  # type: ignore[arg-type]
    lines = [f"{report.written} rows: {out}"]
    if report.as_pairs:
        lines.append(f"{report.as_pairs} rankings of several answers are written as their pairs")
    if report.unranked:
        lines.append(f"{report.unranked} rows have answers without a rank, which are not written")
    kinds = report.left_out.most_common()
    lines += [f"{count} left out: {kind}" for kind, count in kinds[:SHOWN]]
    if kinds[SHOWN:]:
        rest = sum(count for _, count in kinds[SHOWN:])
        lines.append(f"{rest} left out for {len(kinds) - SHOWN} other reasons, listed in {out}.left_out.jsonl")
    show({"out": str(out), **report.summary()}, "\n".join(lines), as_json)
