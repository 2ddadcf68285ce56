"""`puna transcribe`: what is said in a sound file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from puna.commands import latest
from puna.commands.options import HERE, Dir
from puna.core.errors import InputError

FORMS = ("text", "json", "verbose_json", "srt", "vtt")


def transcribe(
    file: Annotated[Path, typer.Argument(help="WAV, FLAC, OGG or MP3; m4a, webm and mp4 where PyAV is installed.")],
    model: Annotated[str | None, typer.Option("--model", help="A model that listens: a directory, or a stage of a run.")] = None,
    lang: Annotated[str, typer.Option("--lang", help="What is spoken, as an ISO 639 code.")] = "en",
    translate: Annotated[str | None, typer.Option("--translate", help="Write it in this language instead.")] = None,
    form: Annotated[str, typer.Option("--format", help=", ".join(FORMS))] = "text",
    everything: Annotated[bool, typer.Option("--everything", help="Read also what does not sound like speech.")] = False,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    directory: Dir = HERE,
) -> None:
    """Write down what is said in a sound file of any length, or translate it."""
    if form not in FORMS:
        raise InputError(f"there is no format '{form}'", where="--format", fix=", ".join(FORMS))
    if not file.is_file():
        raise InputError("there is no such file", where=str(file), fix="name a sound file")
    path = latest.model_dir(directory, model)
    from puna.speech.transcribe import transcribe as write

    write(file, path, lang=lang, translate=translate, form=form, everything=everything, device=device)  # type: ignore[arg-type]
