"""`puna annotate`: people compare answers on a page, and how far they agree."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from puna.commands import latest
from puna.commands.options import HERE, Dir, Json, show
from puna.core.errors import InputError


def annotate(
    sources: Annotated[
        list[Path],
        typer.Argument(help="A samples artifact, or JSONL of prompts with candidates; with --models, prompts.", metavar="SOURCE"),
    ],
    models: Annotated[str, typer.Option("--models", help="A,B[,...]: two different ones answer each prompt.")] = "",
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="What the samples answer: a tasks artifact, or JSONL of prompts by id.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the annotators' files.", file_okay=False)] = Path("annotations"),
    agreement: Annotated[bool, typer.Option("--agreement", help="Report on files of annotations instead.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the sides, and of what models say.")] = 0,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N comparisons.")] = None,
    licence: Annotated[str, typer.Option("--licence", help="SPDX id of a file's rows.")] = "unknown",
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="Of --models.")] = 0.8,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Of an answer of --models.")] = 256,
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8010,
    directory: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Rank two answers at a time on a page of your own; every decision is a preference row on disk at once."""
    if agreement:
        from puna.post import agreement as agreements

        report = agreements.agreement(sources)
        show(report, agreements.text(report), as_json)
        return
    if len(sources) != 1:
        raise InputError("the page takes one source", where=", ".join(map(str, sources)), fix="name one, or give --agreement")
    from puna.post.comparisons import read_comparisons, read_prompts

    names = [name for name in models.split(",") if name]
    how = [sorted(names), temperature, max_tokens, seed]
    read = read_prompts(sources[0], licence, how) if names else read_comparisons(sources[0], prompts, licence, seed)
    for note in read.notes():
        typer.echo(note, err=True)
    found = read.comparisons
    paired = None
    if names:
        from puna.post.paired_models import Drawing, open_models

        directories = {name: latest.model_dir(directory, name) for name in names}
        paired = open_models(directories, Drawing(temperature=temperature, max_tokens=max_tokens), seed)
        found = [comparison for comparison in found if paired.fits(comparison)]
        if len(found) < len(read.comparisons):
            print(f"{len(read.comparisons) - len(found)} prompts are longer than the models read: left out", file=sys.stderr)
    from puna.serve.annotate import serve

    serve(found[:limit], out, seed=seed, models=paired, port=port)
