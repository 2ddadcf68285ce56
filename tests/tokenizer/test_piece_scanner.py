from __future__ import annotations

import random
from collections import Counter

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tricky_texts import SENTENCES, corpus, random_text

from puna.core.errors import InputError
from puna.tokenizer.bpe import SPLIT_PATTERN
from puna.tokenizer.counts import PieceCounts, Totals, add_up
from puna.tokenizer.pieces import count_texts, split


def pattern_pieces(text: str) -> list[bytes]:
    return [piece.encode() for piece in regex.findall(SPLIT_PATTERN, text)]


@settings(max_examples=500, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_scanner_splits_any_text_as_the_pattern_does(text):
    assert split(text) == pattern_pieces(text)


@settings(max_examples=500, deadline=None)
@given(st.text("aZé漢'sSTtRrEeVvMmLlDdſ1½٣ \t\n\r\u00a0\u2028!_\u0301😀", max_size=25))
def test_scanner_splits_provoking_texts_as_the_pattern_does(text):
    assert split(text) == pattern_pieces(text)


def test_every_code_point_between_a_letter_and_a_space():
    every = [chr(code) for code in (*range(0x40000), *range(0x40000, 0x110000, 61)) if not 0xD800 <= code < 0xE000]
    for start in range(0, len(every), 4096):
        text = "a" + " b".join(every[start : start + 4096])
        assert split(text) == pattern_pieces(text), hex(start)


def test_counts_are_the_counter_of_the_pattern():
    rng = random.Random(5)
    texts = [*corpus(), *SENTENCES, *(random_text(rng) for _ in range(300)), "", "x" * 70_000, " " * 50_000]
    counted = count_texts(texts)
    expected = Counter(piece for text in texts for piece in pattern_pieces(text))
    assert dict(zip(counted.pieces(), counted.counts.tolist(), strict=True)) == expected
    assert list(counted.pieces()) == sorted(expected)
    words = sum(len(regex.findall(r"\S+", text)) for text in texts)
    assert counted.totals == Totals(len(texts), sum(map(len, texts)), sum(len(t.encode()) for t in texts), words)


def test_lone_surrogates_count_as_replacement_characters():
    assert list(count_texts(["a\ud800"]).pieces()) == [b"a", "\ufffd".encode()]


def test_adding_up_shards_is_counting_the_whole(tmp_path):
    texts = corpus()
    shards = [count_texts(texts[i::3]) for i in range(3)]
    for i, shard in enumerate(shards):
        shard.write(tmp_path / f"{i}.parquet")
    read = [PieceCounts.read(tmp_path / f"{i}.parquet", shard.totals) for i, shard in enumerate(shards)]
    total, whole = add_up(read), count_texts(texts)
    assert list(total.pieces()) == list(whole.pieces())
    assert total.counts.tolist() == whole.counts.tolist()
    assert total.totals == whole.totals


def test_counts_of_several_billion_add_up():
    pieces = count_texts(["ab ab"]).scaled(2**40)
    assert add_up([pieces, pieces]).counts.tolist() == [2**41, 2**41]


def test_taking_pieces():
    pieces = count_texts(["one two two three three three"])
    assert dict(zip(pieces.at_least(2).pieces(), pieces.at_least(2).counts.tolist(), strict=True)) == {b" two": 2, b" three": 3}
    assert len(pieces.at_least(9)) == 0


def test_a_file_that_holds_no_counts(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="cannot be read"):
        PieceCounts.read(tmp_path / "x.parquet")
