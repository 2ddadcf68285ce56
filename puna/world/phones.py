"""Phones of a text by letter rules, in the eight languages: enough to drive a synthesiser, and no pronouncing dictionary.

Latin letters go through the ordered rules of `puna.world.letter_rules`; Hindi and Thai are read letter by letter (an inherent
vowel where none is written, dropped at the end of a word). There is no morphology, no tone and no list of exceptions, so
irregular words, most of all English ones, come out wrong. Stress is on the first vowel in English and German, on the last in
French, Hindi and Thai, on the accented or last but one elsewhere. Figures and signs must have been written as words before.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from functools import cache

from puna.core.errors import InputError
from puna.world import letter_rules as table

VOWELS = frozenset((*"aeiouEOA@IUVy29&M6", "a~", "e~", "o~"))
PAUSE = "_"
PAUSES = {",": "comma", ";": "comma", ":": "comma", ".": "end", "!": "end", "?": "question", "।": "end", "…": "end"}
LANGUAGES = (*table.LATIN, "hi", "th")
WORD = re.compile(r"[^\W\d_][\w'’\u0900-\u097f\u0e00-\u0e7f]*|[,;:.!?।…]")
THAI_CHUNK = re.compile("[" + "".join(table.THAI_BEFORE) + "]?[ก-ฮ]")


@dataclass(frozen=True)
class Phone:
    """One phone, or one pause.

    Attributes:
        symbol: X-SAMPA; `PAUSE` for a pause.
        word: which word of the text it belongs to; a pause belongs to the one before.
        stressed: the vowel that bears its word's stress.
        last: last phone of its word.
        mark: of a pause, what made it: comma, end or question.
    """

    symbol: str
    word: int
    stressed: bool = False
    last: bool = False
    mark: str = ""

    @property
    def vowel(self) -> bool:
        """Whether it can bear pitch and stress."""
        return self.symbol in VOWELS


def words_of(text: str) -> list[str]:
    """The words and stops of a text, in order, as `Phone.word` counts the words."""
    return WORD.findall(unicodedata.normalize("NFC", text))


def phones_of(text: str, lang: str) -> list[Phone]:
    """The phones of a text: words one after the other, a pause at each stop and at the end.

    InputError if the language is not one of the eight.
    """
    if lang not in LANGUAGES:
        raise InputError(f"there are no letter rules for the language '{lang}'", fix="one of " + ", ".join(LANGUAGES))
    phones: list[Phone] = []
    word = -1
    for piece in words_of(text):
        if piece in PAUSES:
            if phones and phones[-1].symbol != PAUSE:
                phones.append(Phone(PAUSE, word, mark=PAUSES[piece]))
            continue
        spoken = _word(piece, lang)
        if spoken:
            word += 1
            phones.extend(_stressed(spoken, piece, lang, word))
    if phones and phones[-1].symbol != PAUSE:
        phones.append(Phone(PAUSE, word, mark="end"))
    return phones


def _word(word: str, lang: str) -> list[str]:
    word = word.lower()
    if any("ऀ" <= letter <= "ॿ" for letter in word):
        return _hindi(word)
    if any("ก" <= letter <= "ฮ" for letter in word):
        return _thai(word)
    rules = _rules(lang if lang in table.LATIN else "en")  # a Latin name in a Hindi or Thai sentence
    found: list[str] = []
    at = 0
    while at < len(word):
        for pattern, phones in rules:
            match = pattern.match(word, at)
            if match and match.end() > at:
                found += phones
                at = match.end()
                break
        else:
            at += 1
    return found


@cache
def _rules(lang: str) -> list[tuple[re.Pattern[str], list[str]]]:
    return [(re.compile(pattern), phones.split()) for pattern, phones in table.LATIN[lang]]


def _hindi(word: str) -> list[str]:
    found: list[str] = []
    open_vowel = False  # the consonant before has its inherent vowel still
    for letter in unicodedata.normalize("NFD", word):
        if letter in table.DEVANAGARI_CONSONANTS:
            found += ["@"] * open_vowel + table.DEVANAGARI_CONSONANTS[letter].split()
            open_vowel = True
        elif letter in table.DEVANAGARI_VOWELS:
            found += ["@"] * open_vowel + table.DEVANAGARI_VOWELS[letter].split()
            open_vowel = False
        elif letter in table.DEVANAGARI_SIGNS:
            found += table.DEVANAGARI_SIGNS[letter].split()
            open_vowel = False
        elif letter in table.DEVANAGARI_NASAL:
            found += ["@"] * open_vowel + ["n"]
            open_vowel = False
        elif letter == table.VIRAMA:
            open_vowel = False
    return found if any(p in VOWELS for p in found) else [*found, "@"]


def _thai(word: str) -> list[str]:
    found: list[str] = []
    ahead: list[str] = []  # a vowel written before its consonant
    letters = [letter for letter in word if letter not in table.THAI_IGNORED]
    for place, letter in enumerate(letters):
        if letter in table.THAI_BEFORE:
            ahead = table.THAI_BEFORE[letter].split()
        elif letter in table.THAI_CONSONANTS:
            sound = table.THAI_CONSONANTS[letter].split()
            following = letters[place + 1] if place + 1 < len(letters) else ""
            vowel = ahead
            if not ahead and following in table.THAI_CONSONANTS and not (found and found[-1] in VOWELS):
                vowel = ["o"]  # two consonants with no vowel written between
            elif letter == "อ" and not ahead and found and found[-1] not in VOWELS:
                vowel = ["O"]
            found += sound + vowel
            ahead = []
        elif letter in table.THAI_AFTER:
            found += table.THAI_AFTER[letter].split()
    return found if any(p in VOWELS for p in found) else [*found, "a"]


def _stressed(symbols: list[str], written: str, lang: str, word: int) -> list[Phone]:
    phones = [Phone(symbol, word) for symbol in symbols]
    phones[-1] = replace(phones[-1], last=True)
    vowels = [i for i, phone in enumerate(phones) if phone.vowel and not (i and phones[i - 1].vowel)]
    if vowels:
        at = {"en": 0, "de": 0, "fr": -1, "hi": -1, "th": -1}.get(lang, -2)
        accented = any(letter in "àèìòùáéíóúã" for letter in written[-2:])
        if at == -2 and (accented or (lang in ("es", "pt") and written[-1:] not in "aeosnm")):
            at = -1
        chosen = vowels[max(at, -len(vowels))]
        phones[chosen] = replace(phones[chosen], stressed=True)
    return phones
