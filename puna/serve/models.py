"""Opening whatever a directory holds: a text model, or one that sees."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from puna.infer.engine import Engine
from puna.infer.parallel import ONE, opened
from puna.infer.shards import Layout
from puna.tokenizer.bpe import Tokenizer
from puna.vision.eyes import open_seeing, sees


def opened_model(
    directory: str | Path, layout: Layout = ONE, **options: Any
) -> AbstractContextManager[tuple[Engine, Tokenizer] | None]:  # fmt: skip
    """Engine and tokenizer of a directory, with eyes if it is a `vision_model`; `options` as in `puna.infer.load.load_engine`."""
    return opened(directory, layout, **options, **({"opener": open_seeing} if sees(directory) else {}))
