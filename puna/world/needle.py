"""Key -> value recall at any length: entries scattered in filler, asked again at the end (paper 3.4.2, needle in a haystack).

An entry is ` Mia c,`: the value's token follows the key's directly, so one induction step finds it; with a token in between,
small models did not learn it. Filler is whatever the caller draws (mini-world text, a real corpus), so the same rows train
and test long context anywhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from puna.core.errors import InputError
from puna.world.lexicon import LETTERS, NAMES

KEYS = NAMES
VALUES = LETTERS
SEPARATOR = ","
EMPTY_RUNS = 1000  # runs of filler without a usable token in a row before we call the filler empty

Encode = Callable[[str], list[int]]
Filler = Callable[[random.Random], list[int]]


@dataclass(frozen=True)
class Needle:
    """One row.

    Attributes:
        ids: exactly `length` token ids, without BOS.
        answers: for each query, [start, end) of the value's ids at the end of the row: what the model must predict.
        depths: for each query, where its entry stands: 0.0 = start of the haystack, 1.0 = right before the questions.
        chance: accuracy of picking one of the listed values at random.
    """

    ids: list[int]
    answers: list[tuple[int, int]]
    depths: list[float]
    chance: float


def needle_ids(
    rng: random.Random, length: int, filler: Filler, encode: Encode, pairs: int = 4, queries: int = 1, *,
    depth: float | None = None, keys: Sequence[str] = KEYS, values: Sequence[str] = VALUES,
) -> Needle:  # fmt: skip
    """Draw one row of `length` ids with `pairs` entries, `queries` of them asked again at the end.

    Args:
        filler: returns a run of ids (a sentence, a line); entries stand between runs, the last run is cut to fit.
        encode: text to ids without special tokens.
        depth: 0..1, where the first queried entry goes (nearest border between runs); random when None.
        keys, values: words tried with a leading space; those that are one token are preferred.

    Tokens of keys and values are taken out of the filler, so a key means one thing and what is hidden
    stands out. InputError when the row is too short or words are too few.
    """
    words = _vocabulary(encode, tuple(keys), tuple(values))
    if not 1 <= queries <= pairs:
        raise InputError(f"a needle row needs 1 <= queries <= pairs, got {queries} queries and {pairs} pairs")
    if pairs > len(words.keys):
        raise InputError(f"{pairs} pairs asked for, {len(words.keys)} keys and {len(words.values)} values known",
                         fix="ask for fewer pairs or give more keys and values")  # fmt: skip
    entries = list(zip(rng.sample(words.keys, pairs), rng.choices(words.values, k=pairs), strict=True))
    asked = rng.sample(range(pairs), queries)
    tail, spans = _questions([entries[i] for i in asked], words.separator)
    rows = [key + value + words.separator for key, value in entries]
    room = length - len(tail) - sum(map(len, rows))
    if room < 0:
        raise InputError(f"a row of {length} tokens is too short for {pairs} entries and {queries} questions",
                         fix=f"use at least {length - room} tokens")  # fmt: skip
    runs = _fill(rng, room, filler, words.banned)
    haystack, starts = _scatter(rng, runs, rows, asked[0], depth)
    span = max(1, len(haystack) - min(map(len, rows)))
    return Needle(haystack + tail, [(len(haystack) + a, len(haystack) + b) for a, b in spans],
                  [min(1.0, starts[i] / span) for i in asked], 1 / pairs)  # fmt: skip


def single_token_words(encode: Encode, candidates: Sequence[str]) -> list[str]:
    """The candidates that are one token with a space before them, in their order."""
    return [word for word in candidates if len(encode(" " + word)) == 1]


@dataclass(frozen=True)
class _Vocabulary:
    keys: list[list[int]]
    values: list[list[int]]
    separator: list[int]
    banned: frozenset[int]  # tokens of one-token keys and values, with and without a space before them


@lru_cache(maxsize=16)
def _vocabulary(encode: Encode, keys: tuple[str, ...], values: tuple[str, ...]) -> _Vocabulary:
    single = [word for word in (*keys, *values) if len(encode(" " + word)) == 1]
    chosen = [single_token_words(encode, words) for words in (keys, values)]
    key_words, value_words = (few if len(few) >= 8 or len(few) == len(all_) else list(all_)
                              for few, all_ in zip(chosen, (keys, values), strict=True))  # fmt: skip
    banned = {ids[0] for word in single for ids in (encode(" " + word), encode(word)) if len(ids) == 1}
    spaced = [[encode(" " + word) for word in words] for words in (key_words, value_words)]
    return _Vocabulary(spaced[0], spaced[1], encode(SEPARATOR), frozenset(banned))


def _questions(asked: list[tuple[list[int], list[int]]], separator: list[int]) -> tuple[list[int], list[tuple[int, int]]]:
    """The end of the row and the [start, end) of each value in it; no separator after the last."""
    tail: list[int] = []
    spans = []
    for key, value in asked:
        tail += [*(separator if tail else []), *key]
        spans.append((len(tail), len(tail) + len(value)))
        tail += value
    return tail, spans


def _fill(rng: random.Random, room: int, filler: Filler, banned: frozenset[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    empty = 0
    while room > 0:
        run = [token for token in filler(rng) if token not in banned][:room]
        empty = 0 if run else empty + 1
        if empty == EMPTY_RUNS:
            raise InputError("the filler of a needle row has no usable tokens", fix="give a corpus with text in it")
        if run:
            runs.append(run)
            room -= len(run)
    return runs


def _scatter(
    rng: random.Random, runs: list[list[int]], rows: list[list[int]], first: int, depth: float | None
) -> tuple[list[int], list[int]]:
    """Put each row at a border between runs; returns the haystack and where each row starts in it."""
    borders = [0]
    for run in runs:
        borders.append(borders[-1] + len(run))
    places = [rng.randrange(len(borders)) for _ in rows]
    if depth is not None:
        places[first] = min(range(len(borders)), key=lambda i: abs(borders[i] - depth * borders[-1]))
    order = sorted(range(len(rows)), key=lambda i: (places[i], rng.random()))
    haystack: list[int] = []
    starts, done = [0] * len(rows), 0
    for i in order:
        haystack += [token for run in runs[done : places[i]] for token in run]
        done = places[i]
        starts[i] = len(haystack)
        haystack += rows[i]
    return haystack + [token for run in runs[done:] for token in run], starts
