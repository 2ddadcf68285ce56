from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tricky_texts import SENTENCES, corpus, random_text

from puna.tokenizer import bpe, bulk
from puna.tokenizer.bulk import BulkEncoder, unsure_characters
from puna.tokenizer.pieces import OTHER, character_classes


@pytest.fixture(scope="module")
def encoder(tokenizer) -> BulkEncoder:
    return BulkEncoder(tokenizer.ranks, tokenizer.encode, tokenizer._tiktoken()._encode_single_piece)


def test_same_ids_on_provoking_texts(tokenizer, encoder):
    rng = random.Random(21)
    for text in [
        *SENTENCES,
        *corpus(),
        *(random_text(rng) for _ in range(3000)),
        "",
        "a" * 65,
        "=" * 64 + "x",
        "ipython",
        "\ud800a",
    ]:
        assert encoder.encode(text) == tokenizer.encode(text), repr(text)


@settings(max_examples=500, deadline=None)
@given(st.text())
def test_same_ids_on_any_text(tokenizer, encoder, text):
    assert encoder.encode(text) == tokenizer.encode(text)


def test_same_ids_for_every_letter_number_and_space(tokenizer, encoder):
    """Between a letter, a digit and a mark, so that every class shows; an unsure character leaves its text to tiktoken."""
    classes, unsure = character_classes(), unsure_characters()
    sure = [chr(code) for code in np.flatnonzero((classes > OTHER) & ~unsure)]
    others = [chr(code) for code in np.flatnonzero((classes == OTHER) & ~unsure)[::9] if not 0xD800 <= code < 0xE000]
    for chars in (sure, others, [chr(code) for code in np.flatnonzero(unsure)[::50]]):
        for start in range(0, len(chars), 2000):
            text = "".join(f"a{char}a1{char}1!{char}!" for char in chars[start : start + 2000])
            assert encoder.encode(text) == tokenizer.encode(text), hex(ord(chars[start]))


def test_a_full_cache_starts_anew(tokenizer, monkeypatch):
    monkeypatch.setattr(bulk, "CACHED_PIECES", 16)
    monkeypatch.setattr(bulk, "CACHED_BYTES", 128)
    encoder = BulkEncoder(tokenizer.ranks, tokenizer.encode, tokenizer._tiktoken()._encode_single_piece)
    for text in corpus()[:100]:
        assert encoder.encode(text) == tokenizer.encode(text)


def test_batches_change_over_without_a_trace(tokenizer, monkeypatch):
    texts = [*corpus()[:50], " " * 30_000 + "x", "a" * 40_000, *SENTENCES]
    expected = [tokenizer.encode(text) for text in texts]
    fresh = bpe.Tokenizer.from_ranks(tokenizer.ranks)
    monkeypatch.setattr(bpe, "BULK_CHARS", sum(map(len, texts)) + 1)
    assert fresh.encode_batch(texts) == expected
    assert fresh._bulk is None
    assert fresh.encode_batch(texts) == expected
    assert fresh._bulk is not None
