"""Apologies by language: what the rules of `puna.post.quality.rules` count (paper 4.2.3 names "I'm sorry" and "I apologize").

A table of data, to be added to: regular expressions, matched without regard to case. They are beginnings of words or whole
phrases, so that inflected forms are met; a text is searched for those of its own language and for the English ones, which
models fall back on.
"""

from __future__ import annotations

import re
from functools import lru_cache

APOLOGIES = {
    "en": (r"\bi(?:['’]m| am)\b[^.!?\n]{0,12}\bsorry\b", r"\bsorry (?:for|about|that|if)\b",
           r"\b(?:i |we |my |our )?(?:sincere(?:ly)? )?apolog(?:i[sz]e|ies|y)\b"),
    "pt": (r"\bdesculp\w+", r"\bperdão\b", r"\bsinto muito\b", r"\blamento\b"),
    "es": (r"\bdisculp\w+", r"\bperd[oó]n\w*", r"\blo siento\b", r"\blamento\b"),
    "fr": (r"\bdésolée?s?\b", r"\bpardon\b", r"\bexcus(?:ez|e|es)\b", r"\bmes excuses\b"),
    "de": (r"\bentschuldig\w+", r"\btut mir (?:sehr |wirklich )?leid\b", r"\bverzeih\w+"),
    "it": (r"\bscus(?:a|i|ate|arsi|armi)\b", r"\bmi dispiace\b", r"\bperdon\w+"),
    "hi": ("क्षमा", "माफ़ी", "माफ़", "खेद"),
    "th": ("ขอโทษ", "ขออภัย", "เสียใจ"),
}  # fmt: skip


@lru_cache(maxsize=64)
def apologies(lang: str) -> re.Pattern[str]:
    """Pattern of the apologies of a language (ISO 639) and of English."""
    own = APOLOGIES.get(lang, ()) if lang != "en" else ()
    return re.compile("|".join((*own, *APOLOGIES["en"])), re.IGNORECASE)
