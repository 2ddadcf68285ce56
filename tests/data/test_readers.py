"""Readers: real crawl files of every compression, broken files, and the fields of unknown rows."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from puna.data.arc_files import read_arc
from puna.data.crawl_files import read_warc
from puna.data.local_files import decode, read_jsonl, read_parquet, read_text, read_xml, split_text, text_of_record, unzip
from puna.data.open_file import open_bytes
from puna.data.rows import BadRow, PageRow, Skipped
from puna.data.sources import FileSource, file_digests, read_files, source_name

DATA = Path(__file__).parents[2].parent / "shared" / "data"
RESILIPARSE, WARCIO, CRAWL = (DATA / name for name in ("warc_resiliparse", "warc_warcio", "warc_commoncrawl"))
real = pytest.mark.skipif(not RESILIPARSE.exists(), reason="the real sample files are not at ../shared/data")
LIMIT = 8 << 20


def split(rows: list) -> tuple[list[PageRow], list[BadRow], list[Skipped]]:
    return tuple([row for row in rows if isinstance(row, kind)] for kind in (PageRow, BadRow, Skipped))


@real
def test_warc_gives_the_same_pages_plain_gzip_and_lz4():
    plain, bad, skipped = split(list(read_warc(RESILIPARSE / "warcfile.warc", "w", LIMIT)))
    assert (len(plain), len(bad), len(skipped)) == (16, 0, 34)
    assert plain[0].url == "http://003338.cn/l41/481397.html" and plain[0].date == "2020-08-08T17:27:41Z"
    assert {row.format for row in plain} == {"html"}
    for suffix in (".gz", ".lz4"):
        pages, broken, _ = split(list(read_warc(RESILIPARSE / f"warcfile.warc{suffix}", "w", LIMIT)))
        assert pages == plain and not broken


@real
def test_wet_and_warc_of_the_common_crawl_tour():
    html = split(list(read_warc(CRAWL / "whirlwind.warc.gz", "w", LIMIT)))[0]
    text = split(list(read_warc(CRAWL / "whirlwind.warc.wet.gz", "w", LIMIT)))[0]
    assert [(row.url, row.format) for row in html + text] == [
        ("https://an.wikipedia.org/wiki/Escopete", "html"), ("https://an.wikipedia.org/wiki/Escopete", "text")]  # fmt: skip
    pages, bad, _ = split(list(read_warc(CRAWL / "whirlwind.warc.wat.gz", "w", LIMIT)))
    assert not pages and not bad


@real
def test_clipped_and_odd_archives_are_reported_with_their_offset():
    pages, bad, _ = split(list(read_warc(RESILIPARSE / "clipped.warc.gz", "c", LIMIT)))
    assert not pages and bad == [BadRow("c", "offset 0", "record cut short: 74970 of 88038 bytes")]
    pages, bad, _ = split(list(read_warc(WARCIO / "example-trunc.warc", "t", LIMIT)))
    assert [row.url for row in pages] == ["http://example.com/"] and [row.position for row in bad] == ["offset 1197"]
    pages, bad, _ = split(list(read_warc(RESILIPARSE / "clueweb-quirk.warc.gz", "q", LIMIT)))
    assert len(pages) == 29 and not bad
    pages, bad, _ = split(list(read_arc(WARCIO / "example.arc", "a", LIMIT)))
    assert [(row.url, row.date) for row in pages] == [("http://example.com/", "2014-02-16T05:02:21Z")] and not bad


@real
def test_garbage_inside_a_warc_costs_only_the_records_it_hits(tmp_path):
    content = (RESILIPARSE / "warcfile.warc").read_bytes()
    urls = [row.url for row in split(list(read_warc(RESILIPARSE / "warcfile.warc", "w", LIMIT)))[0]]
    (tmp_path / "bad.warc").write_bytes(content[:200_000] + b"\x00garbage" * 30 + content[260_000:])
    pages, bad, _ = split(list(read_warc(tmp_path / "bad.warc", "w", LIMIT)))
    found = [row.url for row in pages]
    assert bad and set(found) <= set(urls)
    assert found[0] == urls[0] and found[-1] == urls[-1] and len(found) >= len(urls) - 4


@real
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.999])
def test_a_gzip_cut_anywhere_keeps_the_rows_before_the_cut(tmp_path, share):
    content = (RESILIPARSE / "warcfile.warc.gz").read_bytes()
    (tmp_path / "cut.warc.gz").write_bytes(content[: int(share * len(content))])
    whole = split(list(read_warc(RESILIPARSE / "warcfile.warc.gz", "w", LIMIT)))[0]
    pages, bad, _ = split(list(read_warc(tmp_path / "cut.warc.gz", "w", LIMIT)))
    assert pages == whole[: len(pages)] and len(pages) >= int(share * 16) - 3
    assert len(bad) == 1


def test_a_page_over_the_limit_is_a_bad_row(tmp_path):
    record = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + b"x" * 500
    head = "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.b/\r\nContent-Type: application/http\r\n"
    head += f"Content-Length: {len(record)}"
    (tmp_path / "one.warc").write_bytes(head.encode() + b"\r\n\r\n" + record + b"\r\n\r\n")
    assert [type(row) for row in read_warc(tmp_path / "one.warc", "w", 1000)] == [PageRow]
    assert [row.reason for row in read_warc(tmp_path / "one.warc", "w", 100)] == ["page larger than 100 bytes"]


def test_jsonl_lists_malformed_rows_by_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\nnot json\n\n{"n": 3}\n[1]\n{"text": "two", "url": "http://x/"}\n')
    pages, bad, _ = split(list(read_jsonl(tmp_path / "a.jsonl", "a", 1 << 20)))
    assert [(row.url, row.content) for row in pages] == [("file:a#1", b"one"), ("http://x/", b"two")]
    assert [row.position for row in bad] == ["line 2", "line 4", "line 5"]
    assert "not JSON" in bad[0].reason and "n" in bad[1].reason and "list" in bad[2].reason


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2", ".xz", ".lz4"])
def test_compressed_jsonl_whole_and_cut(tmp_path, suffix):
    import bz2
    import lzma

    import zstandard
    from fastwarc.stream_io import Lz4Writer

    lines = b"".join(json.dumps({"text": f"row {i} {hash_text(i)}"}).encode() + b"\n" for i in range(3000))
    path = tmp_path / f"a.jsonl{suffix}"
    if suffix == ".lz4":
        writer = Lz4Writer(str(path))
        writer.write(lines)
        writer.close()
    else:
        pack = {".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix]
        path.write_bytes(pack(lines))
    with open_bytes(path) as file:
        assert file.read() == lines
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    pages, bad, _ = split(list(read_jsonl(path, "a", 1 << 20)))
    assert len(bad) == 1 and "broken" in bad[0].reason
    assert [row.content for row in pages] == [json.loads(line)["text"].encode() for line in lines.split(b"\n")[: len(pages)]]


def hash_text(number: int) -> str:
    import hashlib

    return hashlib.sha256(str(number).encode()).hexdigest()


@pytest.mark.parametrize(("row", "text"), [
    ({"text": "a"}, "a"),
    ({"document": "a", "id": 1}, "a"),
    ({"question": "q", "answer": "a"}, "q\na"),
    ({"instruction": "i", "input": "x", "output": "o"}, "i\nx\no"),
    ({"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "v"}]}, "u\n\nv"),
    ({"conversations": [{"from": "human", "value": "u"}]}, "u"),
    ({"prompt": {"text": "p", "replies": [{"text": "no", "rank": 1}, {"text": "best", "rank": 0, "replies": []}]}}, "p\n\nbest"),
    ({"n": 1}, None),
])  # fmt: skip
def test_the_text_of_unknown_rows(row, text):
    assert text_of_record(row) == text


def test_parquet_rows_and_a_file_that_is_none(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": [1, 2], "content": ["one", None]}), tmp_path / "a.parquet")
    pages, bad, _ = split(list(read_parquet(tmp_path / "a.parquet", "a", 1 << 20)))
    assert [row.content for row in pages] == [b"one"] and [row.position for row in bad] == ["row 2"]
    (tmp_path / "b.parquet").write_bytes(b"no parquet at all")
    assert [type(row) for row in read_parquet(tmp_path / "b.parquet", "b", 1 << 20)] == [BadRow]


def test_texts_are_split_at_blank_lines_and_nothing_is_lost(tmp_path):
    paragraphs = [f"paragraph {i} " + "word " * (i % 40) for i in range(200)]
    parts = list(split_text("\n\n".join(paragraphs), 900))
    assert all(len(part) <= 900 + 50 for part in parts)
    assert "\n\n".join(parts).split() == " ".join(paragraphs).split()
    assert sum(part.count("paragraph") for part in parts) == 200
    assert [len(part) for part in split_text("x" * 2500, 1000)] == [1000, 1000, 500]
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"alpha\n\nbeta")[:-6])
    pages, bad, _ = split(list(read_text(tmp_path / "a.txt.gz", "a", 1000)))
    assert b"".join(row.content for row in pages).startswith(b"alpha"[:5]) or not pages
    assert len(bad) == 1


def test_charsets_of_plain_text():
    assert decode("für".encode("utf-16")) == "für"
    assert decode("für".encode("cp1252")) == "für"
    assert decode("\ufefffür".encode()) == "für"


def test_xml_zip_and_their_broken_forms(tmp_path):
    (tmp_path / "a.xml").write_text("<r><t>Title</t><p>One  two</p><p>Three <b>four</b> five</p></r>")
    assert [row.content for row in read_xml(tmp_path / "a.xml", "a", 1000)] == [b"Title\n\nOne two\n\nThree five\n\nfour"]
    (tmp_path / "b.xml").write_text("<r><t>")
    assert [type(row) for row in read_xml(tmp_path / "b.xml", "b", 1000)] == [BadRow]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../evil.txt", "one")
        archive.writestr("d/b.txt", "two")
    out = tmp_path / "out"
    out.mkdir()
    names = Counter(name for _, name in unzip(tmp_path / "a.zip", "a.zip", out))
    assert names == {"a.zip/../evil.txt": 1, "a.zip/d/b.txt": 1} and not (tmp_path / "evil.txt").exists()


def test_equal_file_names_of_two_folders_stay_apart(tmp_path):
    for day in ("day1", "day2"):
        (tmp_path / "g" / day).mkdir(parents=True)
        (tmp_path / "g" / day / "data.jsonl").write_text(json.dumps({"text": f"words of {day}"}) + "\n")
    for pattern in ("g/*/data.jsonl", "g/**/*.jsonl", "g/day*", "g"):
        source = FileSource(path=str(tmp_path / pattern))
        assert source_name(source) == "g"
        assert [row.url for row in read_files(source, 1000, 1000)] == ["file:day1/data.jsonl#1", "file:day2/data.jsonl#1"]
        before = file_digests(source)
        assert sorted(before) == ["day1/data.jsonl", "day2/data.jsonl"]
        (tmp_path / "g" / "day1" / "data.jsonl").write_text(json.dumps({"text": f"other words by {pattern}"}) + "\n")
        assert file_digests(source) != before


def test_a_row_larger_than_the_limit_is_a_bad_row_and_never_held(tmp_path):
    rows = [json.dumps({"text": text}) for text in ("one", "x" * 5000, "y" * 300, "two")]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    found = list(read_jsonl(tmp_path / "a.jsonl", "a", 400))
    assert [row.content if isinstance(row, PageRow) else (row.position, row.reason) for row in found] == [
        b"one", ("line 2", "row larger than 400 bytes"), b"y" * 300, b"two"
    ]  # fmt: skip
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["one", "x" * 5000]}), tmp_path / "a.parquet")
    assert [type(row) for row in read_parquet(tmp_path / "a.parquet", "a", 400)] == [PageRow, BadRow]
