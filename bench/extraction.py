"""Main content of labelled pages: Puna's extraction beside trafilatura (its defaults) and readability-lxml.

    python bench/extraction.py [--quick] [--check] [--peer-python PATH] [--pairs DIR ...]

Three sets, scored by token F1 (bag of words; letters of scripts without blanks count one by one), averaged over pages:
- `crawl`: crawled pages of ../shared/data, labelled by hand: `extraction_labels.json` names the lines of the page's full text
  that are its main content (half of them are pages of one shop);
- `world`: clean pages of the generated mini-world, whose main content is known exactly;
- `pairs`: folders of the user's with `x.html` and, anywhere below, `x.txt` (the wanted text).
The peers run in an environment of their own (`make bench-env`, then `--peer-python .bench-env/extraction/bin/python`), else
their columns are left out. Times are CPU milliseconds per page
of one thread; the limit beside them is resiliparse's parser alone, which every extractor on it has to wait for.
"""

from __future__ import annotations

import argparse
import base64
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

GOAL = {"f1_over_trafilatura": 1.0, "speed_over_trafilatura": 5.0}
DATA = Path(__file__).parents[2] / "shared" / "data"
LABELS = Path(__file__).with_name("extraction_labels.json")
PAGE_BYTES = 8 << 20
WORLD_PAGES = 120
LETTERWISE = "\u0e00-\u0e7f\u1000-\u109f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"
TOKEN = re.compile(rf"[{LETTERWISE}]|[^\W_{LETTERWISE}]+")
PEERS = {
    "trafilatura": "import trafilatura\nextract = lambda html: trafilatura.extract(html) or ''",
    "readability": "import lxml.html, readability\n"
    "extract = lambda html: lxml.html.fromstring(readability.Document(html).summary()).text_content()",
}
PEER_LOOP = """
import base64, json, sys, time
for line in sys.stdin:
    html = base64.b64decode(line)
    start = time.process_time()
    try:
        text = extract(html)
    except Exception:
        text = ''
    print(json.dumps([time.process_time() - start, text]))
"""


def crawl_pages() -> list[tuple[str, bytes, str]]:
    """(name, page, wanted text) of the hand-labelled crawl pages."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    from puna.data.charset import decode_page
    from puna.data.crawl_files import read_warc
    from puna.data.rows import PageRow

    found = []
    for file, labels in json.loads(LABELS.read_text()).items():
        if not (DATA / file).exists():
            print(f"{file} is not at ../shared/data: its labels are left out")
            continue
        rows = {row.url: row for row in read_warc(DATA / file, file, PAGE_BYTES) if isinstance(row, PageRow)}
        for url, label in labels.items():
            tree = HTMLTree.parse(decode_page(rows[url].content, rows[url].charset))
            text = extract_plain_text(tree, main_content=False, alt_texts=False, list_bullets=False)
            lines = [line.strip() for line in text.split("\n") if line.strip()]
            if len(lines) != label["of"]:
                print(f"{url}: resiliparse counts lines otherwise than when this page was labelled: left out")
                continue
            wanted = [line for first, last in label["lines"] for line in lines[first : last + 1]]
            found.append((url, rows[url].content, "\n".join(wanted)))
    return found


def world_pages() -> list[tuple[str, bytes, str]]:
    from puna.world.pages import generate

    pages = (page for page in generate(2 * WORLD_PAGES, 17) if page.fault is None)
    return [(page.id, page.html.encode(), "\n".join(page.lines)) for page in pages][:WORLD_PAGES]


def paired_pages(folders: list[str]) -> list[tuple[str, bytes, str]]:
    found = []
    for folder in folders:
        texts = {path.stem: path for path in sorted(Path(folder).rglob("*.txt"))}
        for page in sorted(Path(folder).rglob("*.html")):
            if page.stem in texts:
                found.append((page.stem, page.read_bytes(), texts[page.stem].read_text("utf-8")))
    return found


def scores(got: str, wanted: str) -> tuple[float, float, float]:
    """Precision, recall and F1 of the bags of tokens."""
    one, two = Counter(TOKEN.findall(got.lower())), Counter(TOKEN.findall(wanted.lower()))
    common = (one & two).total()
    precision, recall = common / max(one.total(), 1), common / max(two.total(), 1)
    return precision, recall, 2 * precision * recall / (precision + recall) if common else 0.0


def ours(pages: list[bytes]) -> list[tuple[float, str]]:
    from puna.data.extract import extract

    extract(b"<p>compile first", "html", "")
    found = []
    for page in pages:
        start = time.process_time()
        text = extract(page, "html", "").text
        found.append((time.process_time() - start, text))
    return found


def peer(python: str, name: str, pages: list[bytes]) -> list[tuple[float, str]]:
    lines = b"\n".join(base64.b64encode(page) for page in [b"<p>warm up</p>", *pages])
    script = PEERS[name] + PEER_LOOP
    done = subprocess.run([python, "-W", "ignore", "-c", script], input=lines, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"{name} does not run under {python}")
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()][1:]


def parser_alone(pages: list[bytes]) -> float:
    """Seconds resiliparse needs to decode and parse all pages."""
    from resiliparse.parse.html import HTMLTree

    from puna.data.charset import decode_page

    start = time.process_time()
    for page in pages:
        HTMLTree.parse(decode_page(page))
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one run instead of three")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--peer-python", help="interpreter with trafilatura and readability-lxml")
    parser.add_argument("--pairs", nargs="*", default=[], metavar="DIR")
    args = parser.parse_args()
    sets = {"crawl": crawl_pages(), "world": world_pages(), "pairs": paired_pages(args.pairs)}
    sets = {name: pages for name, pages in sets.items() if pages}
    every = [page for pages in sets.values() for _, page, _ in pages]
    extractors = {"puna": ours}
    if args.peer_python:
        extractors |= {name: lambda pages, name=name: peer(args.peer_python, name, pages) for name in PEERS}
    rounds = [{name: run(every) for name, run in extractors.items()} for _ in range(1 if args.quick else 3)]
    ms = {name: statistics.median(sum(t for t, _ in row[name]) for row in rounds) / len(every) * 1000 for name in extractors}
    limit = min(parser_alone(every) for _ in rounds) / len(every) * 1000

    print(f"{'set':<8}{'pages':>6}  {'extractor':<12}{'F1':>8}{'precision':>11}{'recall':>8}")
    mean: dict[str, dict[str, float]] = {name: {} for name in extractors}
    start = 0
    for label, pages in sets.items():
        for name in extractors:
            texts = [text for _, text in rounds[0][name][start : start + len(pages)]]
            rows = [scores(text, wanted) for text, (_, _, wanted) in zip(texts, pages, strict=True)]
            precision, recall, f1 = (statistics.fmean(column) for column in zip(*rows, strict=True))
            mean[name][label] = f1
            print(f"{label:<8}{len(pages):>6}  {name:<12}{f1:>8.4f}{precision:>11.4f}{recall:>8.4f}")
        start += len(pages)
    for name in extractors:
        print(f"{name:<12} {ms[name]:.2f} ms per page of {sum(map(len, every)) / len(every) / 1000:.0f} KB")
    print(f"{'parser alone':<12} {limit:.2f} ms per page")

    ratios = {f"f1_{name}_{label}": round(value, 4) for name, values in mean.items() for label, value in values.items()}
    if args.peer_python:
        real = [label for label in sets if label != "world"]
        shares = [mean["puna"][label] / mean["trafilatura"][label] for label in real]
        ratios |= {"f1_over_trafilatura": min(shares, default=1.0), "speed_over_trafilatura": ms["trafilatura"] / ms["puna"]}
    missed = [name for name, goal in GOAL.items() if ratios.get(name, goal) < goal]
    result = {
        "bench": "extraction",
        "ratios": ratios,
        "limits": {"parser_ms": limit, "ms": ms},
        "machine": platform.machine(),
        "versions": {"resiliparse": version("resiliparse"), "python": platform.python_version()},
    }
    print(json.dumps(result))
    if args.check and missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
