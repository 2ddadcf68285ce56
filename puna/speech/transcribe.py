"""`puna transcribe`: what is said in a sound file, or what it means in another language, piece by piece as it is read."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from torch import Tensor

from puna.infer.engine import Engine, Request
from puna.speech.clip import Clip, clip_of
from puna.speech.cuts import BLOCK_S, LONGEST_S, Cut, cuts
from puna.speech.ears import Ears
from puna.speech.hear import hearing_engine, instructed, spoken_to
from puna.speech.prompts import recognition, translation
from puna.speech.sound import RATE, SoundRules, blocks
from puna.speech.transcript import Format, Said, subtitles, verbose, whole
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import parse

OWN_FILES = SoundRules(max_bytes=16 << 30, max_seconds=24 * 3600.0)  # whoever sits at the terminal
TOGETHER = 8  # pieces in memory, answered side by side
TOKENS, TOKENS_PER_S = 32, 25  # most that an answer to a piece may have: one that repeats itself ends there


def transcript(
    engine: Engine, tokenizer: Tokenizer, ears: Ears, pieces: Iterable[Cut], system: str, temperature: float = 0.0, seed: int = 0
) -> Iterator[Said]:
    """What is said in each piece, as soon as `TOGETHER` of them are answered.

    Args:
        system: the prompt that says what is wanted (`puna.speech.prompts`).
    """
    left = iter(pieces)
    while part := list(islice(left, TOGETHER)):
        requests = [
            request_of(tokenizer, ears, clip_of(cut.wave_N, ears.model.sound), system, temperature=temperature, seed=seed)
            for cut in part
        ]
        for cut, (answer, *_) in zip(part, engine.generate(requests), strict=True):
            text = parse(tokenizer, answer.drawn).content.strip()
            yield Said(cut.start, cut.end, text, tuple(answer.ids), answer.logprob)


def request_of(tokenizer: Tokenizer, ears: Ears, clip: Clip, system: str, *, temperature: float = 0.0, seed: int = 0) -> Request:
    """The request for what a clip says; its answer is bounded by how long the clip is."""
    mel = ears.model.sound.mel
    most = TOKENS + int(TOKENS_PER_S * len(clip.frames_FM) * mel.hop / mel.rate)
    return spoken_to(tokenizer, ears, instructed(system), [clip], max_tokens=most, temperature=temperature, seed=seed)


def transcribe(
    file: Path, model: Path, *, lang: str = "en", translate: str | None = None, form: Format = "text", everything: bool = False,
    device: str = "cpu",
) -> None:  # fmt: skip
    """Print what is said in a file, as it is found.

    Args:
        lang: what is spoken. translate: the language wanted instead.
        form: `text` and subtitles of the pieces, `json` a line for each piece, `verbose_json` one object at the end.
        everything: read also what does not sound like speech.

    Raises InputError for a file that is no sound, and a model that does not listen.
    """
    system, wanted = (recognition(lang), lang) if translate is None else (translation(translate), translate)
    engine, tokenizer, ears = hearing_engine(model, device=device)
    said, seconds = list[Said](), 0.0

    def counted() -> Iterator[Tensor]:
        nonlocal seconds
        for block_N in blocks(file, OWN_FILES, BLOCK_S):
            seconds += len(block_N) / RATE
            yield block_N

    pieces = cuts(counted(), longest=min(LONGEST_S, ears.room), activity=not everything)
    for piece in transcript(engine, tokenizer, ears, pieces, system):
        said.append(piece)
        if form == "json":
            line = {"start": round(piece.start, 3), "end": round(piece.end, 3), "text": piece.text}
            print(json.dumps(line, ensure_ascii=False), flush=True)
        elif form == "text" and piece.text:
            print(piece.text, flush=True)
    if form == "verbose_json":
        task = "transcribe" if translate is None else "translate"
        print(json.dumps(verbose(said, wanted, task=task, seconds=seconds), ensure_ascii=False))
    elif form in ("srt", "vtt"):
        print(subtitles(said, form), end="")
    if not whole(said, wanted):
        print("nobody speaks in it" if not said else "nothing was understood", file=sys.stderr)
