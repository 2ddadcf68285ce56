"""The language of every text of a batch, without a Python object for any of them (see `puna.data.language`).

A stretch of words is judged by its script and, where several languages write it, by the classifier. A long text is judged on its
begin and middle where they agree; else on up to three parts of all its words; and where those leave a doubt, on its lines.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from puna.data.kernels.language import classify
from puna.data.kernels.letters import FORM_ROOM, plain_form
from puna.data.kernels.prose import line_end, write_line_words, write_words
from puna.data.kernels.tables import LETTER
from puna.data.kernels.utf8 import backward, decode, forward, kind_of
from puna.data.language_scripts import SCRIPTS

# constants that are passed on have a type: numba compiles a function anew for every plain number
MIN_LETTERS = 24  # with fewer letters there is no telling
MAX_CHARS = np.int64(40_000)  # a document is judged on its beginning
PART_CHARS = np.int64(500)  # each of up to three parts of a long document is judged on this much
ONE_PART_CHARS = np.int64(750)  # a shorter text is judged whole: its parts would overlap, and their agreement would say nothing
SAMPLE_CHARS = np.int64(1_500)  # of the begin and the middle of a long text, which settle it where they agree
MOST_LINES = 200  # have a vote
SCRIPT_CHARS = 250  # judged for the script
TOLD = 0.35  # below it no language is named
FOREIGN_SHARE = 0.25  # letters of another script that settle it
KANA_SHARE = 0.1  # letters that settle Japanese
AGREED = 0.9  # probability of two equal judgements that makes a third needless
SURE = 0.5  # below it the parts vote

HALF_PART_CHARS, HALF_SAMPLE_CHARS, BOTH_SAMPLES_CHARS = PART_CHARS // 2, SAMPLE_CHARS // 2, 2 * SAMPLE_CHARS
ZERO, ONE, TWO, THREE = map(np.int64, range(4))
LATIN = 0  # number of the script; others are numbered as in `SCRIPTS`, from 1
KANA = 1 + next(index for index, script in enumerate(SCRIPTS) if script[2] == ("ja",))
EVERY_LINE = np.bool_(True)  # those of code as well
NONE = -1  # no language
LEAST = 1e-12  # of a divisor
UTF8_BYTES = 4  # of a character at most
BLANK = 0x20


class Choices(NamedTuple):
    """Among which languages a script leaves the choice.

    Attributes:
        script: uint8 [code points], number of the script; what lies beyond is of none.
        alone: int32 [scripts], the language of a script that one language writes, else -1.
        spans: int64 [scripts, 2], the columns of the classifier to choose among, from the first to before the last.
        members: bool [scripts, columns], which of these are candidates.
        languages: int32 [columns], index of the language.
        priors: float32 [columns], factor of the probability.
    """

    script: np.ndarray
    alone: np.ndarray
    spans: np.ndarray
    members: np.ndarray
    languages: np.ndarray
    priors: np.ndarray


class Scratch(NamedTuple):
    """Room to work in: words and their plain form (bytes), n-grams found and counted, scores of columns and languages."""

    words: np.ndarray
    form: np.ndarray
    found: np.ndarray
    counts: np.ndarray
    scores: np.ndarray
    shares: np.ndarray
    votes: np.ndarray


@njit(cache=True, nogil=True)
def identify_texts(data, bounds, letters, model, choices, found, chances):  # type: ignore[no-untyped-def]
    """Name the language of every text.

    Args:
        data, bounds: UTF-8 bytes of the texts, and where each begins.
        letters, model: of `puna.data.kernels.letters` and `puna.data.kernels.language`.
        found: int32 [texts], receives the index of the language, -1 for none.
        chances: float32 [texts], receives its probability.
    """
    room = np.int64(0)
    for text in range(len(bounds) - 1):
        room = np.maximum(room, bounds[text + 1] - bounds[text])
    room = np.minimum(room, UTF8_BYTES * MAX_CHARS)
    languages = max(np.max(choices.languages), np.max(choices.alone)) + 1
    scratch = Scratch(
        np.empty(room, np.uint8), np.empty(FORM_ROOM * room, np.uint8), np.empty(FORM_ROOM * room, np.int32),
        np.zeros(len(model.weights), np.int32), np.empty(len(model.prior), np.float32), np.empty(languages), np.empty(languages),
    )  # fmt: skip
    for text in range(len(bounds) - 1):
        begin = bounds[text]
        end = forward(data, begin, bounds[text + 1], MAX_CHARS)
        language, chance = NONE, 0.0
        if forward(data, begin, end, BOTH_SAMPLES_CHARS) < end:
            language, chance = _by_samples(data, begin, end, letters, model, choices, scratch)
        if language == NONE:
            language, chance = _by_parts(data, begin, end, letters, model, choices, scratch)
        found[text], chances[text] = language, chance


@njit(cache=True, nogil=True)
def _by_samples(data, begin, end, letters, model, choices, scratch):  # type: ignore[no-untyped-def]
    """The language on which a text's begin and middle surely agree; most long texts need no more, which halves the time."""
    languages, chances = np.empty(2, np.int64), np.empty(2)
    for sample in range(2):
        start = backward(data, (begin + end) // 2, begin, HALF_SAMPLE_CHARS) if sample else begin
        size = write_words(data, start, forward(data, start, end, SAMPLE_CHARS), letters.kind, scratch.words)
        stop = forward(scratch.words, ZERO, size, PART_CHARS)
        if stop == size:
            return NONE, 0.0
        languages[sample], chances[sample] = _judge(ZERO, stop, letters, model, choices, scratch)
        if languages[0] != languages[sample] or chances[sample] < AGREED:
            return NONE, 0.0
    return _vote(languages, chances, TWO, scratch.votes)


@njit(cache=True, nogil=True)
def _by_parts(data, begin, end, letters, model, choices, scratch):  # type: ignore[no-untyped-def]
    """By begin, end, and the middle when these two leave a doubt, of all words; by the lines where the doubt stays."""
    words = scratch.words
    size = write_words(data, begin, end, letters.kind, words)
    if _letters_of(words, size) < MIN_LETTERS:
        return NONE, 0.0
    languages, chances = np.empty(3, np.int64), np.empty(3)
    parts = THREE if forward(words, ZERO, size, ONE_PART_CHARS) < size else ONE
    for part in range(parts):
        start, stop = ZERO, size
        if part == 1:
            start = backward(words, size, ZERO, PART_CHARS)
        elif parts > 1:
            start = backward(words, size // 2, ZERO, HALF_PART_CHARS) if part else ZERO
            stop = forward(words, start, size, PART_CHARS)
        languages[part], chances[part] = _judge(start, stop, letters, model, choices, scratch)
        if part == 1 and languages[0] == languages[1] and min(chances[0], chances[1]) >= AGREED:
            parts = TWO
            break
    language, chance = _vote(languages, chances, parts, scratch.votes)
    if chance >= SURE:
        return language, chance
    return _by_lines(data, begin, end, letters, model, choices, scratch, language, chance)


@njit(cache=True, nogil=True)
def _vote(languages, chances, parts, votes):  # type: ignore[no-untyped-def]
    """The language of several judgements, each with the square of its probability: one sure part outweighs two doubtful ones."""
    votes[:] = 0
    for part in range(parts):
        votes[languages[part]] += chances[part] ** 2
    best, surest = np.argmax(votes), 0.0
    for part in range(parts):
        if languages[part] == best:
            surest = max(surest, chances[part])
    return best, votes[best] / max(votes.sum(), LEAST) * surest


@njit(cache=True, nogil=True)
def _by_lines(data, i, end, letters, model, choices, scratch, language, chance):  # type: ignore[no-untyped-def]
    """A vote of the lines, each with the weight of its letters, for documents that mix languages or are hard."""
    votes = scratch.votes
    votes[:] = 0
    lines = 0
    while i < end and lines < MOST_LINES:
        stop = line_end(data, i, end)
        size = write_line_words(data, i, stop, letters.kind, EVERY_LINE, scratch.words)
        count = _letters_of(scratch.words, size)
        if count >= MIN_LETTERS:
            winner, probability = _judge(ZERO, size, letters, model, choices, scratch)
            votes[winner] += count * probability
        i = stop + 1
        lines += 1
    total = votes.sum()
    if total > 0:
        language = np.argmax(votes)
        chance = votes[language] / total * max(chance, SURE)
    return language if chance >= TOLD else NONE, chance


@njit(cache=True, nogil=True)
def _judge(start, stop, letters, model, choices, scratch):  # type: ignore[no-untyped-def]
    """Classify one stretch of the words among the languages of its dominant script."""
    script = _script(scratch.words, start, stop, letters.kind, choices.script)
    if choices.alone[script] != NONE:
        return np.int64(choices.alone[script]), 1.0
    size = plain_form(scratch.words, start, stop, letters, scratch.form)
    first, last = choices.spans[script]
    scores, shares = scratch.scores[: last - first], scratch.shares
    classify(scratch.form[:size], model, first, scratch.found, scratch.counts, scores)
    shares[:] = 0
    for column in range(first, last):
        if choices.members[script, column]:
            shares[choices.languages[column]] += scores[column - first] * choices.priors[column]
    best = np.argmax(shares)
    return best, shares[best] / max(shares.sum(), LEAST)


@njit(cache=True, nogil=True)
def _script(words, i, stop, kind, script):  # type: ignore[no-untyped-def]
    counts = np.zeros(len(SCRIPTS) + 1, np.int64)
    letters = 0
    for _ in range(SCRIPT_CHARS):
        if i >= stop:
            break
        code, i = decode(words, i, stop)
        letters += kind_of(kind, code) & LETTER != 0
        counts[script[code] if code < len(script) else LATIN] += 1
    if counts[KANA] > KANA_SHARE * letters:
        return KANA
    counts[LATIN] = 0
    best = np.argmax(counts)
    # foreign names and terms stand in Latin letters within any script, hardly ever the other way round
    return best if counts[best] >= FOREIGN_SHARE * letters else LATIN


@njit(cache=True, nogil=True)
def _letters_of(words, size):  # type: ignore[no-untyped-def]
    count = 0
    for place in range(size):
        count += words[place] != BLANK and words[place] & 0xC0 != 0x80
    return count


@njit(cache=True, nogil=True)
def words_of_texts(data, bounds, kind, most, out, ends):  # type: ignore[no-untyped-def]
    """The first words of every text that a language can be told from, at most `most` characters; none where there are too few.

    Args:
        data, bounds: UTF-8 bytes of the texts, and where each begins.
        out: uint8, room for as many bytes as the texts have; receives the words of one text after another.
        ends: int64 [texts + 1], receives where they begin and end.
    """
    ends[0] = 0
    for text in range(len(bounds) - 1):
        begin, first = bounds[text], ends[text]
        size = write_words(data, begin, forward(data, begin, bounds[text + 1], MAX_CHARS), kind, out[first:])
        enough = _letters_of(out[first:], size) >= MIN_LETTERS
        ends[text + 1] = forward(out, first, first + size, most) if enough else first
