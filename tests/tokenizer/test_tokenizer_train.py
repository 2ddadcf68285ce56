from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from tricky_texts import SENTENCES, corpus, random_text

from puna.core.errors import InputError
from puna.core.stage import local_artifact, local_context
from puna.tokenizer import train
from puna.tokenizer.bpe import SPLIT_PATTERN, Tokenizer

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


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
    assert list(train.train_ranks(iter(texts), 420)) == list(slow_ranks(texts, 420))


def test_order_of_texts_does_not_matter():
    texts = corpus()[:80]
    assert train.train_ranks(iter(texts), 500) == train.train_ranks(iter(texts[::-1]), 500)


def test_drop_rare_counts_merges_as_training_made_them():
    texts = ["abab ab cab", "xyz"]
    ranks = train.train_ranks(iter(texts), 400)
    tokenizer = Tokenizer.from_ranks(ranks)
    counts = Counter(i for text in texts for i in tokenizer.encode(text))
    kept = train.drop_rare(ranks, [counts[i] for i in range(len(ranks))], 2)
    assert list(kept)[256:] == [b"ab"]  # made 4 times; every other merge once
    assert train.drop_rare(ranks, [counts[i] for i in range(len(ranks))], 1) == ranks


def test_words_displace_the_last_merges_only():
    ranks = train.train_ranks(iter(corpus()), 300)
    words = [b"ipython", b"assistant", list(ranks)[299]]
    full = train.with_words(ranks, words, 300)
    assert len(full) == 300
    assert list(full)[:297] == list(ranks)[:297]
    assert {*words} <= set(full)
    assert len(train.with_words(ranks, words, 400)) == 302


def documents_artifact(directory: Path, rows: list[dict], keep: list[bool]):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for folder in ("documents", "annotations"):
        (directory / folder).mkdir(parents=True)
    half = len(rows) // 2
    for name, part, kept in (("0.parquet", rows[:half], keep[:half]), ("1.parquet", rows[half:], keep[half:])):
        pq.write_table(pa.Table.from_pylist(part), directory / "documents" / name)
        pq.write_table(pa.table({"keep": kept}), directory / "annotations" / name)
    return local_artifact(directory, "documents")


def row(i: int, text: str, group: str = "general") -> dict:
    return {"id": f"{i:04}", "group": group, "source": "made", "licence": "CC0-1.0", "text": text}


def run(tmp_path, rows, keep=None, name="out", **settings):
    folder = tmp_path / f"{name}-documents"
    artifact = documents_artifact(folder, rows, keep or [True] * len(rows))
    ctx = local_context(tmp_path / name, inputs=[artifact], seed=3)
    return train.run(train.Settings(**settings), ctx), ctx


def files(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.is_file()}


def test_stage_trains_on_kept_texts_only(tmp_path):
    rows = [row(i, text) for i, text in enumerate(corpus()[:200])] + [row(900 + i, "zqzqzq" * 50) for i in range(20)]
    keep = [True] * 200 + [False] * 20
    summary, ctx = run(tmp_path, rows, keep, vocab=800, words=(" zebra", "if"))
    tokenizer = Tokenizer.load(ctx.out)
    assert summary["vocab_size"] == tokenizer.vocab_size == 800
    assert summary["documents"] == 200 - sum(not r["text"] for r in rows)
    assert b"zq" not in tokenizer.ranks
    assert all(len(tokenizer.encode(word)) == 1 for word in (*train.Settings().words, " zebra", "if"))
    assert summary["digest"] == tokenizer.digest
    assert summary["compression"]["general"]["chars_per_token"] > 2
    assert ctx.lineage == [{"source": "made", "licence": "CC0-1.0", "rows": summary["documents"]}]


def test_same_inputs_same_bytes(tmp_path):
    rows = [row(i, text, "code" if i % 3 else "general") for i, text in enumerate(corpus()[:150])]
    first, a = run(tmp_path, rows, name="a", vocab=700, group_chars=20_000)
    second, b = run(tmp_path, rows, name="b", vocab=700, group_chars=20_000)
    assert first == second
    assert files(a.out) == files(b.out)
    assert first["shares"]["code"] < 1


def test_group_limit_keeps_about_that_many_characters(tmp_path):
    rows = [row(i, "abc def " * 20, "general") for i in range(800)] + [row(1000 + i, "xyz " * 20, "maths") for i in range(10)]
    summary, _ = run(tmp_path, rows, vocab=530, group_chars=32_000)
    assert summary["shares"] == {"general": 0.25, "maths": 1.0}
    assert 150 <= summary["documents"] - 10 <= 250


def test_tiny_corpus_gives_a_smaller_vocabulary_and_a_note(tmp_path):
    summary, ctx = run(tmp_path, [row(0, "to be or not to be"), row(1, "that")], vocab=2000)
    assert 512 < summary["vocab_size"] < 540
    assert "2000 was asked for" in (ctx.out / "volatile" / "notes.txt").read_text()
    tokenizer = Tokenizer.load(ctx.out)
    assert tokenizer.decode(tokenizer.encode("anything 漢")) == "anything 漢"


@pytest.mark.parametrize(
    ("rows", "keep", "settings", "what"),
    [
        ([row(0, "a b c"), row(1, "d")], [False, False], {}, "no text is left"),
        ([row(0, "a b c"), row(1, "d")], [True, True], {"words": ("two words",)}, "cannot be a single token"),
        ([row(0, "a b c"), row(1, "d")], [True, True], {"vocab": 514}, "no room for 5 words"),
    ],
)
def test_bad_input(tmp_path, rows, keep, settings, what):
    with pytest.raises(InputError, match=what):
        run(tmp_path, rows, keep, **settings)


def test_missing_annotations(tmp_path):
    artifact = documents_artifact(tmp_path / "d", [row(0, "a b"), row(1, "c")], [True, True])
    (artifact.path / "annotations" / "1.parquet").unlink()
    with pytest.raises(InputError, match="no annotations") as caught:
        train.run(train.Settings(), local_context(tmp_path / "out", inputs=[artifact]))
    assert caught.value.where == "annotations/1.parquet"


def test_real_text_compresses(tmp_path):
    file = SHARED / "text_en" / "tinyshakespeare.txt"
    if not file.exists():
        pytest.skip("../shared/data/text_en is not here")
    text = file.read_text(encoding="utf-8")[:300_000]
    rows = [row(i, text[i : i + 3000]) for i in range(0, len(text), 3000)]
    summary, _ = run(tmp_path, rows, vocab=4096 + 256)
    assert summary["vocab_size"] == 4352
    assert summary["compression"]["general"]["chars_per_token"] > 3.2
