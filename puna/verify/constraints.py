"""Demands on the form of an answer that a program can check, in the manner of IFEval, for any of the eight languages.

A constraint is a dict of named demands, all of which must hold: {"end_word": "sol", "max_words": 20}.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from typing import Any

from puna.core.errors import InputError
from puna.verify.language import ANSWER_TAGS, SCRIPTS, answer_tags, main_script

BULLETS = ("- ", "* ", "• ")


def holds(constraint: dict[str, Any] | None, text: str) -> bool:
    """Whether `text` meets every demand; InputError for a demand nobody knows (the task is wrong, not the answer)."""
    for name, wanted in (constraint or {}).items():
        if name not in CHECKS:
            raise InputError(f"unknown constraint '{name}'", fix=f"use one of: {', '.join(CHECKS)}")
        if not CHECKS[name](wanted, text):
            return False
    return True


def end_word(wanted: str, text: str) -> bool:
    """The text ends with the word, with nothing after it; the same word in capitals does not count."""
    return bool(words := text.split()) and words[-1] == wanted


def answer_lang(wanted: str, text: str) -> bool:
    """Exactly one answer tag stands in the text, and it is that language's."""
    return [lang for lang, _, _ in answer_tags(text)] == [wanted]


def language(wanted: str, text: str) -> bool:
    """Most letters are of the language's script, and no other language's answer tag stands in the text."""
    if wanted not in ANSWER_TAGS:
        raise InputError(f"unknown language '{wanted}' in a constraint", fix=f"use one of: {', '.join(ANSWER_TAGS)}")
    return main_script(text) == SCRIPTS.get(wanted, "LATIN") and all(lang == wanted for lang, _, _ in answer_tags(text))


def max_words(wanted: int, text: str) -> bool:
    """At most so many words, split at white space."""
    return len(text.split()) <= wanted


def min_words(wanted: int, text: str) -> bool:
    """At least so many words, split at white space."""
    return len(text.split()) >= wanted


def include(wanted: str | list[str], text: str) -> bool:
    """Every wanted string stands in the text, case ignored."""
    return all(fold(w) in fold(text) for w in _as_list(wanted))


def exclude(wanted: str | list[str], text: str) -> bool:
    """None of the strings stands in the text, case ignored."""
    return not any(fold(w) in fold(text) for w in _as_list(wanted))


def begins(wanted: str, text: str) -> bool:
    """The text begins with the string, case ignored."""
    return fold(text).startswith(fold(wanted))


def bullets(wanted: int, text: str) -> bool:
    """Exactly so many lines are items of a list, marked with "-", "*" or a bullet."""
    return sum(line.lstrip().startswith(BULLETS) for line in text.splitlines()) == wanted


def paragraphs(wanted: int, text: str) -> bool:
    """Exactly so many paragraphs, parted by blank lines."""
    return sum(bool(part.strip()) for part in re.split(r"\n[ \t]*\n", text)) == wanted


def uppercase(wanted: bool, text: str) -> bool:
    """No small letter in the text (wanted true), or at least one (wanted false)."""
    return any(c.islower() for c in text) != wanted


def lowercase(wanted: bool, text: str) -> bool:
    """No capital letter in the text (wanted true), or at least one (wanted false)."""
    return any(c.isupper() for c in text) != wanted


def is_json(wanted: bool, text: str) -> bool:
    """The whole text is one JSON value, or is none when `wanted` is false."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return not wanted
    return wanted


def fold(text: str) -> str:
    """NFC, case folded, white space collapsed: how texts are compared when form does not matter."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _as_list(wanted: str | list[str]) -> list[str]:
    return [wanted] if isinstance(wanted, str) else list(wanted)


CHECKS: dict[str, Callable[[Any, str], bool]] = {
    "end_word": end_word, "answer_lang": answer_lang, "language": language, "max_words": max_words, "min_words": min_words,
    "include": include, "exclude": exclude, "lowercase": lowercase, "json": is_json,
    "begins": begins, "bullets": bullets, "paragraphs": paragraphs, "uppercase": uppercase,
}  # fmt: skip
