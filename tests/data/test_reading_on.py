"""Archives go on after broken records, files come from any URL, and odd files are named and not guessed at."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest
from fastwarc.stream_io import Lz4Writer, ZstdWriter

from puna.core.errors import InputError
from puna.data.arc_files import read_arc
from puna.data.crawl_files import read_warc
from puna.data.local_files import read_parquet, read_text
from puna.data.open_file import compression, inner_suffix, open_bytes
from puna.data.rows import BadRow, PageRow, Skipped
from puna.data.sources import FileSource, file_digests, read_files

LIMIT = 1 << 20


def response(number: int) -> bytes:
    page = f"<p>page {number} {random.Random(number).randbytes(200).hex()}</p>"
    return f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n{page}".encode()


def warc_record(number: int) -> bytes:
    body = response(number)
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.b/{number}\r\nWARC-Date: 2024-01-02T03:04:05Z\r\n"
    head += f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body + b"\r\n\r\n"


def arc_record(number: int, version: int = 1) -> bytes:
    body = response(number)
    middle = "" if version == 1 else "200 - - 0 file.arc "
    return f"http://a.b/{number} 1.2.3.4 20240102030405 text/html {middle}{len(body)}\n".encode() + body + b"\n"


def packed(records: list[bytes], suffix: str, scratch: Path) -> list[bytes]:
    """Every record as a member of its own, as crawlers write them."""
    if suffix == ".gz":
        return [gzip.compress(record, mtime=0) for record in records]
    if suffix == "":
        return records
    members = []
    for record in records:
        writer = (ZstdWriter if suffix == ".zst" else Lz4Writer)(str(scratch))
        writer.write(record)
        writer.close()
        members.append(scratch.read_bytes())
    return members


def numbers(rows: list) -> list[int]:
    return [int(row.url.rpartition("/")[2]) for row in rows if isinstance(row, PageRow)]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".lz4"])
@pytest.mark.parametrize(("kind", "read", "record"), [("warc", read_warc, warc_record), ("arc", read_arc, arc_record)])
def test_a_broken_record_costs_itself_alone(tmp_path, kind, read, record, suffix):
    members = packed([record(number) for number in range(12)], suffix, tmp_path / "member")
    path = tmp_path / f"a.{kind}{suffix}"
    path.write_bytes(b"".join(members))
    assert numbers(list(read(path, "a", LIMIT))) == list(range(12))
    start = sum(map(len, members[:5]))
    broken = bytearray(b"".join(members))
    broken[start : start + 40] = b"\x00" * 40
    path.write_bytes(bytes(broken))
    rows = list(read(path, "a", LIMIT))
    assert numbers(rows) == [number for number in range(12) if number != 5]
    bad = [row for row in rows if isinstance(row, BadRow)]
    assert len(bad) == 1 and bad[0].file == "a"
    near = int(bad[0].position.removeprefix("offset "))
    assert start - len(members[4]) <= near <= start


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".lz4"])
def test_both_versions_of_arc_and_a_cut_end(tmp_path, suffix):
    for version in (1, 2):
        members = packed([arc_record(number, version) for number in range(4)], suffix, tmp_path / "member")
        path = tmp_path / f"a.arc{suffix}"
        path.write_bytes(b"".join(members))
        rows = list(read_arc(path, "a", LIMIT))
        assert numbers(rows) == [0, 1, 2, 3] and {row.date for row in rows} == {"2024-01-02T03:04:05Z"}
        path.write_bytes(b"".join(members)[:-60])
        rows = list(read_arc(path, "a", LIMIT))
        assert numbers(rows) == [0, 1, 2] and isinstance(rows[-1], BadRow) and len(rows) == 4


def test_several_breaks_are_each_reported_once(tmp_path):
    members = [gzip.compress(warc_record(number), mtime=0) for number in range(30)]
    for broken in (3, 11, 12, 25):
        members[broken] = members[broken][:10] + bytes(len(members[broken]) - 10)
    (tmp_path / "a.warc.gz").write_bytes(b"".join(members))
    rows = list(read_warc(tmp_path / "a.warc.gz", "a", LIMIT))
    assert numbers(rows) == [number for number in range(30) if number not in (3, 11, 12, 25)]
    assert len([row for row in rows if isinstance(row, BadRow)]) == 3  # 11 and 12 are one broken place


def test_files_that_are_not_what_they_are_called(tmp_path):
    (tmp_path / "a.warc").write_bytes(gzip.compress(warc_record(1)))  # the suffix is missing
    (tmp_path / "b.warc.gz").write_bytes(warc_record(2))
    assert numbers(list(read_warc(tmp_path / "a.warc", "a", LIMIT))) == [1]
    assert numbers(list(read_warc(tmp_path / "b.warc.gz", "b", LIMIT))) in ([2], [])
    (tmp_path / "c.warc").write_bytes(b"no archive at all")
    (tmp_path / "d.arc").write_bytes(b"no archive at all\n" * 50)
    for read, name in ((read_warc, "c.warc"), (read_arc, "d.arc")):
        rows = list(read(tmp_path / name, name, LIMIT))
        assert [(type(row), row.position) for row in rows] == [(BadRow, "offset 0")]
    (tmp_path / "e.bin").write_bytes(b"\x00\x01" * 50)
    (tmp_path / "f.weird").write_text("plain words")
    rows = list(read_files(FileSource(path=str(tmp_path / "[ef].*")), 1000, LIMIT))
    assert rows[0] == Skipped("not text") and rows[1].content == b"plain words"


def test_memory_and_file_urls_read_like_paths(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    files = {
        "/set/a.jsonl.gz": gzip.compress(b'{"text": "one"}\n{"text": "two"}\n'),
        "/set/deep/b.warc.gz": b"".join(gzip.compress(warc_record(number)) for number in range(3)),
        "/set/c.txt": b"alpha\n\nbeta",
        "/set/.hidden": b"x",
    }
    for name, content in files.items():
        memory.pipe(name, content)
        target = tmp_path / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    for url in ("memory://set", f"file://{tmp_path}/set", str(tmp_path / "set")):
        rows = list(read_files(FileSource(path=url), 5, LIMIT))
        assert [row.content for row in rows if isinstance(row, PageRow)][:4] == [b"one", b"two", b"alpha", b"beta"]
        assert len(rows) == 7 and not any(isinstance(row, BadRow) for row in rows)
        assert sorted(file_digests(FileSource(path=url))) == ["a.jsonl.gz", "c.txt", "deep/b.warc.gz"]
    assert [row.content for row in read_files(FileSource(path="memory://set/*.txt"), 5, LIMIT)] == [b"alpha", b"beta"]
    assert len(list(read_files(FileSource(path="memory://set/deep/b.warc.gz"), 1000, LIMIT))) == 3
    with pytest.raises(InputError, match="no file is there"):
        list(read_files(FileSource(path="memory://nothing"), 1000, LIMIT))
    with pytest.raises(InputError, match="cannot be opened"):
        list(read_files(FileSource(path="nosuchprotocol://x/y.txt"), 1000, LIMIT))
    memory.rm("/set", recursive=True)


def test_folders_that_a_pattern_names_are_read_to_any_depth(tmp_path):
    for name in ("one/a.txt", "one/deep/b.txt", "two/c.txt", "other/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    rows = list(read_files(FileSource(path=str(tmp_path / "[ot][nw][eo]")), 1000, LIMIT))
    assert [row.content.decode() for row in rows] == ["one/a.txt", "one/deep/b.txt", "two/c.txt"]
    assert rows[1].url == "file:one/deep/b.txt#1"


def test_a_broken_row_group_costs_its_own_rows(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"text": [f"row {i} {random.Random(i).randbytes(40).hex()}" for i in range(3000)]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=1000, compression="gzip", use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    content[middle : middle + 200] = b"\xff" * 200
    path.write_bytes(bytes(content))
    rows = list(read_parquet(path, "a", 1 << 20))
    kept = [int(row.content.split()[1]) for row in rows if isinstance(row, PageRow)]
    bad = [row for row in rows if isinstance(row, BadRow)]
    assert kept[:1000] == list(range(1000)) and kept[-1000:] == list(range(2000, 3000)) and len(bad) == 1
    assert "row group 1" in bad[0].reason


def test_html_columns_and_source_trees(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"html": "<p>x</p>", "url": "http://a.b/"}\n')
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "m.py").write_text("def f():\n\treturn 1\n")
    (tmp_path / "src" / "Makefile").write_text("all:\n\tcc\n")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config.py").write_text("hidden")
    rows = list(read_files(FileSource(path=str(tmp_path)), 1000, LIMIT))
    assert [(row.format, row.group) for row in rows] == [("html", ""), ("text", ""), ("text", "code")]
    assert rows[0].content == b"<p>x</p>" and rows[2].content == b"def f():\n\treturn 1\n"


def test_long_texts_are_read_in_parts_and_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("puna.data.local_files.TEXT_BLOCK", 5000)
    words = " ".join(f"w{i}" + ("\n\n" if i % 37 == 0 else "") for i in range(5000))
    (tmp_path / "a.txt").write_text(words)
    rows = list(read_text(tmp_path / "a.txt", "a", 800))
    assert b" ".join(row.content for row in rows).split() == words.encode().split()
    assert [row.url for row in rows] == [f"file:a#{i}" for i in range(1, len(rows) + 1)] and len(rows) > 20


def test_suffixes_and_compression_by_first_bytes(tmp_path):
    assert inner_suffix("s3://b/train.jsonl.gz?versionId=1.2") == ".jsonl" and inner_suffix(Path("a.TXT")) == ".txt"
    (tmp_path / "a.txt").write_bytes(gzip.compress(b"inside"))
    (tmp_path / "b.gz").write_bytes(b"damaged from the start")
    assert compression(tmp_path / "a.txt") == ".gz" == compression(tmp_path / "b.gz")
    with open_bytes(tmp_path / "a.txt") as file:
        assert file.read() == b"inside"
