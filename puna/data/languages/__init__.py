"""What quality rules must know of a language: one JSON file a language, named by its ISO 639 code.

To add a language, write a file: its name, where the list comes from, 10 to 20 of its most frequent closed-class words in lower
case, and those limits (names of `puna.data.signals.Limits`) in which its ordinary prose differs from English. A language
without a file is not judged by stop words.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from puna.core.errors import InputError
from puna.core.settings import Settings


class Language(Settings):
    """One language file.

    Attributes:
        name: in English.
        origin: where the words come from.
        stop_words: lower-case words as `puna.data.words.words_of` splits them.
        limits: limits that replace those of prose.
    """

    name: str
    origin: str
    stop_words: tuple[str, ...]
    limits: dict[str, Any] = {}


@lru_cache(maxsize=1)
def languages() -> dict[str, Language]:
    """All language files by code, in the order of their names; InputError names a file that does not fit the form."""
    return {path.stem: _read(path) for path in sorted(Path(__file__).parent.glob("*.json"))}


def _read(path: Path) -> Language:
    try:
        return Language.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValidationError, ValueError) as error:
        raise InputError(
            f"this language file cannot be used: {error}", where=str(path), fix="give it the fields of the others"
        ) from error
