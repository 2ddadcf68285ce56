"""Opening whatever a directory holds: a text model, or one that sees or listens."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from puna.infer.engine import Engine
from puna.infer.parallel import ONE, opened
from puna.infer.shards import Layout
from puna.speech.ears import open_hearing
from puna.speech.files import is_speech
from puna.tokenizer.bpe import Tokenizer
from puna.vision.eyes import open_seeing, sees


def opened_model(
    directory: str | Path, layout: Layout = ONE, **options: Any
) -> AbstractContextManager[tuple[Engine, Tokenizer] | None]:  # fmt: skip
    """Engine and tokenizer of a directory, with eyes or ears where its model has them; `options` as in `load_engine`."""
    opener = open_seeing if sees(directory) else open_hearing if is_speech(directory) else None
    return opened(directory, layout, **options, **({} if opener is None else {"opener": opener}))
