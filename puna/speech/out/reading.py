"""Text normalisation (section 8.2.2): each written piece of a text gets a rule, and the rule makes spoken words of it.

The paper's tagger chooses among hand-written rules; these are ours. `by_shape` chooses from how a piece looks, which is all that
can be done without a trained tagger (`puna.speech.out.tagger`) and is wrong wherever the reading depends on meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from puna.world import number_words as numbers
from puna.world.phones import PAUSE, Phone, phones_of

RULES = ("as_is", "cardinal", "ordinal", "digits", "year", "money", "letters")
STOPS = ".,;:!?।…"
LONGEST_PHRASE, MOST_LETTERS = 24, 200  # pieces and letters spoken in one go where the text has no stops
LONGEST_PIECE = 40  # letters; what is longer is cut, as Thai without spaces
AROUND = "\"'()[]{}«»“”„‘’*_#<>"
CURRENCIES = {
    "$": {"en": "dollars", "de": "Dollar", "fr": "dollars", "es": "dólares", "pt": "dólares", "it": "dollari",
    "hi": "डॉलर", "th": "ดอลลาร์"},
    "€": {"en": "euros", "de": "Euro", "fr": "euros", "es": "euros", "pt": "euros", "it": "euro", "hi": "यूरो",
    "th": "ยูโร"},
    "£": {"en": "pounds", "de": "Pfund", "fr": "livres", "es": "libras", "pt": "libras", "it": "sterline",
    "hi": "पाउंड", "th": "ปอนด์"},
}  # fmt: skip
SIGNS = {
    "&": {"en": "and", "de": "und", "fr": "et", "es": "y", "pt": "e", "it": "e", "hi": "और", "th": "และ"},
    "%": {
        "en": "percent",
        "de": "Prozent",
        "fr": "pour cent",
        "es": "por ciento",
        "pt": "por cento",
        "it": "per cento",
        "hi": "प्रतिशत",
        "th": "เปอร์เซ็นต์",
    },
    "+": {"en": "plus", "de": "plus", "fr": "plus", "es": "más", "pt": "mais", "it": "più", "hi": "प्लस", "th": "บวก"},
}
_NAMES = (
    "ay bee see dee ee ef jee aitch eye jay kay el em en oh pee cue ar ess tee you vee doubleyou ex why zee"  # of a, b, c ...
)
LETTER_NAMES = dict(zip("abcdefghijklmnopqrstuvwxyz", _NAMES.split(), strict=True))
FIGURES = re.compile(r"\d+")
ORDINAL = re.compile(r"\d+(st|nd|rd|th)")
GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


@dataclass(frozen=True)
class Phrase:
    """What is said in one go.

    Attributes:
        first: place of its first piece among those of the text.
        pieces: as written. spoken: the words each is read as.
        phones: with `Phone.word` counting pieces from 0 within the phrase.
    """

    first: int
    pieces: list[str]
    spoken: list[str]
    phones: list[Phone]


def pieces_of(text: str) -> list[str]:
    """A text cut at its blanks, and within what is too long for a word."""
    return [word[at : at + LONGEST_PIECE] for word in text.split() for at in range(0, len(word), LONGEST_PIECE)]


def core(piece: str) -> str:
    """A piece without the stops after it and the quotes around it; separators of thousands are gone."""
    return GROUPED.sub("", piece.strip(AROUND).rstrip(STOPS).strip(AROUND))


def by_shape(piece: str) -> str:
    """The rule that a piece looks as if it had: figures are cardinals, rows of capitals letters."""
    word = core(piece)
    if ORDINAL.fullmatch(word):
        return "ordinal"
    if any(sign in word for sign in CURRENCIES) and FIGURES.search(word):
        return "money"
    if FIGURES.search(word):
        return "digits" if len(word) > 9 or (word.startswith("0") and len(word) > 1) else "cardinal"
    return "letters" if len(word) > 1 and word.isascii() and word.isupper() and word.isalpha() else "as_is"


def spoken(piece: str, rule: str, lang: str) -> str:
    """The words of a piece under a rule, without stops; figures are never left as they are."""
    word = core(piece)
    if rule == "letters":
        return " ".join(LETTER_NAMES.get(letter, letter) if lang == "en" else letter for letter in word.lower())
    currency = next((names[lang] for sign, names in CURRENCIES.items() if sign in word), "")
    for sign, names in SIGNS.items():
        word = word.replace(sign, f" {names[lang]} ")
    word = re.sub("[" + re.escape("".join(CURRENCIES)) + "]", "", ORDINAL.sub(lambda found: found.group()[:-2], word))
    read = FIGURES.sub(lambda found: f" {_figures(found.group(), rule, lang)} ", word)
    return " ".join(f"{read} {currency}".split())


def _figures(figures: str, rule: str, lang: str) -> str:
    if rule == "digits" or len(figures) > 9:
        return numbers.digits(figures, lang)
    number = int(figures)
    if rule == "ordinal":
        return numbers.ordinal(number, lang)
    return numbers.year(number, lang) if rule == "year" else numbers.cardinal(number, lang)


def phrases_of(pieces: Sequence[str], rules: Iterable[str], lang: str) -> list[Phrase]:
    """The phrases of a text's pieces, cut after each stop; the last ends in a pause too."""
    said = [spoken(piece, rule, lang) for piece, rule in zip(pieces, rules, strict=True)]
    found: list[Phrase] = []
    first = 0
    for i, piece in enumerate(pieces):
        stop = piece.rstrip(AROUND)[-1:] if piece.rstrip(AROUND)[-1:] in STOPS else ""
        full = i + 1 - first == LONGEST_PHRASE or sum(map(len, said[first : i + 1])) >= MOST_LETTERS
        if stop or full or i + 1 == len(pieces):
            phones = _phones(said[first : i + 1], stop or ",", lang)
            if phones:
                found.append(Phrase(first, list(pieces[first : i + 1]), said[first : i + 1], phones))
            first = i + 1
    return found


def _phones(said: list[str], stop: str, lang: str) -> list[Phone]:
    phones: list[Phone] = []
    for place, words in enumerate(said):
        own = phones_of(words, lang)
        if own:
            phones += [replace(phone, word=place) for phone in own if phone.symbol != PAUSE]
    if not phones:
        return []
    return [*phones, replace(phones_of("a" + stop, lang)[-1], word=len(said) - 1)]
