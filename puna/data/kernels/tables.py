"""What the kernels must know of Unicode, as arrays indexed by code point, built from Python's own database and kept
(`puna.core.cached`; making them takes a fifth of a second).

The tables end at U+20000: beyond it lie Chinese characters (letters of a script without spaces, all alike to us), a few
selectors and private use. Normalisation tables map one code point to one code point, or to a run of several in `extra`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from puna.core.cached import cached_arrays, digest_of

SIZE = 0x20000
LETTER, DIGIT, WORD, MARK, ALONE, SPACE, END, BULLET = (np.uint8(1 << bit) for bit in range(8))

# Scripts without spaces between words: Thai and Lao, Myanmar, Khmer, kana and bopomofo, Chinese characters, half-width kana
ALONE_RANGES = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3031, 0x312F), (0x31A0, 0x31FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F), (0xF900, 0xFAFF), (0xFF66, 0xFF9F),
    (0x1B000, 0x1B16F),
)  # fmt: skip
FIRST_PLAIN_HAN, LAST_PLAIN_HAN = 0x20000, 0x3FFFF  # planes 2 and 3
JOINERS = (0x200C, 0x200D)  # inside words of Persian and of Indian scripts
BULLETS = "•‣▪◦·*-"
END_MARKS = '.!?"”»:;।。…！？؟۔॥։።｡'  # of sentences, in the scripts that have one
ACCENTS = re.compile("[\u0300-\u036f]")
SEVERAL = 0x1000000  # entries from here on: an index into the runs
FOLD_ARRAYS = ("one", "starts", "extra")


@dataclass(frozen=True)
class Fold:
    """A normalisation: int32 [SIZE] of one code point each, or SEVERAL + r, where r is a run of `extra`.

    Run r is `extra[starts[r] : starts[r + 1]]`; it may be empty.
    """

    one: np.ndarray
    starts: np.ndarray
    extra: np.ndarray


@dataclass(frozen=True)
class Tables:
    """Bits of every code point (uint8 [SIZE]) and its lower-case form (int32 [SIZE])."""

    kind: np.ndarray
    lower: np.ndarray


@lru_cache(maxsize=1)
def tables() -> Tables:
    """Classes and lower case.

    Lower case is `str.lower` of the single code point, so it knows no context: the final sigma is taken as the common one, and
    U+0130 gives a plain i. The typographic apostrophe becomes the plain one.
    """
    return Tables(**_cached("classes", ("kind", "lower"), _classes))


def _cached(name: str, arrays: tuple[str, ...], make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return cached_arrays("unicode", f"{name}-{unicodedata.unidata_version}-{digest_of(__file__)}", arrays, make)


def _classes() -> dict[str, np.ndarray]:
    letters = "".join(map(chr, range(SIZE)))
    kind = np.zeros(SIZE, dtype=np.uint8)
    for bits, categories in (
        (LETTER | WORD, ("Lu", "Ll", "Lt", "Lm", "Lo")),
        (DIGIT | WORD, ("Nd",)),
        (WORD, ("Nl", "No")),
        (MARK, ("Mn", "Mc", "Me")),
    ):
        kind[_of_category(letters, categories)] |= bits
    kind[ord("_")] |= WORD
    kind[list(JOINERS)] |= MARK
    for first, last in ALONE_RANGES:
        part = kind[first : last + 1]
        part[(part & (WORD | MARK)) != 0] |= ALONE | WORD
    kind[[code for code, letter in enumerate(letters) if letter.isspace()]] |= SPACE
    kind[[ord(mark) for mark in END_MARKS]] |= END
    kind[[ord(mark) for mark in BULLETS]] |= BULLET
    lower = np.fromiter((ord(letter.lower()[0]) for letter in letters), dtype=np.int32, count=SIZE)
    lower[ord("ς")], lower[ord("’")] = ord("σ"), ord("'")
    return {"kind": kind, "lower": lower}


def _of_category(letters: str, wanted: tuple[str, ...]) -> np.ndarray:
    return np.isin(_categories(letters), wanted)


@lru_cache(maxsize=1)
def _categories(letters: str) -> np.ndarray:
    return np.array(list(map(unicodedata.category, letters)))


@lru_cache(maxsize=1)
def line_fold() -> Fold:
    """ccNet's normalisation of lines but for digits and signs: lower case, no accents, compatibility forms.

    Each code point is taken alone: a letter and its accent written as two code points are found equal to the composed one,
    but Korean letters written as jamo and Indian vowel signs written in two parts stay as they are.
    """
    return Fold(**_cached("lines", FOLD_ARRAYS, partial(_fold, _line_letter)))


@lru_cache(maxsize=1)
def case_fold() -> Fold:
    """`str.casefold` of every code point."""
    return Fold(**_cached("case", FOLD_ARRAYS, partial(_fold, str.casefold)))


@lru_cache(maxsize=1)
def composed_fold() -> Fold:
    """Unicode's form C of every code point alone."""
    return Fold(**_cached("composed", FOLD_ARRAYS, partial(_fold, partial(unicodedata.normalize, "NFC"))))


def _line_letter(letter: str) -> str:
    return unicodedata.normalize("NFKC", ACCENTS.sub("", unicodedata.normalize("NFD", _lower(letter))))


def _lower(letter: str) -> str:
    return letter.lower().replace("ς", "σ")


def _fold(function: Callable[[str], str]) -> dict[str, np.ndarray]:
    one = np.arange(SIZE, dtype=np.int32)
    starts, extra = [0], list[int]()
    for code in range(SIZE):
        if 0x3400 <= code < 0xA000 or 0xAC00 <= code < 0xE000:  # Chinese characters, Korean syllables and surrogates stay
            continue
        folded = function(chr(code))
        if len(folded) == 1:
            one[code] = ord(folded)
        else:
            one[code] = SEVERAL + len(starts) - 1
            extra += map(ord, folded)
            starts.append(len(extra))
    return {"one": one, "starts": np.array(starts, dtype=np.int32), "extra": np.array(extra or [0], dtype=np.int32)}
