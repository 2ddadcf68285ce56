"""Mutated files and pages: the readers and the extractor neither fail nor hang, whatever bytes they get."""

from __future__ import annotations

import gzip
import json
import random
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from fastwarc.stream_io import Lz4Writer

from puna.data.extract import Extracted, extract
from puna.data.rows import BadRow, PageRow, Skipped
from puna.data.sources import FileSource, read_files

DATA = Path(__file__).parents[2].parent / "shared" / "data"
REAL = (
    "warc_warcio/example.warc",
    "warc_warcio/example.warc.gz",
    "warc_warcio/example.arc",
    "warc_commoncrawl/whirlwind.warc.wet",
    "warc_commoncrawl/whirlwind.warc.gz",
    "warc_resiliparse/block-sized-records.warc.lz4",
)
REAL_BYTES = 60_000  # taken of a real file
SECONDS = 6  # of CPU time for one input, on a machine that others use too
PAGE_BYTES = 1 << 20
NESTED = (
    *("<div>", "<b><p>", "<table><tr><td>", "<ul><li>", "<math><mrow>", "<a href=x>", "<span class=katex>", "<select><option>"),
    *("<svg><g>", "<pre>", "<font id={}>", "<!--", "<script type=math/tex>", "</p>", "<p a{}=b>", "&#x41;", "<td><form>", "["),
    *('{"a":', "WARC/1.0\r\n", "\x1f\x8b\x08", "\\[", "**", "`", "```\n", "__a "),
)
PAGE = rb"""<!doctype html><html><head><meta charset=utf-8><title>T</title><style>p{}</style></head><body class="x">
<nav><a href="/">A</a></nav><main><h1>Sums &amp; more</h1><p>Words <b>bold</b> and <i>others</i>, so many that it is content.</p>
<ul><li>one<li>two</ul><pre><code>def f(x):
    return x</code></pre><table><tr><th>a<td>b<tr><td>1<td>2</table>
<img src=a.png alt="a circle">
<math><mfrac><mi>a</mi><mi>b</mi></mfrac><annotation encoding="application/x-tex">a/b</annotation></math>
<script type="math/tex">x^2</script><span class="katex"><math alttext="y"><mi>y</mi></math></span>
<p>\(a_1\) **strong** [text](http://a.b) `code`</p></main><footer>&copy;</footer>"""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
WARC = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.b/\r\nContent-Type: application/http\r\n"
WARC += b"Content-Length: %d\r\n\r\n" % len(HEAD + PAGE)
CHAT = b"""{"messages": [{"role": "user", "content": "x"}]}
{"prompt": {"text": "p", "replies": [{"text": "r", "rank": 0}]}}
{"html": "<p>x"}
"""


def seeds(directory: Path) -> dict[str, bytes]:
    """File name to content: every format that is read, made here, and the real samples where they are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    warc = (WARC + HEAD + PAGE + b"\r\n\r\n") * 3
    arc = (b"http://a.b/ 1.2.3.4 20240102030405 text/html %d\n" % len(HEAD + PAGE) + HEAD + PAGE + b"\n") * 3
    rows = b"".join(json.dumps({"text": f"row {i} äöü", "url": f"http://a.b/{i}"}).encode() + b"\n" for i in range(20))
    pq.write_table(pa.table({"text": [f"row {i}" for i in range(200)]}), directory / "p", row_group_size=50)
    with zipfile.ZipFile(directory / "z", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", "alpha " * 50)
        archive.writestr("b.jsonl", rows.decode())
    writer = Lz4Writer(str(directory / "l"))
    writer.write(warc)
    writer.close()
    made = {
        "a.warc": warc,
        "a.warc.gz": gzip.compress(warc),
        "a.warc.zst": zstandard.compress(warc),
        "a.warc.lz4": (directory / "l").read_bytes(),
        "a.arc": arc,
        "a.arc.gz": gzip.compress(arc),
        "a.jsonl": rows + CHAT,
        "a.jsonl.gz": gzip.compress(rows),
        "a.jsonl.zst": zstandard.compress(rows),
        "a.parquet": (directory / "p").read_bytes(),
        "a.zip": (directory / "z").read_bytes(),
        "a.xml": b"<r><t>Title</t><p>One <b>two</b></p></r>",
        "a.html": PAGE,
        "a.txt": "alpha\n\nbeta für\n".encode("utf-16"),
        "a.py": b"x = 1\n",
        "a.odd": b"words\n",
        "page.html": PAGE * 3,
        "code.html": b"<pre>" + PAGE,
        "text.txt": b"# T\n```py\nx\n```\n" * 20,
    }
    return made | {Path(name).name: (DATA / name).read_bytes()[:REAL_BYTES] for name in REAL if (DATA / name).exists()}


def mutated(content: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """One to four changes of a file's bytes."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        start = draw.randrange(len(data) + 1)
        end = min(len(data), start + int(2 ** draw.uniform(0, 10)))
        match draw.randrange(7):
            case 0:
                for _ in range(draw.randint(1, 30)):
                    if data:
                        data[draw.randrange(len(data))] = draw.randrange(256)
            case 1:
                del data[start:]
            case 2:
                del data[start:end]
            case 3:
                other = draw.choice(others)
                place = draw.randrange(len(other) + 1)
                data[start:end] = other[place : place + draw.randrange(1, 3000)]
            case 4:
                data[start:start] = data[start:end] * draw.randint(1, 40)
            case 5:
                unit, times = draw.choice(NESTED), int(2 ** draw.uniform(0, 12))
                data[start:start] = "".join(unit.replace("{}", str(i)) for i in range(times)).encode("latin-1")
            case 6:
                data[start:end] = draw.randbytes(end - start)
    return bytes(data)


def inputs(directory: Path, number: int, seed: int) -> Iterator[tuple[str, bytes]]:
    files = seeds(directory)
    names, draw = sorted(files), random.Random(seed)
    others = [files[name] for name in names]
    for _ in range(number):
        name = draw.choice(names)
        yield name, mutated(files[name], others, draw)


def run_through(directory: Path, number: int, seed: int) -> tuple[Counter[str], float]:
    """Read and extract mutated inputs; kinds of the rows that came out, and the longest CPU time of one input."""
    found: Counter[str] = Counter()
    longest = 0.0
    extract(PAGE, "html", "")  # compiles
    for name, content in inputs(directory, number, seed):
        started = time.process_time()
        path = directory / name
        path.write_bytes(content)
        for row in read_files(FileSource(path=str(path)), 1000, PAGE_BYTES):
            assert isinstance(row, PageRow | BadRow | Skipped)
            found[type(row).__name__] += 1
            if isinstance(row, PageRow):
                found["texts"] += isinstance(extract(row.content, row.format, row.charset), Extracted)
            if isinstance(row, BadRow):
                assert row.reason and row.position and str(directory) not in row.reason
        extract(content, "html", "")
        path.unlink()
        spent = time.process_time() - started
        assert spent < SECONDS, f"{name} of {len(content)} bytes took {spent:.1f} s"
        longest = max(longest, spent)
    return found, longest


def test_a_few_hundred_mutated_inputs(tmp_path):
    found, _ = run_through(tmp_path, 300, seed=1)
    assert found["PageRow"] > 300 and found["BadRow"] > 50 and found["texts"] == found["PageRow"]


@pytest.mark.slow
def test_twelve_thousand_mutated_inputs(tmp_path):
    found, longest = run_through(tmp_path, 12_000, seed=2)
    print(dict(found), f"longest {longest:.2f} s")
    assert found["PageRow"] > 12_000 and found["BadRow"] > 2000


@pytest.mark.parametrize("page", [
    "<p>" + "".join(f"<font id={i}>" for i in range(4000)) + "<p>x" * 4000,
    "".join(f"<p><b id={i}>x" for i in range(20_000)),
    "<select>" + "<option>x</option>" * 50_000,
    "<p " + " ".join(f"a{i}=1" for i in range(50_000)) + ">x",
    "".join(f"<body a{i}=1>" for i in range(50_000)),
    "<div>" * 200_000 + "x",
    "<span>" * 30_000 + "</h1>" * 30_000,
    "<math>" * 30_000 + "x",
    "<math>" + "<mrow>" * 30_000 + "<mi>x</mi>",
    "<a><div>" * 60_000,
    "<table><tr><td>" * 60_000 + "x",
    "<span class='katex'>" * 40_000,
    "<pre>" * 60_000 + "x",
    "<h2>" * 60_000 + "x",
    "<p>" + "<!-- " * 100_000,
    "<a " * 300_000,
    "&amp;" * 300_000,
])  # fmt: skip
def test_pages_made_to_be_slow_end_in_time(page):
    started = time.process_time()
    assert isinstance(extract(page.encode(), "html", "").text, str)
    assert time.process_time() - started < SECONDS
