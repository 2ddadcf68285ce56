from __future__ import annotations

import re
from pathlib import Path

import pytest
from tricky_texts import corpus

from puna.core.errors import InputError
from puna.core.stage import local_artifact, local_context
from puna.tokenizer import train
from puna.tokenizer.bpe import Tokenizer

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def documents_artifact(directory: Path, rows: list[dict], keep: list[bool]):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for folder in ("documents", "annotations"):
        (directory / folder).mkdir(parents=True)
    half = len(rows) // 2
    for name, part, kept in (("0.parquet", rows[:half], keep[:half]), ("1.parquet", rows[half:], keep[half:])):
        pq.write_table(pa.Table.from_pylist(part), directory / "documents" / name)
        pq.write_table(pa.table({"keep": kept}), directory / "annotations" / name)
    return local_artifact(directory, "documents")


def row(i: int, text: str, group: str = "general", lang: str = "en") -> dict:
    return {"id": f"{i:04}", "group": group, "lang": lang, "source": "made", "licence": "CC0-1.0", "text": text}


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


def test_a_group_counts_for_no_more_than_its_limit(tmp_path):
    rows = [row(i, "abc def " * 20, "general") for i in range(800)] + [row(1000 + i, "xyz " * 40, "maths") for i in range(50)]
    limited, ctx = run(tmp_path, rows, name="limited", vocab=530, group_chars=8_000)
    assert limited["shares"] == {"general": 0.0625, "maths": 1.0}
    assert limited["documents"] == 850
    assert list(Tokenizer.load(ctx.out).ranks)[256:259] == [b"xy", b"xyz", b" xyz"]
    free, ctx = run(tmp_path, rows, name="free", vocab=530, group_chars=None)
    assert free["shares"] == {"general": 1.0, "maths": 1.0}
    assert list(Tokenizer.load(ctx.out).ranks)[256:258] == [b" d", b"ab"]


def test_languages_and_groups_choose_what_is_trained_on(tmp_path):
    rows = [row(i, "abc " * 9, "general", "en") for i in range(9)] + [row(20 + i, "xyz " * 9, "general", "de") for i in range(9)]
    rows += [row(40 + i, "qrs " * 9, "code", "en") for i in range(9)]
    _, ctx = run(tmp_path, rows, name="en", vocab=530, languages=("en",), groups=("general",))
    ranks = Tokenizer.load(ctx.out).ranks
    assert b"abc" in ranks
    assert b"xy" not in ranks
    assert b"qr" not in ranks
    with pytest.raises(InputError, match="no text is left") as caught:
        run(tmp_path, rows, name="fr", languages=("fr",))
    assert "code-en, general-de, general-en" in caught.value.where


def udhr(name: str) -> str:
    file = SHARED / "udhr" / f"udhr_{name}.xml"
    if not file.exists():
        pytest.skip("../shared/data/udhr is not here")
    return re.sub(r"<[^>]+>", " ", file.read_text(encoding="utf-8"))


def test_extension_keeps_the_base_and_helps_its_languages(tmp_path):
    languages = {"en": "eng", "de": "deu_1996", "hi": "hin", "th": "tha"}
    rows = [row(i, udhr(name), "general", lang) for i, (lang, name) in enumerate(languages.items())]
    documents = documents_artifact(tmp_path / "documents", rows, [True] * 4)
    ctx = local_context(tmp_path / "base", inputs=[documents])
    base = train.run(train.Settings(vocab=900, languages=("en",)), ctx)
    more = local_context(tmp_path / "more", inputs=[documents, local_artifact(ctx.out, "tokenizer")])
    extended = train.run(train.Settings(vocab=1500, languages=("de", "hi", "th")), more)
    before, after = Tokenizer.load(ctx.out), Tokenizer.load(more.out)
    assert list(after.ranks)[: before.base_size] == list(before.ranks)
    assert extended["extends"]["digest"] == base["digest"] == before.digest
    assert extended["extends"]["fertility"] == base["fertility"]
    for lang, name in languages.items():
        text = udhr(name)
        tokens = len(after.encode(text))
        expected = {
            "tokens_per_byte": tokens / len(text.encode()),
            "tokens_per_char": tokens / len(text),
            "tokens_per_word": tokens / len(re.findall(r"\S+", text)),
            "chars_per_token": len(text) / tokens,
        }
        assert extended["fertility"][lang] == pytest.approx(expected, abs=1e-4)
        assert extended["fertility"][lang]["tokens_per_char"] <= base["fertility"][lang]["tokens_per_char"]
    assert extended["fertility"]["th"]["tokens_per_char"] < 0.5 * base["fertility"]["th"]["tokens_per_char"]


def test_a_base_larger_than_the_vocabulary(tmp_path):
    rows = [row(0, "abc " * 90), row(1, "xyz " * 90)]
    _, ctx = run(tmp_path, rows, name="base", vocab=525)
    documents = documents_artifact(tmp_path / "more", rows, [True, True])
    again = local_context(tmp_path / "out", inputs=[documents, local_artifact(ctx.out, "tokenizer")])
    with pytest.raises(InputError, match="no room for 0 words beside the base"):
        train.run(train.Settings(vocab=517), again)


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
