"""The word scanner against letter-by-letter splitting, on random Unicode and on 28 languages."""

from __future__ import annotations

import unicodedata

import curation_reference as reference
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.core.errors import InputError
from puna.data.words import HAS_LETTER, LONE, hash_words, scan, utf8_of, words_of

ASSIGNED = st.characters(codec="utf-8").filter(lambda letter: ord(letter) < 0x20000 and unicodedata.category(letter) != "Cn")
LIVELY = st.sampled_from("abcÄéİςΣ'’_-.,;0९ ไทยあ漢क्षि\u0301\u200c\u200d❤️\n\t𠀀𝔄")
TEXTS = st.text(st.one_of(LIVELY, ASSIGNED), max_size=80)


def assert_as_reference(texts: list[str]) -> None:
    found = scan(pa.array(texts, pa.string()))
    data, _ = utf8_of(texts)
    expected = [reference.words(text) for text in texts]
    flat = [word for words in expected for word in words]
    assert np.diff(found.ends, prepend=0).tolist() == list(map(len, expected))
    assert found.lengths.tolist() == list(map(len, flat))
    assert ((found.flags & HAS_LETTER) != 0).tolist() == [any(map(str.isalpha, word)) for word in flat]
    assert ((found.flags & LONE) != 0).tolist() == [len(word) == 1 and reference.alone(word) for word in flat]
    assert found.letterwise().tolist() == list(map(reference.letterwise, expected))
    letters_before = np.concatenate([[0], np.cumsum((data & 0xC0) != 0x80)])
    offset, places = 0, []
    for text in texts:
        places += [offset + start for start, _ in reference.word_spans(text)]
        offset += len(text)
    assert letters_before[found.starts].tolist() == places
    assert reference.same_partition(found.hashes.tolist(), flat)


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_words_of_random_text(texts):
    assert_as_reference(texts)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_words_as_strings_are_the_same_words(text):
    # a letter whose lower case is two code points is the one thing the string form keeps whole
    assert [word.replace("i̇", "i") for word in words_of(text)] == [word.replace("i̇", "i") for word in reference.words(text)]


def test_words_of_real_languages():
    texts = reference.udhr()
    if not texts:
        pytest.skip("../shared/data/udhr is not here")
    assert_as_reference([text[:3000] for text in texts.values()])
    letterwise = dict(zip(texts, scan(list(texts.values())).letterwise().tolist(), strict=True))
    assert {code for code, alone in letterwise.items() if alone} == {"th", "ja", "zh"}


@pytest.mark.parametrize(("text", "words"), [
    ("Don’t stop, it's 1,234.5!", ["don't", "stop", "it's", "1", "234", "5"]),
    ("rock'n'roll 'quoted'", ["rock'n", "roll", "quoted"]),
    ("हिन्दी है। क्षि", ["हिन्दी", "है", "क्षि"]),
    ("ไทย ok", ["ไ", "ท", "ย", "ok"]),
    ("Python的", ["python", "的"]),
    ("ΟΔΟΣ οδος", ["οδοσ", "οδοσ"]),
    ("İstanbul ISTANBUL", ["istanbul", "istanbul"]),
    ("snake_case __init__ ❤️", ["snake_case", "__init__"]),
    ("", []),
])  # fmt: skip
def test_words_by_example(text, words):
    assert words_of(text) == words
    assert scan([text]).hashes.tolist() == (hash_words(words).tolist() if words else [])


def test_any_arrow_form_of_a_column_gives_the_same_words():
    texts = ["first text", "", "second one here", None, "dritter Text"]
    whole = scan([text or "" for text in texts])
    forms = [
        pa.array(texts),
        pa.array(texts, pa.large_string()),
        pa.chunked_array([texts[:2], texts[2:]]),
        pa.chunked_array([["x y z", *texts, "tail"]]).slice(1, 5),
        pa.array(["x y z", *texts, "tail"]).slice(1, 5),
    ]
    for form in forms:
        found = scan(form)
        assert found.hashes.tolist() == whole.hashes.tolist() and found.ends.tolist() == whole.ends.tolist() == [2, 2, 5, 5, 7]
    assert scan([]).ends.tolist() == [] and scan(pa.chunked_array([], pa.string())).hashes.tolist() == []


def test_hashes_of_many_words_are_distinct_and_never_zero():
    words = [f"{prefix}{number}" for prefix in ("a", "ab", "wort", "слово") for number in range(50_000)]
    hashes = hash_words(words)
    assert len(np.unique(hashes)) == len(words) and hashes.all()
    low, high = hashes & np.uint64(0xFFFF), hashes >> np.uint64(48)
    for part in (low, high):
        # 200,000 balls in 65,536 urns: mean 3.05, the fullest of random ones has about 13
        assert np.bincount(part.astype(np.int64), minlength=1 << 16).max() < 20


def test_a_list_entry_that_is_not_one_word_is_named():
    with pytest.raises(InputError, match="not one word"):
        hash_words(["fine", "two words"])
