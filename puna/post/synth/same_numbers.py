"""Whether a text and its translation are in the languages they should be and hold the same numbers (paper section 4.3.2)."""

from __future__ import annotations

from puna.verify.language import ANSWER_TAGS, LANGUAGES, SCRIPTS, main_script
from puna.verify.numbers import numbers

LEAST_SURE = 0.8  # probability from which another language counts as found
SHORT = 20  # characters below which only the script tells
RATIO = (0.35, 2.8)  # of the lengths of a translation and its source, in characters; scripts differ by up to a factor of two

ENDONYMS = {
    "en": "English", "pt": "Português", "es": "Español", "fr": "Français", "de": "Deutsch", "it": "Italiano", "hi": "हिन्दी",
    "th": "ไทย",
}  # fmt: skip
NAMES = {
    "en": "English", "pt": "Portuguese", "es": "Spanish", "fr": "French", "de": "German", "it": "Italian", "hi": "Hindi",
    "th": "Thai",
}  # fmt: skip


def is_in(lang: str, text: str) -> bool:
    """Whether a text can be in one of the eight languages: its script fits, no other answer tag stands in it, and, where it is
    long enough to tell, no other of the eight is found with some certainty."""
    from puna.data.language import identify

    if main_script(text) != SCRIPTS.get(lang, "LATIN"):
        return False
    if any(tag in text for other, tag in ANSWER_TAGS.items() if other != lang and tag not in ANSWER_TAGS[lang]):
        return False
    found, sure = identify(text)
    return len(text) < SHORT or found == lang or found not in LANGUAGES or sure < LEAST_SURE


def keeps_numbers(source: str, translation: str) -> bool:
    """Whether both hold the same numbers, each as often, in whatever order."""
    return sorted(numbers(source)) == sorted(numbers(translation))


def fitting_lengths(source: str, translation: str) -> bool:
    """Whether a translation is neither cut off nor padded out."""
    return RATIO[0] * len(source) <= len(translation) <= RATIO[1] * len(source)
