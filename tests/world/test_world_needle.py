"""Needle rows: exact length, true answers, known depths, clean filler, with word-level and byte-level encoders."""

import random
import re

import pytest

from puna.core.errors import InputError
from puna.world.needle import KEYS, VALUES, needle_ids, single_token_words

WORDS = {}


def encode(text):
    """One id per word with its leading space: a stand-in tokenizer that knows every word."""
    return [WORDS.setdefault(piece, len(WORDS) + 1000) for piece in re.findall(r" ?\w+|[^\w\s]|\s", text)]


def decode(ids):
    back = {v: k for k, v in WORDS.items()}
    return "".join(back.get(i, "~") for i in ids)


def filler(rng):
    return [rng.randrange(900) for _ in range(rng.randint(3, 12))]


@pytest.mark.parametrize("length", [64, 127, 512, 2000])
@pytest.mark.parametrize(("pairs", "queries"), [(1, 1), (4, 1), (8, 8)])
def test_rows_are_true(length, pairs, queries):
    rng = random.Random(length + pairs)
    for _ in range(20):
        row = needle_ids(rng, length, filler, encode, pairs, queries)
        assert len(row.ids) == length and len(row.answers) == len(row.depths) == queries and row.chance == 1 / pairs
        haystack = row.ids[: row.answers[0][0] - 1]
        for (start, end), depth in zip(row.answers, row.depths, strict=True):
            key, value = row.ids[start - 1], row.ids[start:end]
            at = [i for i, token in enumerate(haystack) if token == key]
            assert len(at) == 1 and haystack[at[0] + 1 : at[0] + 1 + len(value)] == value
            assert haystack[at[0] + 2] == encode(",")[0]
            assert abs(depth - at[0] / len(haystack)) < 3 / length + 0.05
        assert row.answers[-1][1] == length


def test_depth_is_where_it_was_asked_to_be():
    rng = random.Random(0)
    for depth in (0.0, 0.25, 0.5, 0.75, 1.0):
        found = [needle_ids(rng, 1024, filler, encode, 4, 1, depth=depth).depths[0] for _ in range(10)]
        assert all(abs(d - depth) < 0.02 for d in found), (depth, found)


def test_keys_are_taken_out_of_the_filler():
    key, bare = encode(" Mia")[0], encode("Mia")[0]
    row = needle_ids(random.Random(1), 300, lambda rng: [key, bare, 5, 6], encode, 2, 1)
    assert bare not in row.ids and row.ids.count(key) <= 2


def test_same_stream_same_row():
    a, b = (needle_ids(random.Random(7), 200, filler, encode, 4, 2) for _ in range(2))
    assert a == b


def test_single_token_words_and_fallback_to_longer_ones():
    assert single_token_words(encode, ["Mia", "two words"]) == ["Mia"]

    def by_byte(text):
        return list(text.encode())

    row = needle_ids(random.Random(0), 400, lambda rng: [1, 2, 3], by_byte, 3, 2)
    for start, end in row.answers:
        assert bytes(row.ids[start:end]).decode().strip() in VALUES
        assert bytes(row.ids[:start]).decode(errors="ignore").rsplit(" ", 1)[1] in KEYS


def test_bad_requests_are_input_errors():
    rng = random.Random(0)
    with pytest.raises(InputError, match="too short"):
        needle_ids(rng, 10, filler, encode, 8, 1)
    with pytest.raises(InputError, match="queries"):
        needle_ids(rng, 100, filler, encode, 2, 3)
    with pytest.raises(InputError, match="pairs asked"):
        needle_ids(rng, 1000, filler, encode, 99, 1)
    with pytest.raises(InputError, match="no usable tokens"):
        needle_ids(rng, 100, lambda rng: [], encode, 2, 1)
