"""`puna speak`: a text as a file of sound."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from puna.commands import latest
from puna.commands.options import HERE, Dir, Json, show

FORMS = (".wav", ".flac", ".ogg", ".mp3")


def speak(
    text: Annotated[str, typer.Argument(help="What to say; - reads it from standard input.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .wav, .flac, .ogg or .mp3.")],
    model: Annotated[
        str | None,
        typer.Option("--model", help="What `speech.speak` made: a directory, or a stage of the last run (default: rules)."),
    ] = None,
    lang: Annotated[str, typer.Option("--lang", help="Language of the text: en, pt, es, fr, de, it, hi or th.")] = "en",
    voice: Annotated[str | None, typer.Option("--voice", help="A voice of the back end (default: its first).")] = None,
    speed: Annotated[float, typer.Option("--speed", help="0.25 to 4.")] = 1.0,
    backend: Annotated[str | None, typer.Option("--backend", help="formant or espeak (default: espeak where installed).")] = None,
    directory: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Speak a text into a file."""
    import numpy as np
    import soundfile

    from puna.core.errors import InputError
    from puna.speech.out.speaker import Speaker
    from puna.speech.sound import write_sound

    if out.suffix.lower() not in FORMS:
        raise InputError("this name says no form of sound", where=str(out), fix="end it in " + ", ".join(FORMS))
    if not out.parent.is_dir():
        raise InputError("there is no such folder", where=str(out.parent), fix="make it, or name another file")
    path = latest.voice_dir(directory, model) if model else None
    speaker = Speaker.open(path, backend)  # type: ignore[arg-type]
    blocks = speaker.say(sys.stdin.read() if text == "-" else text, lang=lang, voice=voice, speed=speed)
    wave = np.concatenate(list(blocks))
    try:
        write_sound(out, wave, speaker.rate)
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        raise InputError(f"this file cannot be written: {error}", where=str(out), fix="name a file that you may write") from error
    seconds = len(wave) / speaker.rate
    shown = {"out": str(out), "seconds": round(seconds, 3), "rate": speaker.rate, "backend": speaker.backend,
             "models": str(path) if path else None}  # fmt: skip
    show(shown, f"{seconds:.1f} s by {speaker.backend}, {'models of ' + str(model) if model else 'rules alone'}: {out}", as_json)
