"""Which language a document is in: script first, then py3langid among the languages of that script (paper section 3.1.1).

The paper uses a fastText model of 176 languages; its weights are share-alike, so py3langid (140 languages, model inside, here
compiled) stands in, and a script that one language writes is told by its letters alone, which names some more. Formulas,
numbers and code carry no language and mislead any classifier: they are taken out first, and where few letters remain the
answer is "und" with probability 0, which no filter drops. A document of several languages goes to the majority of its parts.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from puna.data.language_scripts import LATIN, RARE, SCRIPTS, TINY, TWINS

if TYPE_CHECKING:
    import pyarrow as pa

LLAMA_LANGUAGES = ("en", "de", "fr", "it", "pt", "hi", "es", "th")  # the eight supported by Llama 3.1
UNKNOWN = "und"
MIN_LETTERS = 24  # with fewer letters there is no telling
MAX_CHARS = 40_000  # a document is judged on its beginning
PART_CHARS = 500  # each of up to three parts of a long document is judged on this much
ONE_PART_CHARS = 750  # a shorter text is judged whole: its parts would overlap, and their agreement would say nothing
SAMPLE_CHARS = 1_500  # of the begin and the middle of a long text, which settle it where they agree
MODEL_CHARS = 2000  # shown to a classifier given by path
SCRIPT_CHARS = 250  # judged for the script
TOLD = 0.35  # below it no language is named
FOREIGN_SHARE = 0.25  # letters of another script that settle it
AGREED = 0.9  # probability of two equal judgements that makes a third needless
SURE = 0.5  # below it the parts vote

# letters with the vowel signs that \w leaves out: Latin, Hebrew, Arabic, Syriac, Thaana, N'Ko, Indian, Thai, Lao, Tibetan,
# Burmese, Khmer, Limbu, Buginese, Balinese, Sundanese, Lepcha, Saurashtra, Rejang, Javanese, Cham, Meetei Mayek
SIGNS = (
    r"[\u0300-\u036f\u0591-\u05c7\u064b-\u0655\u0730-\u074a\u07a6-\u07b0\u07eb-\u07f3\u0900-\u0dff\u0e30-\u0e4e\u0eb0-\u0ecd"
    r"\u0f71-\u0fbc\u102b-\u103e\u17b4-\u17d3\u1920-\u193b\u1a17-\u1a1b\u1b34-\u1b44\u1ba1-\u1bad\u1c24-\u1c37\ua8b4-\ua8c5\ua947-\ua953"
    r"\ua9b3-\ua9c0\uaa29-\uaa36\uabe3-\uabed]"
)
HAS_SIGNS = re.compile(SIGNS)
LETTER = rf"(?:[^\W\d_]|{SIGNS})"
WORD_LIKE = re.compile(rf"{LETTER}{{2,}}(?:['’-]{LETTER}+)*")
PLAIN_WORD_LIKE = re.compile(r"[^\W\d_]{2,}(?:['’-][^\W\d_]+)*")  # the same without vowel signs, at three times the speed
CODE_LINE = re.compile(
    r"[{};]\s*$|^\s*(?:def|class|import|from|return|for|if|while|print|>>>|\.\.\.|#include|//)\b|\w\(.*\)\s*$|[=<>]=|->"
)
# addresses, placeholders, JSON and calls; every part is bounded, so that no input takes more than linear time
NOT_PROSE = re.compile(
    r"https?://\S+|\S{1,64}@\S+|<\w{1,30}>|\{[^{}]{0,300}(?:\{[^{}]{0,300}\}[^{}]{0,300}){0,8}\}|\b\w{1,40}\([^()]{0,200}\)"
)
NOT_PROSE_SIGNS = ("(", "@", "://", "<", "{")  # one of these is in every match; looking for them is a hundred times cheaper
MAX_CODE_LINE = 400  # a longer line is a paragraph

BEYOND = "\ue000"  # no script we know of begins here or later
KANA = 1 + next(index for index, script in enumerate(SCRIPTS) if script[2] == ("ja",))
ALPHABETIC = 128  # bit of the script table that marks a letter
RARE_PRIOR, TINY_PRIOR = 0.1, 0.01


def identify_batch(texts: pa.Array | pa.ChunkedArray, model: Path | None = None) -> tuple[list[str], np.ndarray]:
    """The language of every text: ISO 639 codes, and float32 [texts] probabilities; a null counts as an empty text.

    Args:
        model: a classifier in fastText's format to be asked instead; formulas and code are taken out for it just the same.
    """
    if model is not None:
        return _by_model(texts, model)
    found = [identify(text or "") for text in texts.to_pylist()]
    return [code for code, _ in found], np.array([probability for _, probability in found], dtype=np.float32)


def _by_model(texts: pa.Array | pa.ChunkedArray, path: Path) -> tuple[list[str], np.ndarray]:
    import pyarrow as pa

    from puna.data.fasttext import load_fasttext

    model = load_fasttext(path)
    prose = [" ".join(_language_words((text or "")[:MAX_CHARS]))[:MODEL_CHARS] for text in texts.to_pylist()]
    chances = model.score_batch(pa.array(prose, type=pa.large_string()))
    best = chances.argmax(axis=1)
    surest = np.array([chances[row, label] if prose[row] else 0 for row, label in enumerate(best)], dtype=np.float32)
    told = surest >= TOLD
    return [model.labels[label] if sure else UNKNOWN for label, sure in zip(best.tolist(), told.tolist(), strict=True)], surest


def identify(text: str) -> tuple[str, float]:
    """The language of a text as (ISO 639 code, probability); ("und", 0.0) where there are too few letters to tell."""
    text = text[:MAX_CHARS]
    settled = _by_samples(text) if len(text) > 2 * SAMPLE_CHARS else None
    if settled:
        return settled
    words = _language_words(text)
    if not words:
        return UNKNOWN, 0.0
    joined = " ".join(words)
    parts: list[tuple[str, float]] = []
    part_chars = PART_CHARS if len(joined) > ONE_PART_CHARS else len(joined)
    for start in _starts(len(joined)):
        parts.append(_judge(joined[start : start + part_chars]))
        if len(parts) == 2 and parts[0][0] == parts[1][0] and min(parts)[1] >= AGREED:
            break
    lang, share = _vote(parts)
    return (lang, share) if share >= SURE else _by_lines(text, lang, share)


def _by_samples(text: str) -> tuple[str, float] | None:
    """The language on which a text's begin and middle surely agree; most long texts need no more, which halves the time."""
    middle = (len(text) - SAMPLE_CHARS) // 2
    parts: list[tuple[str, float]] = []
    for sample in (text[:SAMPLE_CHARS], text[middle : middle + SAMPLE_CHARS]):
        joined = " ".join(_language_words(sample))
        if len(joined) < PART_CHARS:
            return None
        parts.append(_judge(joined[:PART_CHARS]))
        if parts[0][0] != parts[-1][0] or parts[-1][1] < AGREED:
            return None
    return _vote(parts)


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
    if any(sign in text for sign in NOT_PROSE_SIGNS):
        text = NOT_PROSE.sub(" ", text)
    prose = [
        line for line in text.split("\n") if line and (len(line) > MAX_CODE_LINE or not CODE_LINE.search(line))
    ] or text.split("\n")
    words = _words_like("\n".join(prose))
    return words if sum(map(len, words)) >= MIN_LETTERS else []


def _words_like(text: str) -> list[str]:
    return (PLAIN_WORD_LIKE if text.isascii() or not HAS_SIGNS.search(text) else WORD_LIKE).findall(text)


def _starts(length: int) -> tuple[int, ...]:
    """Where the parts begin that are judged: begin, end, and the middle when these two leave a doubt."""
    return (0, length - PART_CHARS, (length - PART_CHARS) // 2) if length > ONE_PART_CHARS else (0,)


def _by_lines(text: str, lang: str, share: float) -> tuple[str, float]:
    """A vote of the lines, each with the weight of its letters, for documents that mix languages or are hard."""
    votes: dict[str, float] = {}
    for line in text.split("\n")[:200]:
        words = _words_like(line)
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
    from puna.data.kernels.language import best_group

    names, groups, priors = _candidate_columns(candidates)
    best, share = best_group(text, groups, priors, len(names))
    return names[best], float(share)


@cache
def _candidate_columns(candidates: tuple[str, ...]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The distinct names of some candidates, and of each column of the classifier the name's index (or -1) and its prior."""
    from puna.data.kernels.language import tables

    names = list(dict.fromkeys(TWINS.get(code, code) for code in candidates))
    labels = tables().labels
    groups = [names.index(TWINS.get(label, label)) if label in candidates else -1 for label in labels]
    priors = [TINY_PRIOR if label in TINY else RARE_PRIOR if TWINS.get(label, label) in RARE else 1.0 for label in labels]
    return names, np.array(groups, dtype=np.int32), np.array(priors, dtype=np.float32)


def _script_languages(text: str) -> tuple[str, ...]:
    sample = text[:SCRIPT_CHARS]
    if sample.isascii():
        return LATIN
    points = np.frombuffer(sample.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    signs = _script_table()[np.minimum(points, ord(BEYOND))]
    counts = np.bincount(signs & (ALPHABETIC - 1), minlength=len(SCRIPTS) + 1)
    letters = int((signs & ALPHABETIC > 0).sum())
    if counts[KANA] * 10 > letters:
        return ("ja",)
    best = 1 + int(np.argmax(counts[1:]))
    # foreign names and terms stand in Latin letters within any script, hardly ever the other way round
    return SCRIPTS[best - 1][2] if counts[best] >= FOREIGN_SHARE * letters else LATIN


@lru_cache(maxsize=1)
def _script_table() -> np.ndarray:
    """For each code point up to U+E000 the number of its entry in `SCRIPTS` from 1 (0: Latin, all else), and the letter bit."""
    table = np.zeros(ord(BEYOND) + 1, dtype=np.uint8)
    for number, (first, last, _) in enumerate(SCRIPTS, 1):
        table[ord(first) : ord(last) + 1] = number
    table[: ord(BEYOND)] |= np.array([ALPHABETIC * chr(point).isalpha() for point in range(ord(BEYOND))], dtype=np.uint8)
    return table
