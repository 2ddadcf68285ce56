"""What was said when, in the forms that transcripts are kept in: text, JSON, SubRip and WebVTT subtitles."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from puna.speech.normal import by_character
from puna.speech.prompts import language_name

Format = Literal["text", "json", "verbose_json", "srt", "vtt"]


@dataclass(frozen=True)
class Said:
    """What was said between `start` and `end` (seconds): text, tokens, and the sum of their log-probabilities."""

    start: float
    end: float
    text: str
    tokens: tuple[int, ...] = ()
    logprob: float = 0.0


def whole(pieces: Sequence[Said], lang: str) -> str:
    """The text of all pieces."""
    return separator(lang).join(piece.text for piece in pieces if piece.text)


def separator(lang: str) -> str:
    """What stands between pieces: a space, or nothing in languages that write none."""
    return "" if by_character(lang) else " "


def verbose(pieces: Sequence[Said], lang: str, *, task: str, seconds: float, temperature: float = 0.0) -> dict[str, Any]:
    """OpenAI's `verbose_json`, `segments` being the pieces; `no_speech_prob` is 0, since pieces without speech never come."""
    return {
        "task": task,
        "language": language_name(lang).lower(),
        "duration": round(seconds, 3),
        "text": whole(pieces, lang),
        "segments": [_segment(i, piece, temperature) for i, piece in enumerate(pieces)],
    }


def _segment(number: int, piece: Said, temperature: float) -> dict[str, Any]:
    raw = piece.text.encode()
    return {
        "id": number, "seek": round(100 * piece.start), "start": round(piece.start, 3), "end": round(piece.end, 3),
        "text": piece.text, "tokens": list(piece.tokens), "temperature": temperature,
        "avg_logprob": piece.logprob / max(1, len(piece.tokens)), "no_speech_prob": 0.0,
        "compression_ratio": len(raw) / len(zlib.compress(raw)),
    }  # fmt: skip


def subtitles(pieces: Sequence[Said], form: Literal["srt", "vtt"]) -> str:
    """SubRip or WebVTT; pieces without text are left out."""
    told, point = [piece for piece in pieces if piece.text], "." if form == "vtt" else ","
    cues = [f"{_clock(piece.start, point)} --> {_clock(piece.end, point)}\n{_line(piece.text)}\n\n" for piece in told]
    return "WEBVTT\n\n" + "".join(cues) if form == "vtt" else "".join(f"{i}\n{cue}" for i, cue in enumerate(cues, 1))


def _line(text: str) -> str:
    """The text in one line, without what would end a cue or begin another."""
    return " ".join(text.split()).replace("-->", "->")


def _clock(seconds: float, point: str) -> str:
    total = round(1000 * seconds)
    return f"{total // 3_600_000:02}:{total // 60_000 % 60:02}:{total // 1000 % 60:02}{point}{total % 1000:03}"
