"""Which language a document is in: script first, then py3langid among the languages of that script (paper section 3.1.1).

The paper uses a fastText model of 176 languages; its weights are share-alike, so py3langid (130 languages, model inside)
stands in. Formulas, numbers and code carry no language and mislead any classifier: they are taken out first, and where few
letters remain the answer is "und" with probability 0, which no filter drops. A document of several languages goes to the
majority of its parts.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import Any

LLAMA_LANGUAGES = ("en", "de", "fr", "it", "pt", "hi", "es", "th")  # the eight supported by Llama 3.1
UNKNOWN = "und"
MIN_LETTERS = 24  # with fewer letters there is no telling
MAX_CHARS = 40_000  # a document is judged on its beginning
PART_CHARS = 500  # each of up to three parts of a long document is judged on this much
SCRIPT_CHARS = 250  # judged for the script
TOLD = 0.35  # below it no language is named
FOREIGN_SHARE = 0.25  # letters of another script that settle it
AGREED = 0.9  # probability of two equal judgements that makes a third needless
SURE = 0.5  # below it the parts vote

# letters with the vowel signs of Indian, Thai, Hebrew and Arabic script, which \w leaves out
LETTER = (
    r"(?:[^\W\d_]|[\u0300-\u036f\u0591-\u05c7\u064b-\u0655\u0900-\u0dff\u0e30-\u0e4e\u0eb0-\u0ecd\u102b-\u103e\u17b4-\u17d3])"
)
WORD_LIKE = re.compile(rf"{LETTER}{{2,}}(?:['’-]{LETTER}+)*")
CODE_LINE = re.compile(
    r"[{};]\s*$|^\s*(?:def|class|import|from|return|for|if|while|print|>>>|\.\.\.|#include|//)\b|\w\(.*\)\s*$|[=<>]=|->"
)
# addresses, placeholders, JSON and calls; every part is bounded, so that no input takes more than linear time
NOT_PROSE = re.compile(
    r"https?://\S+|\S{1,64}@\S+|<\w{1,30}>|\{[^{}]{0,300}(?:\{[^{}]{0,300}\}[^{}]{0,300}){0,8}\}|\b\w{1,40}\([^()]{0,200}\)"
)
MAX_CODE_LINE = 400  # a longer line is a paragraph

# Unicode blocks that decide a script, with the languages of py3langid written in it
SCRIPTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("\u0e00", "\u0e7f", ("th",)),
    ("\u0900", "\u097f", ("hi", "mr", "ne", "sa")),
    ("\u0370", "\u03ff", ("el",)),
    ("\u0400", "\u052f", ("ru", "uk", "bg", "be", "sr", "mk", "kk", "ky", "mn", "tg", "tt", "ba")),
    ("\u0590", "\u05ff", ("he",)),
    ("\u0600", "\u06ff", ("ar", "fa", "ur", "ps", "ug", "ku")),
    ("\u3040", "\u30ff", ("ja",)),
    ("\uac00", "\ud7af", ("ko",)),
    ("\u4e00", "\u9fff", ("zh",)),
    ("\u0980", "\u09ff", ("bn", "as")),
    ("\u0b80", "\u0bff", ("ta",)),
    ("\u0c00", "\u0c7f", ("te",)),
    ("\u0530", "\u058f", ("hy",)),
    ("\u10a0", "\u10ff", ("ka",)),
    ("\u0a80", "\u0aff", ("gu",)),
    ("\u0a00", "\u0a7f", ("pa",)),
    ("\u0c80", "\u0cff", ("kn",)),
    ("\u0d00", "\u0d7f", ("ml",)),
    ("\u0d80", "\u0dff", ("si",)),
    ("\u1780", "\u17ff", ("km",)),
    ("\u0e80", "\u0eff", ("lo",)),
    ("\u1000", "\u109f", ("my",)),
    ("\u1200", "\u137f", ("am",)),
    ("\u0b00", "\u0b7f", ("or",)),
)
TWINS = {"ms": "id", "bs": "hr"}  # hard to tell apart; a split vote would look like doubt
BEYOND = "\ue000"  # no script we know of begins here or later
KANA = 1 + next(index for index, script in enumerate(SCRIPTS) if script[2] == ("ja",))
LATIN_CODES = """
en de fr it pt es nl sv da no fi et lv lt pl cs sk sl hr bs hu ro sq tr az id ms tl vi sw ca eu gl ga cy is mt af eo la ha so yo
ig zu xh uz mg ht jv rw sn st
"""
LATIN = tuple(LATIN_CODES.split())
# languages of a thousandth of the web or less: the classifier gives every language the same prior, and takes odd text for these
RARE = frozenset(LATIN[LATIN.index("sw") :]) | {"sa", "as", "ba", "tt", "tg", "ug", "ku"}
RARE_PRIOR = 0.1


def identify(text: str) -> tuple[str, float]:
    """The language of a text as (ISO 639 code, probability); ("und", 0.0) where there are too few letters to tell."""
    words = _language_words(text)
    if not words:
        return UNKNOWN, 0.0
    joined = " ".join(words)
    parts: list[tuple[str, float]] = []
    for start in _starts(len(joined)):
        parts.append(_judge(joined[start : start + PART_CHARS]))
        if len(parts) == 2 and parts[0][0] == parts[1][0] and min(parts)[1] >= AGREED:
            break
    lang, share = _vote(parts)
    return (lang, share) if share >= SURE else _by_lines(text, lang, share)


def _vote(parts: list[tuple[str, float]]) -> tuple[str, float]:
    """The language of several judgements, each with the square of its probability: one sure part outweighs two doubtful ones."""
    votes: dict[str, float] = {}
    for lang, probability in parts:
        votes[lang] = votes.get(lang, 0.0) + probability**2
    best = max(sorted(votes), key=lambda name: votes[name])
    surest = max(probability for lang, probability in parts if lang == best)
    return best, votes[best] / max(sum(votes.values()), 1e-12) * surest


def _language_words(text: str) -> list[str]:
    """Words of the text without code lines and addresses; empty where fewer than `MIN_LETTERS` letters are left."""
    text = NOT_PROSE.sub(" ", text[:MAX_CHARS])
    prose = [
        line for line in text.split("\n") if line and (len(line) > MAX_CODE_LINE or not CODE_LINE.search(line))
    ] or text.split("\n")
    words = WORD_LIKE.findall("\n".join(prose))
    return words if sum(map(len, words)) >= MIN_LETTERS else []


def _starts(length: int) -> tuple[int, ...]:
    """Where the parts begin that are judged: begin, end, and the middle when these two leave a doubt."""
    return (0, length - PART_CHARS, (length - PART_CHARS) // 2) if length > PART_CHARS else (0,)


def _by_lines(text: str, lang: str, share: float) -> tuple[str, float]:
    """A vote of the lines, each with the weight of its letters, for documents that mix languages or are hard."""
    votes: dict[str, float] = {}
    for line in text.split("\n")[:200]:
        words = WORD_LIKE.findall(line)
        letters = sum(map(len, words))
        if letters >= MIN_LETTERS:
            winner, probability = _judge(" ".join(words))
            votes[winner] = votes.get(winner, 0.0) + letters * probability
    if not votes:
        return (lang, share) if share >= TOLD else (UNKNOWN, share)
    best = max(sorted(votes), key=lambda name: votes[name])
    probability = votes[best] / sum(votes.values()) * max(share, SURE)
    return (best, probability) if probability >= TOLD else (UNKNOWN, probability)


def _judge(text: str) -> tuple[str, float]:
    """Classify one stretch of words among the languages of its dominant script."""
    candidates = _script_languages(text)
    if len(candidates) == 1:
        return candidates[0], 1.0
    ranked = _classifier().rank(text)
    shares: dict[str, float] = {}
    for lang, probability in ranked:
        if lang in candidates:
            name = TWINS.get(lang, lang)
            shares[name] = shares.get(name, 0.0) + probability * (RARE_PRIOR if name in RARE else 1.0)
    best = max(shares, key=lambda name: shares[name])
    return best, shares[best] / max(sum(shares.values()), 1e-12)


def _script_languages(text: str) -> tuple[str, ...]:
    sample = text[:SCRIPT_CHARS]
    if sample.isascii():
        return LATIN
    table = _script_table()
    counts = Counter(table[ord(character)] for character in sample if character < BEYOND)
    letters = sum(map(str.isalpha, sample))
    kana = counts[KANA]
    if kana * 10 > letters:
        return ("ja",)
    best = max(range(1, len(SCRIPTS) + 1), key=lambda number: counts[number])
    # foreign names and terms stand in Latin letters within any script, hardly ever the other way round
    return SCRIPTS[best - 1][2] if counts[best] >= FOREIGN_SHARE * letters else LATIN


@lru_cache(maxsize=1)
def _script_table() -> bytes:
    """For each code point below U+E000 the number of its entry in `SCRIPTS`, from 1; 0 for Latin and all else."""
    table = bytearray(ord(BEYOND))
    for number, (first, last, _) in enumerate(SCRIPTS, 1):
        table[ord(first) : ord(last) + 1] = bytes([number]) * (ord(last) - ord(first) + 1)
    return bytes(table)


@lru_cache(maxsize=1)
def _classifier() -> Any:
    from py3langid import langid

    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
