"""Shards with the pictures inside as a source: WebDataset and Parquet."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from puna.core.rng import numpy_stream
from puna.core.stage import local_context
from puna.tokenizer.dialog import Dialog, read_rows
from puna.vision.pictures import Settings, run


def png(seed: int) -> bytes:
    file = io.BytesIO()
    noise = numpy_stream(seed, "tar").integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((64, 48), Image.Resampling.BICUBIC).save(file, format="PNG")
    return file.getvalue()


def shard(path: Path, members: list[tuple[str, bytes | dict | str]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            content = json.dumps(content) if isinstance(content, dict) else content
            content = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_samples_become_rows(tmp_path):
    turns = {"messages": [{"role": "user", "content": "<image>Which?"}, {"role": "assistant", "content": "The old one."}]}
    parts = [{"type": "text", "text": "And?"}, {"type": "image_url", "image_url": {"url": "f.b.png"}}]
    named = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "The new one."}]}
    first = shard(
        tmp_path / "00000.tar",
        [
            ("x/a.png", png(1)), ("x/a.txt", "A house by the sea. \n"), ("x/a.json", {"caption": None, "url": "http://x/1.jpg"}),
            ("b.json", {"caption": "A garden behind the house."}), ("b.PNG", png(2)),
            ("c.png", png(3)),
            ("d.png", b"no picture"), ("d.txt", "Nothing to be seen."),
            ("e.png", png(5)), ("e.json", turns),
            ("f.a.png", png(6)), ("f.b.png", png(7)), ("f.json", named),
            ("g.png", png(8)), ("g.json", "{broken"),
            ("../../h.png", png(9)), ("../../h.txt", "It is written under its last name alone."),
        ],
    )  # fmt: skip
    second = shard(tmp_path / "00001.tar.gz", [("a.png", png(11)), ("a.txt", "Another house in the hills.")], "w:gz")
    whole = shard(
        tmp_path / "00002.tar",
        [(f"{i}.{end}", png(20 + i) if end == "png" else f"House {i}.") for i in range(3) for end in ("png", "txt")],
    )
    whole.write_bytes(whole.read_bytes()[:-11_500])
    ctx = local_context(tmp_path / "out")
    summary = run(
        Settings.model_validate({"sources": {"path": str(tmp_path / "0*.tar*"), "split": "train"}, "filter": None}), ctx
    )
    rows = list(read_rows(ctx.out / "train.jsonl", Dialog))
    said = {row.messages[-1].content: row for row in rows}
    assert set(said) - {"House 0.", "House 1."} == {
        "A house by the sea.", "A garden behind the house.", "The old one.", "The new one.",
        "It is written under its last name alone.", "Another house in the hills.",
    }  # fmt: skip
    for answer, seed in (
        ("A house by the sea.", 1),
        ("The old one.", 5),
        ("The new one.", 7),
        ("Another house in the hills.", 11),
    ):
        (medium,) = said[answer].messages[0].media
        assert (ctx.out / medium.url).read_bytes() == png(seed)
    bad = [json.loads(line) for line in (ctx.out / "bad_rows.jsonl").read_text().splitlines()]
    assert {(row["file"], row["line"]) for row in bad} >= {(first.name, 3), (first.name, 4), (first.name, 7)}
    assert [row for row in bad if row["file"] == whole.name and "breaks off" in row["reason"]]
    assert summary["bad_rows"] == len(bad) == 4 and second.is_file()
    assert not list((ctx.scratch / "sample").iterdir())


def test_rows_of_parquet_files(tmp_path):
    turn = [{"role": "user", "content": "<image>Which?"}, {"role": "assistant", "content": "The old one."}]
    pairs = [{"image": {"bytes": png(i), "path": None}, "text": f"House {i} by the sea."} for i in range(40)]
    pq.write_table(
        pa.Table.from_pylist([*pairs, {"image": {"bytes": b"no picture", "path": "x"}, "text": "x"}]), tmp_path / "a.parquet"
    )
    two = [{"role": "user", "content": "<image> or <image>?"}, turn[1]]
    rows = [{"images": [{"bytes": png(50), "path": "p"}, {"bytes": png(51), "path": "q"}], "messages": two}]
    rows.append({"images": [{"bytes": png(52), "path": "r"}], "messages": turn})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:5000])
    ctx = local_context(tmp_path / "out")
    source = {"path": str(tmp_path / "*.parquet"), "split": "train"}
    summary = run(Settings.model_validate({"sources": source, "filter": None}), ctx)
    read = list(read_rows(ctx.out / "train.jsonl", Dialog))
    assert summary["rows"]["train"] == len(read) == 42 and summary["bad_rows"] == 2
    for number in range(40):
        (medium,) = read[number].messages[0].media
        assert read[number].messages[1].content == f"House {number} by the sea."
        assert (ctx.out / medium.url).read_bytes() == png(number)
    assert [(m.at, (ctx.out / m.url).read_bytes()) for m in read[40].messages[0].media] == [(0, png(50)), (4, png(51))]
    assert not list((ctx.scratch / "sample").iterdir())
