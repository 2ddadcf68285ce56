"""What may differ between two transcripts of the same speech: `normalise`, after Whisper's normaliser (Radford et al. 2022).

Every language: compatibility forms (NFKC), lower case, what stands in brackets out, decimal digits of any script as 0-9, commas
between thousands out, punctuation and symbols as spaces (a decimal point stays), white space collapsed. Unlike Whisper's, marks
that combine stay, or Hindi and Thai words would lose their vowels. English also: hesitations out, contractions and titles
in full, number words as digits, the apostrophe dropped. American and British spellings stay apart, as do ordinals, years said in
pairs, and number words of other languages.

Languages that write without spaces between words are compared by characters, all others by words.
"""

from __future__ import annotations

import re
import unicodedata

BY_CHARACTER = frozenset({"zh", "yue", "ja", "th", "lo", "my", "km", "bo"})
BRACKETED = re.compile(r"[<\[][^>\]]*[>\]]|\([^)]*\)")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
DECIMAL_POINT = re.compile(r"(?<=\d)\.(?=\d)")
APOSTROPHES = str.maketrans("’‘ʼ`´", "'''''")
HESITATIONS = frozenset({"uh", "um", "hmm", "hm", "mm", "mhm", "mmm", "er", "erm"})
TITLES = {"mr": "mister", "mrs": "missus", "ms": "miss", "dr": "doctor", "st": "saint", "prof": "professor", "ok": "okay"}
IRREGULAR = {"won't": "will not", "can't": "can not", "cannot": "can not", "let's": "let us", "ain't": "is not",
             "y'all": "you all", "gonna": "going to", "wanna": "want to", "gotta": "got to"}  # fmt: skip
ENDINGS = (("n't", " not"), ("'re", " are"), ("'ll", " will"), ("'ve", " have"), ("'m", " am"), ("'d", " would"))
IS = frozenset({"it", "that", "he", "she", "what", "there", "here", "who", "where", "how"})  # whose 's is short for "is"

TO_NINETEEN = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
"""
FROM_TWENTY = "twenty thirty forty fifty sixty seventy eighty ninety"
UNITS = {word: i for i, word in enumerate(TO_NINETEEN.split())}
TENS = {word: 10 * i for i, word in enumerate(FROM_TWENTY.split(), start=2)}
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}


def normalise(text: str, lang: str = "en") -> str:
    """A text without what does not make a transcript wrong.

    Args:
        lang: ISO 639 code, perhaps with a region ("pt-BR"); of unknown ones, what holds for every language.
    """
    lang = language(lang)
    text = unicodedata.normalize("NFKC", text).lower().translate(APOSTROPHES)
    text = THOUSANDS.sub("", "".join(_plain_digit(letter) for letter in BRACKETED.sub(" ", text)))
    if lang == "en":
        text = _english(text)
    numbers = DECIMAL_POINT.split(text)
    joined = ".".join("".join(" " if unicodedata.category(c)[0] in "PSZC" else c for c in part) for part in numbers)
    joined = " ".join(joined.split())
    return joined.replace(" ", "") if lang in BY_CHARACTER else joined


def units(text: str, lang: str = "en") -> list[str]:
    """The units that errors are counted in, normalised: characters of languages without spaces, words of all others."""
    plain = normalise(text, lang)
    return list(plain) if by_character(lang) else plain.split()


def by_character(lang: str) -> bool:
    """Whether a language is scored by CER."""
    return language(lang) in BY_CHARACTER


def language(code: str) -> str:
    """A language's code without its region: "pt-BR" is pt, "cmn_hans_cn" zh."""
    found = re.split(r"[-_]", code.lower(), maxsplit=1)[0]
    return "zh" if found == "cmn" else found


def _plain_digit(letter: str) -> str:
    return letter if letter.isascii() else str(unicodedata.decimal(letter, letter))


def _english(text: str) -> str:
    found = []
    for word in re.split(r"[^\w'.]+", text):
        bare = word.strip("'.")
        if bare in HESITATIONS:
            continue
        found += _in_full(TITLES.get(bare, bare)).split()
    return " ".join(_with_numbers(found)).replace("'", "")


def _in_full(word: str) -> str:
    if word in IRREGULAR:
        return IRREGULAR[word]
    for ending, full in ENDINGS:
        if word.endswith(ending) and len(word) > len(ending):
            return word.removesuffix(ending) + full
    return word.removesuffix("'s") + " is" if word.endswith("'s") and word[:-2] in IS else word


def _with_numbers(words: list[str]) -> list[str]:
    """Words with numbers as digits: "two hundred and five" is 205, "one two" 1 2, "twenty one" 21."""
    found, number = list[str](), _Number()
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "and" and number.room and (following in UNITS or following in TENS):
            continue
        if number.take(word):
            continue
        if number.begun:
            found.append(str(number.value))
        number = _Number()
        if not number.take(word):
            found.append(word)
    return [*found, str(number.value)] if number.begun else found


class _Number:
    """A number that is being said. `room`: a number below this may still be added without "hundred"."""

    def __init__(self) -> None:
        self.whole, self.part, self.room, self.scale, self.begun = 0, 0, 0, 10**12, False

    @property
    def value(self) -> int:
        return self.whole + self.part

    def take(self, word: str) -> bool:
        """Whether a word goes on with the number, or begins it."""
        size = UNITS.get(word, TENS.get(word, 0))
        if word in UNITS or word in TENS:
            if self.begun and not 0 < size < self.room:
                return False
            self.part, self.room = self.part + size, 10 if word in TENS else 0
        elif word == "hundred" and 0 < self.part < 100:
            self.part, self.room = 100 * self.part, 100
        elif word in SCALES and self.part and SCALES[word] < self.scale:
            self.scale = SCALES[word]
            self.whole, self.part, self.room = self.whole + self.part * self.scale, 0, 100
        else:
            return False
        self.begun = True
        return True
