from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tricky_texts import SENTENCES, corpus, random_text

from puna.tokenizer import merging
from puna.tokenizer.bpe import SPLIT_PATTERN, Tokenizer
from puna.tokenizer.merging import train_ranks
from puna.tokenizer.pieces import count_texts
from puna.tokenizer.ranks import merges, with_words


def slow_ranks(texts: list[str], size: int) -> dict[bytes, int]:
    """BPE training by the book: recount every pair after every merge; most frequent first, then smallest (left id, right id)."""
    import regex

    words = Counter(piece.encode() for text in texts for piece in regex.findall(SPLIT_PATTERN, text))
    split = {word: tuple(word) for word in words}
    ranks = {bytes([b]): b for b in range(256)}
    spelled = list(ranks)
    while len(ranks) < size:
        pairs: Counter[tuple[int, int]] = Counter()
        for word, ids in split.items():
            for pair in pairwise(ids):
                pairs[pair] += words[word]
        if not pairs:
            return ranks
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        spelled.append(spelled[best[0]] + spelled[best[1]])
        ranks[spelled[-1]] = len(ranks)
        split = {word: join(ids, best, len(ranks) - 1) for word, ids in split.items()}
    return ranks


def join(ids: tuple[int, ...], pair: tuple[int, int], new: int) -> tuple[int, ...]:
    out, i = [], 0
    while i < len(ids):
        if ids[i : i + 2] == pair:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return tuple(out)


def small_corpora() -> dict[str, list[str]]:
    rng = random.Random(4)
    return {
        "sentences": list(SENTENCES),
        "ties": ["ab cd ef gh", "hg fe dc ba", "ab ba ab ba"],
        "runs": ["aaaa aaaaa aaaaaaa", "\n\n\n\n\n", "      x", "........"],
        "random": [random_text(rng) for _ in range(60)],
        "code": corpus()[:40],
        "nothing": ["", "a", " "],
    }


@pytest.mark.parametrize("name", list(small_corpora()))
def test_same_merges_as_the_slow_trainer(name):
    texts = small_corpora()[name]
    assert list(train_ranks(count_texts(texts), 420).ranks) == list(slow_ranks(texts, 420))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text("ab c\n", max_size=30), max_size=8))
def test_same_merges_where_everything_ties_and_overlaps(texts):
    assert list(train_ranks(count_texts(texts), 290).ranks) == list(slow_ranks(texts, 290))


def test_same_merges_with_a_heap_of_three_pairs_and_arrays_that_grow(monkeypatch):
    monkeypatch.setattr(merging, "HEAP_PAIRS", 3)
    texts = corpus()[:60]
    assert list(train_ranks(count_texts(texts), 700).ranks) == list(slow_ranks(texts, 700))


def test_same_merges_as_rustbpe():
    rustbpe = pytest.importorskip("rustbpe")
    texts = [*corpus(), *SENTENCES]
    peer = rustbpe.Tokenizer()
    peer.train_from_iterator(iter(texts), 4000, pattern=SPLIT_PATTERN)
    assert train_ranks(count_texts(texts), 4000).ranks == {bytes(token): rank for token, rank in peer.get_mergeable_ranks()}


def test_order_of_texts_does_not_matter():
    texts = corpus()[:80]
    assert train_ranks(count_texts(texts), 500) == train_ranks(count_texts(texts[::-1]), 500)


def test_counts_beyond_32_bits():
    pieces = count_texts(["ab ab ab cd cd"])
    big = pieces.scaled(3_000_000_000)
    trained = train_ranks(big, 258)
    assert list(trained.ranks)[256:] == [b"ab", b" c"]
    assert trained.made == [9_000_000_000, 6_000_000_000]


def test_rare_merges_are_left_out_as_often_as_they_were_made():
    pieces = count_texts(["abab ab cab", "xyz aaa"])
    trained = train_ranks(pieces, 400, minimum=2)
    assert list(trained.ranks)[256:] == [b"ab"]  # "aa" stands twice and can be joined once
    assert trained.made == [4]
    assert len(train_ranks(pieces, 400).ranks) > 262


def times_made(ranks: dict[bytes, int], texts: list[str]) -> list[int]:
    """How often the encoder makes each merge: tokens of the encoded text, handed down from the last merge to the first."""
    tokenizer = Tokenizer.from_ranks(ranks)
    counts = Counter(token for text in texts for token in tokenizer.encode(text))
    made = [counts[rank] for rank in range(len(ranks))]
    for left, right in reversed(merges(ranks)):
        made[ranks[left]] += made[ranks[left + right]]
        made[ranks[right]] += made[ranks[left + right]]
    return made[256:]


def test_made_is_what_the_encoder_makes():
    texts = [*corpus()[:50], "aaaa aaaaa\n\n\n\n       x"]
    trained = train_ranks(count_texts(texts), 900)
    assert trained.made == times_made(trained.ranks, texts)


def test_extension_keeps_every_rank_and_is_the_slow_continuation():
    english, german = (
        ["the cat and the hat and that", "a thing that sings"],
        ["die katze und der hut und das ding", "der thron"] * 2,
    )
    base = train_ranks(count_texts(english), 270).ranks
    extended = train_ranks(count_texts(german), 285, base=base).ranks
    assert list(extended)[:270] == list(base)
    assert list(extended) == list(slow_extension(base, german, 285))


def slow_extension(base: dict[bytes, int], texts: list[str], size: int) -> dict[bytes, int]:
    """Encode every piece with the base, then recount every pair after every merge; reserved words are no new tokens."""
    ranks, tokenizer = dict(base), Tokenizer.from_ranks(base)
    spelled = list(ranks)
    import regex

    words = Counter(piece for text in texts for piece in regex.findall(SPLIT_PATTERN, text))
    split = {word: tuple(tokenizer.encode(word)) for word in words}
    while len(ranks) < size:
        pairs: Counter[tuple[int, int]] = Counter()
        for word, ids in split.items():
            for pair in pairwise(ids):
                pairs[pair] += words[word]
        if not pairs:
            return ranks
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        spelled.append(spelled[best[0]] + spelled[best[1]])
        ranks.setdefault(spelled[-1], len(ranks))
        split = {word: join(ids, best, len(spelled) - 1) for word, ids in split.items()}
    return ranks


@pytest.mark.parametrize("seed", range(3))
def test_extension_of_a_base_with_reserved_words_and_shuffled_bytes(seed):
    rng = random.Random(seed)
    texts = [*corpus()[:30], *SENTENCES]
    trained = train_ranks(count_texts(texts), 400).ranks
    singles = [bytes([b]) for b in range(256)]
    rng.shuffle(singles)
    base = {token: rank for rank, token in enumerate([*singles, *list(trained)[256:]])}
    base = with_words(base, [b"assistant", b"ipython"], 402)
    more = [random_text(rng) for _ in range(40)] + ["assistants assistant assistantship ipythons"] * 30
    assert list(train_ranks(count_texts(more), 480, base=base).ranks) == list(slow_extension(base, more, 480))


def test_a_reserved_word_that_comes_out_of_merges_keeps_its_rank():
    base = {bytes([b]): b for b in range(256)} | {b"xyz": 256}
    trained = train_ranks(count_texts(["xyzq xyzr xyz"]), 260, base=base)
    assert list(trained.ranks)[256:] == [b"xyz", b"xy", b" xyz", b"xyzq"]
    assert Tokenizer.from_ranks(trained.ranks).encode("xyzq") == [259]


def test_no_pieces_no_merges():
    assert list(train_ranks(count_texts([]), 300).ranks) == [bytes([b]) for b in range(256)]
    assert np.array_equal(count_texts([]).ends, [])
