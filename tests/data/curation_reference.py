"""Slow and simple per-document forms of the curation kernels, letter by letter with `str` and `unicodedata`, for comparison."""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from pathlib import Path

from puna.data.kernels.tables import ALONE_RANGES, END_MARKS, JOINERS
from puna.data.languages import languages

DATA = Path(__file__).parents[2] / "../shared/data"
ACCENTS = re.compile("[\u0300-\u036f]")


def udhr() -> dict[str, str]:
    """The Declaration of Human Rights by language, one paragraph a line, letters composed; empty without the sample files."""
    texts = {}
    for path in sorted((DATA / "udhr").glob("udhr_*.xml")):
        source = path.read_text(encoding="utf-8")
        code = re.search(r"xml:lang='([a-zA-Z]+)", source)[1]
        paragraphs = re.findall(r"<(?:para|title)>([^<]*)<", source)
        texts[code] = unicodedata.normalize("NFC", html.unescape("\n".join(paragraphs)))
    return texts


def alone(letter: str) -> bool:
    inside = any(first <= ord(letter) <= last for first, last in ALONE_RANGES) and unicodedata.category(letter)[0] in "LMN"
    return inside or 0x20000 <= ord(letter) < 0x40000


def first(letter: str) -> bool:
    return not alone(letter) and (letter == "_" or unicodedata.category(letter)[0] in "LN") and ord(letter) < 0x20000


def more(letter: str) -> bool:
    mark = unicodedata.category(letter)[0] == "M" or ord(letter) in JOINERS
    return first(letter) or (not alone(letter) and mark and ord(letter) < 0x20000)


def lower(letter: str) -> str:
    return {"İ": "i", "ς": "σ", "’": "'"}.get(letter, letter.lower())


def word_spans(text: str) -> list[tuple[int, int]]:
    spans, i = [], 0
    while i < len(text):
        if alone(text[i]):
            spans.append((i, i + 1))
            i += 1
        elif first(text[i]):
            start, joined = i, False
            while i < len(text):
                if more(text[i]):
                    i += 1
                elif not joined and text[i] in "'’" and i + 1 < len(text) and first(text[i + 1]):
                    joined = True
                    i += 1
                else:
                    break
            spans.append((start, i))
        else:
            i += 1
    return spans


def words(text: str) -> list[str]:
    return ["".join(map(lower, text[start:end])) for start, end in word_spans(text)]


def letterwise(found: list[str]) -> bool:
    sample = found[:400]
    return sum(len(word) == 1 and alone(word) for word in sample) * 2 > len(sample)


def measure(text: str, lang: str) -> dict[str, float | None]:
    found = words(text)
    count, chars, apart = max(len(found), 1), max(len(text), 1), letterwise(found)
    no_length = apart or not found
    signals = {
        "chars": len(text),
        "words": len(found),
        "mean_word_chars": None if no_length else sum(map(len, found)) / count,
        "symbols": (text.count("#") + text.count("…") + text.count("...")) / count,
        "alpha_words": None if apart else sum(any(map(str.isalpha, word)) for word in found) / count,
        "stop_words": len(stop_words(lang) & set(found)) if lang in languages() else None,
        "unreadable": text.count("\ufffd") / chars,
        "braces": (text.count("{") + text.count("}")) / chars,
        "line_breaks": text.count("\n") / count,
        "lorem_ipsum": "lorem ipsum" in "".join(c.lower() if c.isascii() else "?" for c in text),
    }
    return signals | line_signals(text, apart) | ngram_signals(found, apart)


def stop_words(lang: str) -> set[str]:
    return {"".join(map(lower, word)) for word in languages()[lang].stop_words}


def line_signals(text: str, apart: bool) -> dict[str, float | None]:
    lines = [line for line in text.split("\n") if line.strip()]
    count, chars = max(len(lines), 1), max(sum(map(len, lines)), 1)
    keys = [line.strip() for line in lines]
    again = [key in keys[:place] for place, key in enumerate(keys)]
    return {
        "bullet_lines": sum(bool(re.match(r"\s*[•‣▪◦·*-]\s", line)) for line in lines) / count,
        "ellipsis_lines": sum(line.rstrip().endswith(("...", "…")) for line in lines) / count,
        "punctuated_lines": sum(line.rstrip().endswith(tuple(END_MARKS)) for line in lines) / count,
        "short_lines": sum(len(line) <= 30 for line in lines) / count,
        "few_word_lines": None if apart else sum(len(words(line)) < 3 for line in lines) / count,
        "duplicate_lines": sum(again) / count,
        "duplicate_line_chars": sum(len(line) for line, twice in zip(lines, again, strict=True) if twice) / chars,
    }


def ngram_signals(found: list[str], apart: bool) -> dict[str, float | None]:
    total = max(sum(map(len, found)), 1)
    top = {f"top_{n}gram": None if apart else top_chars(found, n) / total for n in (2, 3, 4)}
    return top | {f"duplicate_{n}gram": None if apart else duplicate_chars(found, n) / total for n in range(5, 11)}


def top_chars(found: list[str], n: int) -> int:
    grams = Counter(tuple(found[i : i + n]) for i in range(len(found) - n + 1))
    best = max(grams.values(), default=0)
    return max(best * sum(map(len, gram)) for gram, count in grams.items() if count == best) if best > 1 else 0


def duplicate_chars(found: list[str], n: int) -> int:
    seen, covered = set(), set()
    for start in range(len(found) - n + 1):
        gram = tuple(found[start : start + n])
        if gram in seen:
            covered.update(range(start, start + n))
        seen.add(gram)
    return sum(len(found[i]) for i in covered)


def normal_line(line: str, fold_digits: bool, min_letters: int) -> str:
    """What a line is compared by; empty for one too short to count."""
    plain = "".join(
        unicodedata.normalize("NFKC", ACCENTS.sub("", unicodedata.normalize("NFD", letter.lower().replace("ς", "σ"))))
        for letter in line
    )
    if fold_digits or not re.search(r"\d", plain):
        plain = "".join(letter for letter in re.sub(r"\d+", "0", plain) if counts(letter))
    plain = " ".join(plain.split())
    return plain if sum(map(str.isalpha, plain)) >= min_letters else ""


def counts(letter: str) -> bool:
    vowel = unicodedata.category(letter)[0] == "M" and 0x900 <= ord(letter) < 0x2000
    return letter.isspace() or vowel or alone(letter) or (letter != "_" and unicodedata.category(letter)[0] in "LN")


def normal_text(text: str) -> str:
    return " ".join(text.split()).casefold()


def without_lines(text: str, drop: list[bool]) -> str:
    if not any(drop):
        return text
    kept = [line for line, gone in zip(text.split("\n"), drop, strict=True) if not gone]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip("\n")


def same_partition(first_keys: list, second_keys: list) -> bool:
    """Whether two lists of keys call the same things equal."""
    pairs = set(zip(first_keys, second_keys, strict=True))
    return len(pairs) == len({key for key, _ in pairs}) == len({key for _, key in pairs})
