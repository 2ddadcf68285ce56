from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import regex

from puna.core.errors import InputError
from puna.core.stage import local_artifact, local_context
from puna.data import token_counts
from puna.data.engines import processes
from puna.tokenizer import train
from puna.tokenizer.bpe import SPLIT_PATTERN, Tokenizer

TEXTS = {
    ("general", "en"): ["The cat sat on the mat.", "It is 12345 degrees,\n\n isn't it?", "the end"],
    ("general", "de"): ["Die Katze saß auf der Matte.", "Die  Größe der Straße"],
    ("code", "en"): ["def f(x):\n    return x\n", "x = f(12)\n"],
}


def documents(directory: Path) -> list:
    """Two artifacts of two shards each, in which every second row of rubbish was dropped by curation."""
    rows = [
        {"id": str(i), "group": group, "lang": lang, "source": f"made-{lang}", "licence": "CC0-1.0", "text": text}
        for i, ((group, lang), texts) in enumerate(TEXTS.items())
        for text in texts
    ]
    made = []
    for number in range(2):
        place = directory / f"documents-{number}"
        for folder in ("documents", "annotations"):
            (place / folder).mkdir(parents=True)
        for shard in range(2):
            part = rows[2 * number + shard :: 4]
            table = [*part, {**rows[0], "text": "zqzq zqzq"}]
            pq.write_table(pa.Table.from_pylist(table), place / "documents" / f"{shard}.parquet")
            pq.write_table(pa.table({"keep": [True] * len(part) + [False]}), place / "annotations" / f"{shard}.parquet")
        made.append(local_artifact(place, "documents"))
    return made


def run(tmp_path: Path, name: str = "counts", **settings):
    if not (tmp_path / "documents-0").exists():
        documents(tmp_path)
    inputs = [local_artifact(tmp_path / f"documents-{number}", "documents") for number in range(2)]
    ctx = local_context(tmp_path / name, inputs=inputs, name="counts")
    return token_counts.run(token_counts.Settings(**settings), ctx), ctx


def expected() -> dict[str, Counter]:
    counts: dict[str, Counter] = defaultdict(Counter)
    for (group, lang), texts in TEXTS.items():
        for text in texts:
            counts[f"{group}-{lang}"].update(piece.encode() for piece in regex.findall(SPLIT_PATTERN, text))
    return counts


def table(path: Path) -> dict[bytes, int]:
    rows = pq.read_table(path)
    assert str(rows["count"].type) == "int64"
    return dict(zip(rows["bytes"].to_pylist(), rows["count"].to_pylist(), strict=True))


def test_counts_of_each_part_add_up_over_shards_and_inputs(tmp_path):
    summary, ctx = run(tmp_path, workers=1)
    wanted = expected()
    assert {path.stem: table(path) for path in (ctx.out / "counts").iterdir()} == wanted
    for (group, lang), texts in TEXTS.items():
        assert summary["parts"][f"{group}-{lang}"] == {
            "documents": len(texts),
            "chars": sum(map(len, texts)),
            "bytes": sum(len(text.encode()) for text in texts),
            "words": sum(len(text.split()) for text in texts),
            "pieces": len(wanted[f"{group}-{lang}"]),
            "pruned": {"pieces": 0, "occurrences": 0},
        }
    assert summary["documents"] == 7
    assert ctx.lineage == [
        {"source": "made-de", "licence": "CC0-1.0", "rows": 2},
        {"source": "made-en", "licence": "CC0-1.0", "rows": 5},
    ]


def test_what_is_pruned_is_recorded(tmp_path):
    summary, ctx = run(tmp_path, workers=1, min_count=2)
    for part, counts in expected().items():
        kept = {piece: count for piece, count in counts.items() if count >= 2}
        assert table(ctx.out / "counts" / f"{part}.parquet") == kept
        gone = {"pieces": len(counts) - len(kept), "occurrences": sum(counts.values()) - sum(kept.values())}
        assert summary["parts"][part]["pruned"] == gone


def test_same_bytes_from_two_processes_and_from_half_finished_work(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "POOL_START_S", -1.0)  # however little there is to do
    run(tmp_path, "one", workers=1)
    half = tmp_path / "again.scratch" / "000000"
    half.mkdir(parents=True)
    (half / "parts.json.part").write_text("[")  # a kill left this
    run(tmp_path, "again", workers=2, engine="processes")
    names = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert names == sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.*"))
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_training_on_counts_is_training_on_the_documents(tmp_path):
    _, ctx = run(tmp_path, workers=1)
    settings = train.Settings(vocab=560, min_frequency=1)
    from_counts = local_context(tmp_path / "a", inputs=[local_artifact(ctx.out, "token_counts")])
    summary = train.run(settings, from_counts)
    place = tmp_path / "all"
    for folder in ("documents", "annotations"):
        (place / folder).mkdir(parents=True)
        for number in range(2):
            for file in (tmp_path / f"documents-{number}" / folder).iterdir():
                (place / folder / f"{number}-{file.name}").write_bytes(file.read_bytes())
    from_documents = local_context(tmp_path / "b", inputs=[local_artifact(place, "documents")])
    assert train.run(settings, from_documents) == summary
    assert Tokenizer.load(tmp_path / "a").digest == Tokenizer.load(tmp_path / "b").digest
    assert from_counts.lineage == from_documents.lineage == ctx.lineage


def test_damaged_counts_are_input_errors(tmp_path):
    _, ctx = run(tmp_path, workers=1)
    counts = local_artifact(ctx.out, "token_counts")
    rows = json.loads((ctx.out / "parts.json").read_text())
    (ctx.out / "counts" / "code-en.parquet").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        train.run(train.Settings(), local_context(tmp_path / "a", inputs=[counts]))
    (ctx.out / "parts.json").write_text(json.dumps([{"group": row["group"]} for row in rows]))
    with pytest.raises(InputError, match=r"no readable parts\.json"):
        train.run(train.Settings(), local_context(tmp_path / "b", inputs=[counts]))
