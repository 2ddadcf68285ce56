"""A small random model that listens, and tones to play to it."""

from __future__ import annotations

import io
import math

import torch
from speech_toys import listening, toy_tokenizer

from puna.infer.engine import Engine, Request
from puna.infer.request import Shown
from puna.speech.clip import Clip, clip_of
from puna.speech.ears import Ears
from puna.speech.model import SpeechLlama

TOKENIZER = toy_tokenizer()
RATE = 16_000


def hearing_model(*, dtype: torch.dtype = torch.float32) -> SpeechLlama:
    """Weights large enough that what is heard changes what is said."""
    model = listening()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(3.0)
    return model.to(dtype).eval()


def tone(hertz: float, seconds: float = 0.5, rate: int = RATE) -> torch.Tensor:
    return 0.5 * torch.sin(2 * math.pi * hertz * torch.arange(int(seconds * rate)) / rate)


def clip(model: SpeechLlama, hertz: float, seconds: float = 0.5) -> Clip:
    return clip_of(tone(hertz, seconds), model.sound)


def sound_file(hertz: float, seconds: float = 0.5, kind: str = "WAV", rate: int = RATE) -> bytes:
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, tone(hertz, seconds, rate).numpy(), rate, format=kind)
    return out.getvalue()


def engine_of(model: SpeechLlama, **options) -> Engine:
    return Engine(model.text, stop_ids=(), page_size=8, eyes=Ears(model), **options)


def asked(model: SpeechLlama, parts: list[int | Clip], **options) -> Request:
    """A request whose prompt is this: sounds as placeholders between their marks."""
    ids: list[int] = []
    media = []
    for part in parts:
        if isinstance(part, Clip):
            media.append(Shown(len(ids) + 1, part))
            ids += [model.tokens.start, *[model.tokens.placeholder] * model.tokens_of(len(part.frames_FM)), model.tokens.end]
        else:
            ids.append(part)
    return Request(ids, media=media, **{"max_tokens": 8, "logprobs": 1, **options})


def words(start: int, count: int) -> list[int]:
    return [(start + 7 * i) % 250 for i in range(count)]
