"""Keys of lines and texts and the removal of lines, against strings normalised letter by letter."""

from __future__ import annotations

import unicodedata

import curation_reference as reference
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.data.dedup import line_keys_batch, text_keys, without_lines_batch

LETTERS = st.one_of(
    st.sampled_from("aAbB Éé\u0301ςΣ12٣½ﬁ_-.,!ไทยあ漢हि।\u200c…\n\n\n\t\u00a0"),
    st.characters(codec="utf-8").filter(lambda letter: ord(letter) < 0x20000 and unicodedata.category(letter) != "Cn"),
)
TEXTS = st.text(LETTERS, max_size=60)


def keys_of(texts: list[str], fold: list[bool], least: int = 3, lang: str = "en") -> list[np.ndarray]:
    keys, ends = line_keys_batch(pa.array(texts, pa.string()), [lang] * len(texts), np.array(fold, dtype=bool), least)
    assert ends[-1] == len(keys)
    return np.split(keys, ends[:-1])


def assert_as_reference(texts: list[str], fold: list[bool], least: int = 3) -> None:
    plain = [
        [reference.normal_line(line, folded, least) for line in text.split("\n")]
        for text, folded in zip(texts, fold, strict=True)
    ]
    found = keys_of(texts, fold, least)
    assert list(map(len, found)) == list(map(len, plain))
    keys, lines = np.concatenate(found).tolist(), [line for part in plain for line in part]
    assert [key == 0 for key in keys] == [not line for line in lines]
    assert reference.same_partition(keys, lines)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.booleans()), min_size=1, max_size=4))
def test_lines_of_random_text(rows):
    assert_as_reference([text for text, _ in rows], [fold for _, fold in rows])


def test_lines_of_real_languages():
    texts = list(reference.udhr().values())
    if not texts:
        pytest.skip("../shared/data/udhr is not here")
    shouted = [text.upper().replace(" ", "  ") for text in texts if "ß" not in text]
    assert_as_reference([text[:4000] for text in texts + shouted], [True] * (len(texts) + len(shouted)), 12)


@pytest.mark.parametrize(("first", "second", "same"), [
    ("Page 3 of the café menu, again!", "PAGE 12 of the cafe\u0301  menu again", True),
    ("Page 3 of the menu", "Page x of the menu", False),
    ("1,234 read this page", "99,1 read this page", True),
    ("1,234 read this page", "1234 read this page", False),
    ("यह पुस्तक बहुत अच्छी है। और", "यह पुस्तक बहुत अच्छी है और", True),
    ("कि यह पुस्तक बहुत अच्छी है", "का यह पुस्तक बहुत अच्छी है", False),
    ("ﬁrst of all things", "first of all things", True),
    ("שָׁלוֹם לכולם כאן", "שלום לכולם כאן", True),
    ("می‌خواهم بروم خانه", "میخواهم بروم خانه", True),
    ("snake_case is a name", "snakecase is a name", True),
])  # fmt: skip
def test_which_lines_are_equal(first, second, same):
    (keys,) = keys_of([f"{first}\n{second}"], [True], 8)
    assert keys.all() and (keys[0] == keys[1]) is np.bool_(same)


def test_language_is_part_of_the_key_and_short_lines_have_none():
    text = "Subscribe to our newsletter\n}\n            -----  12345678901234567890\n"
    (english,), (french,) = keys_of([text], [True], 12), keys_of([text], [True], 12, lang="fr")
    assert english[0] != french[0] and english[1:].tolist() == [0, 0, 0]


def test_digits_and_signs_count_where_they_are_the_content():
    lines = "Ana has 2 pens and buys 5 more. 2+5=7.\nAna has 3 pens and buys 5 more. 3+5=8.\nnever miss a page!"
    (folded,), (exact,) = keys_of([lines], [True], 8), keys_of([lines], [False], 8)
    assert folded[0] == folded[1] and exact[0] != exact[1] and folded[2] == exact[2]


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=6))
def test_text_keys_of_random_text(texts):
    texts = texts + [" ".join(text.split()).upper() for text in texts] + [text + "\n" for text in texts]
    plain = [reference.normal_text(text) for text in texts]
    keys = text_keys(texts).tolist()
    assert [key == 0 for key in keys] == [not text for text in plain]
    assert reference.same_partition(keys, plain)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_lines_are_removed_as_by_splitting(data):
    texts = data.draw(st.lists(st.text(st.sampled_from("ab é\n"), max_size=30), min_size=1, max_size=5))
    drop = [data.draw(st.lists(st.booleans(), min_size=n, max_size=n)) for n in (text.count("\n") + 1 for text in texts)]
    ends = np.cumsum(list(map(len, drop)))
    flat = np.array([gone for part in drop for gone in part])
    left, removed = without_lines_batch(pa.array(["x", *texts]).slice(1), flat, ends)
    left.validate(full=True)
    assert left.to_pylist() == [reference.without_lines(text, part) for text, part in zip(texts, drop, strict=True)]
    assert removed.tolist() == list(map(sum, drop))


def test_no_documents():
    keys, ends = line_keys_batch([], [], np.zeros(0, dtype=bool), 12)
    left, removed = without_lines_batch([], np.zeros(0, dtype=bool), ends)
    assert not len(keys) and not len(ends) and not len(text_keys([])) and left.to_pylist() == removed.tolist() == []
