"""The engine of a model that listens, and requests that hold sounds: for evaluation, transcripts and serving alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from puna.infer.engine import Engine, Request
from puna.infer.load import load_engine
from puna.infer.request import Shown
from puna.speech.clip import Clip
from puna.speech.ears import Ears, open_hearing
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Medium, Message, MessageLike, render


def hearing_engine(directory: str | Path, **options: Any) -> tuple[Engine, Tokenizer, Ears]:
    """Engine, tokenizer and ears of a `speech_model` directory; InputError for another kind. `options` as in `load_engine`."""
    engine, tokenizer = load_engine(directory, opener=open_hearing, **options)
    assert isinstance(engine.eyes, Ears)
    return engine, tokenizer, engine.eyes


def spoken_to(
    tokenizer: Tokenizer, ears: Ears, messages: Sequence[MessageLike], clips: Sequence[Clip], **drawing: Any
) -> Request:
    """The request for the answer to messages whose sounds are `clips`, in order; `drawing` as in `Request`."""
    rendered = render(tokenizer, messages, generation_prompt=True, sounds=[ears.tokens(clip) for clip in clips])
    return Request(rendered.ids, media=[Shown(at, clip) for at, clip in zip(rendered.media, clips, strict=True)], **drawing)


def instructed(system: str, *, sound: bool = True) -> list[Message]:
    """A system prompt, and a sound as the user's message; without `sound` the message is empty."""
    return [Message("system", system), Message("user", media=(Medium(0, "audio", "sound"),) if sound else ())]
