"""What a checker needs to know of the eight languages: the word that announces an answer, and the script.

The paper supports English, German, French, Italian, Portuguese, Hindi, Spanish and Thai (section 4.3.2); six of them share the
Latin script, so a reply's language is read from its answer tag and its script is only a second, weaker sign.
"""

from __future__ import annotations

import re
import unicodedata

LANGUAGES = ("en", "pt", "es", "fr", "de", "it", "hi", "th")

ANSWER_TAGS = {
    "en": "Answer", "pt": "Resposta", "es": "Respuesta", "fr": "Réponse",
    "de": "Antwort", "it": "Risposta", "hi": "उत्तर", "th": "คำตอบ",
}  # fmt: skip

SCRIPTS = {"hi": "DEVANAGARI", "th": "THAI"}  # every other language here is LATIN

_TAG = re.compile(r"(?<!\w)(" + "|".join(map(re.escape, ANSWER_TAGS.values())) + r")\s*:")
_LANGUAGE_OF_TAG = {tag: lang for lang, tag in ANSWER_TAGS.items()}


def answer_tags(text: str) -> list[tuple[str, int, int]]:
    """Every answer tag in `text` as (language, start, end just after the colon), in order."""
    return [(_LANGUAGE_OF_TAG[m.group(1)], m.start(), m.end()) for m in _TAG.finditer(text)]


def main_script(text: str) -> str | None:
    """The script most letters of `text` belong to (LATIN, DEVANAGARI, THAI, ...), None without letters.

    Ties go to the script seen first.
    """
    counts: dict[str, int] = {}
    for char in text:
        if char.isalpha():
            script = unicodedata.name(char, "UNKNOWN").split(" ", 1)[0]
            counts[script] = counts.get(script, 0) + 1
    return max(counts, key=lambda s: counts[s]) if counts else None
