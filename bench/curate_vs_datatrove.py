"""Web curation beside datatrove on the same pages: CPU time of the whole process tree, memory of a worker, one worker each.

    python bench/curate_vs_datatrove.py [--quick] [--check] [--case NAME ...] [--pages FOLDER ...] [--runs N] [--count N] ...
    python bench/curate_vs_datatrove.py --fetch          downloads Debian documentation packages into --cache first

Three comparisons, in alternating runs. `html`: from WARC to kept documents; ours is `puna up` of data.collect and data.curate
(extraction, language, spam, URL, exact and near duplicates, frequent lines, Gopher signals, personal data), the peer's is
trafilatura, both Gopher filters and MinHash in four stages. `text`: the same from texts extracted once, so no extraction.
`minhash`: words, shingles, 14 x 8 signatures and clusters alone. Ours also verifies each pair exactly.

The pages are the HTML found in the given folders (as many from each), written as one WARC, with the real crawl records beside it.
The peer lives in an environment of its own: `make bench-env`, or any interpreter that imports datatrove by `--peer-python`.
`strict` ratios count our start-up and not the peer's; numba's cache is warm, as it is for every run after the first.
"""

from __future__ import annotations

import argparse
import ctypes
import gzip
import hashlib
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve()
GOAL = {"html": 15.0, "text": 4.0, "minhash": 20.0}
GOAL_WORKER_MB = 500.0
PAGES, QUICK_PAGES = 8000, 150
MIN_PAGE_BYTES, MAX_PAGE_BYTES = 2_000, 2_000_000
DEBIAN = (
    "python3.11-doc", "postgresql-doc-15", "python-django-doc", "python-scipy-doc", "python-sympy-doc", "debian-handbook",
    "git-doc", "maxima-doc", "octave-doc", "debian-history", "libreoffice-help-de", "libreoffice-help-fr", "libreoffice-help-es",
)  # fmt: skip
FOUND_HERE = ("/usr/share/doc", "/usr/share/javascript", "/usr/lib/node_modules", str(Path(sys.prefix) / "share"))
CRAWL = HERE.parents[2] / "shared/data"
# the page whose run is the start-up: good enough prose for both sides' filters
ONE_PAGE = (
    "The river rises in the hills above the town and flows for ninety miles to the sea. In winter its banks are flooded, and the "
    "farmers move their sheep to higher ground. Two mills still stand on the lower course; one of them was built long ago and "
    "grinds flour today. Visitors come for the walks along the water, the old bridges and the fish that is smoked over oak. A "
    "train leaves the coast each hour, and the journey takes a little more than forty minutes when the line is clear of snow."
)
PR_SET_CHILD_SUBREAPER = 36  # orphans of a run come to us, so that their time is counted


@dataclass
class Cost:
    """CPU seconds of a process and all its descendants, wall seconds, and the memory of its largest process."""

    cpu: float
    wall: float
    peak_mb: float


# The two sides. Each is a run of this file in the side's own interpreter: `--side NAME --work FOLDER`.


def ours(work: Path, source: Path) -> None:
    """`puna up` of two stages over one file of pages or texts."""
    recipe = {
        "name": "bench",
        "stages": {
            "pages": {"uses": "data.collect", "sources": [{"path": str(source)}], "document_chars": 10_000_000},
            "documents": {
                "uses": "data.curate",
                "from": "pages",
                "workers": 1,
                "languages": ["en", "de", "fr", "es", "it", "pt"],
            },
        },
    }
    (work / "bench.yaml").write_text(json.dumps(recipe))
    command = ["up", str(work / "bench.yaml"), "--dir", str(work), "--no-page", "--cores", "1"]
    sys.argv = ["puna", *command]
    from puna.cli import main

    main()


def ours_minhash(work: Path, source: Path) -> None:
    """Words, signatures, bands, exactly verified pairs and clusters, through files as in the stages."""
    import numpy as np
    import pyarrow.json as pj

    from puna.data.columns import Layout, write_layout
    from puna.data.engine import save_array
    from puna.data.minhash import MinHashSettings, signatures
    from puna.data.near_duplicates import bands, candidate_pairs, cluster_drops, verified
    from puna.data.words import scan

    settings = MinHashSettings()
    texts = pj.read_json(source)["text"].combine_chunks()
    marks, shingles, ends = signatures(scan(texts), settings)
    (work / "hashes").mkdir()
    for kind, array in (("signatures", marks), ("shingles", shingles), ("shingle_ends", ends)):
        save_array(work / "hashes" / f"0.{kind}.npy", array)
    write_layout(work, Layout(("0.parquet",), np.array([0, len(ends)])))
    usable = np.flatnonzero(np.diff(ends, prepend=0) >= settings.min_shingles)
    pairs = candidate_pairs(bands(marks[usable], np.zeros(len(usable), dtype=np.int64), usable, settings))
    drops = cluster_drops(verified(pairs, facts=work, threshold=settings.threshold))
    (work / "outcome.json").write_text(json.dumps({"documents": len(ends), "kept": len(ends) - len(drops)}))


def peer(work: Path, source: Path) -> None:
    """datatrove's stages, one task each where it allows; MinHash works on what the filters keep."""
    from datatrove.executor import LocalPipelineExecutor as Executor
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.readers import JsonlReader, WarcReader
    from datatrove.pipeline.writers import JsonlWriter

    html = source.name.endswith(".warc.gz")
    folder, glob = str(source.parent), source.name
    first = [WarcReader(folder, glob_pattern=glob), Trafilatura(favour_precision=True, timeout=30)] if html else []
    first = first or [JsonlReader(folder, glob_pattern=glob)]
    written = JsonlWriter(str(work / "filtered"), output_filename="${rank}.jsonl.gz")
    kept = [GopherRepetitionFilter(), GopherQualityFilter(), written]
    Executor(pipeline=first + kept, tasks=1, workers=1, logging_dir=str(work / "logs-filter")).run()
    _peer_minhash(work, work / "filtered", "*.jsonl.gz")


def peer_minhash(work: Path, source: Path) -> None:
    """datatrove's MinHash over all texts."""
    _peer_minhash(work, source.parent, source.name)


def _peer_minhash(work: Path, folder: Path, glob: str) -> None:
    from datatrove.executor import LocalPipelineExecutor as Executor
    from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    config = MinhashConfig(num_buckets=14, hashes_per_bucket=8, n_grams=5)
    at = {name: str(work / name) for name in ("signatures", "buckets", "remove", "kept")}
    stages = (
        (1, [JsonlReader(str(folder), glob_pattern=glob), MinhashDedupSignature(at["signatures"], config=config)]),
        (14, [MinhashDedupBuckets(at["signatures"], at["buckets"], config=config)]),
        (1, [MinhashDedupCluster(at["buckets"], at["remove"], config=config)]),
        (1, [JsonlReader(str(folder), glob_pattern=glob), MinhashDedupFilter(at["remove"]), JsonlWriter(at["kept"])]),
    )
    for number, (tasks, pipeline) in enumerate(stages):
        Executor(pipeline=pipeline, tasks=tasks, workers=1, logging_dir=str(work / f"logs-minhash-{number}")).run()


def floor(work: Path, source: Path) -> None:
    """What no pipeline of this kind can do without, timed part by part: gunzip and records, one parse, one look at each byte."""
    from fastwarc.warc import ArchiveIterator
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding
    from resiliparse.parse.html import HTMLTree

    marks = [time.process_time()]
    with source.open("rb") as file:
        bodies = [record.reader.read() for record in ArchiveIterator(file, parse_http=True)]
    marks.append(time.process_time())
    for body in bodies:
        HTMLTree.parse(bytes_to_str(body, detect_encoding(body) or "utf-8", errors="replace"))
    marks.append(time.process_time())
    sum(body.count(b"\n") for body in bodies)
    marks.append(time.process_time())
    parts = {name: b - a for name, a, b in zip(("gunzip", "parse", "memory"), marks, marks[1:], strict=False)}
    (work / "outcome.json").write_text(json.dumps(parts))


SIDES = {"ours": ours, "ours_minhash": ours_minhash, "peer": peer, "peer_minhash": peer_minhash, "floor": floor}


# The pages


def fetch(cache: Path) -> None:
    """Download and unpack the documentation packages, with the ordinary tools of Debian."""
    (cache / "packages").mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", *DEBIAN], cwd=cache / "packages", check=True)
    for package in sorted((cache / "packages").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, cache / "pages" / package.name.split("_")[0]], check=True)


def pages_of(folder: Path) -> list[Path]:
    """HTML files of a folder, to any depth, in an order that mixes its parts and is always the same."""
    found = [path for path in folder.rglob("*.htm*") if path.suffix in (".html", ".htm") and not path.is_symlink()]
    sizes = ((path, path.stat().st_size) for path in found if path.is_file())
    fitting = [path for path, size in sizes if MIN_PAGE_BYTES <= size <= MAX_PAGE_BYTES]
    return sorted(fitting, key=lambda path: hashlib.blake2b(str(path.relative_to(folder)).encode()).digest())


def write_warc(out: Path, folders: list[Path], count: int) -> dict[str, int]:
    """One WARC of at most `count` pages, as many from each folder as there are; returns how many came from where."""
    pools = {folder.name: pages_of(folder) for folder in folders if folder.is_dir()}
    used = dict.fromkeys(pools, 0)
    left = count
    for place, (name, pool) in enumerate(sorted(pools.items(), key=lambda item: len(item[1]))):
        used[name] = min(len(pool), left // (len(pools) - place))
        left -= used[name]
    with out.open("wb") as file:
        for name, pool in pools.items():
            for number, path in enumerate(pool[: used[name]]):
                file.write(_record(f"https://{name}.example/{number}/{path.name}", path.read_bytes()))
        for crawl in sorted(CRAWL.glob("warc_commoncrawl/*.warc.gz")):
            file.write(crawl.read_bytes())
            used[crawl.name] = 1
    return {name: number for name, number in used.items() if number}


def _record(url: str, page: bytes) -> bytes:
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(page) + page
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
        f"WARC-Record-ID: <urn:uuid:{hashlib.md5(url.encode()).hexdigest()}>\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + http + b"\r\n\r\n", 6, mtime=0)


def write_texts(run: Path, out: Path) -> int:
    """The texts that our extraction found, as JSONL for both sides; returns their number."""
    script = (
        "import sys, json, pathlib, pyarrow.parquet as pq\n"
        "files = sorted(pathlib.Path(sys.argv[1]).glob('**/*.facts*/text/*.parquet'))\n"
        "rows = [r for p in files for r in pq.read_table(p).to_pylist()]\n"
        "rows = list({r['id']: r for r in rows if r['text'].strip()}.values())\n"
        "with open(sys.argv[2], 'w') as f: [f.write(json.dumps(r) + '\\n') for r in rows]\n"
        "print(len(rows))"
    )
    return int(subprocess.run([sys.executable, "-c", script, run, out], check=True, capture_output=True, text=True).stdout)


# Measuring


def measured(python: str, side: str, source: Path, work: Path) -> Cost:
    """Run one side in a fresh folder and count everything it started."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as for any user, modules are compiled once
    if python == sys.executable:
        environment["PYTHONPATH"] = str(HERE.parents[1])
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with (work / "log.txt").open("wb") as log:
        command = [python, str(HERE), "--side", side, "--source", str(source), "--work", str(work)]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    peak = max(usage.ru_maxrss, _reap())
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - start
    if process.returncode:
        sys.exit(f"{side} failed:\n{(work / 'log.txt').read_text(errors='replace')[-3000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(cpu, wall, peak / 1024)


def _reap() -> int:
    """Wait for what the run left behind; returns the largest memory among it in KiB."""
    largest = 0
    while True:
        try:
            largest = max(largest, os.wait3(0)[2].ru_maxrss)
        except ChildProcessError:
            return largest


def outcome(work: Path) -> tuple[int, dict[str, float]]:
    """Documents that a run kept, and for ours the CPU seconds of each stage."""
    records = [json.loads(path.read_text()) for path in work.glob("store/*/*/artifact.json")]
    if records:
        kept = next(record["summary"]["documents"] for record in records if record["stage"] == "data.curate")
        return kept, {record["stage"]: record["cpu_s"] for record in records}
    if (work / "outcome.json").exists():
        return json.loads((work / "outcome.json").read_text())["kept"], {}
    return sum(sum(1 for _ in gzip.open(path)) for path in (work / "kept").glob("*.gz")), {}


def compare(args: argparse.Namespace, work: Path) -> dict[str, object]:
    """All comparisons; prints the table and returns the last line."""
    warc, one, texts = work / "pages.warc.gz", work / "one.warc.gz", work / "texts.jsonl"
    used = write_warc(warc, args.pages, args.count)
    page = f"<html><head><title>River</title></head><body><article><h1>River</h1><p>{ONE_PAGE}</p></article></body></html>"
    one.write_bytes(_record("https://start.example/", page.encode()))
    measured(sys.executable, "ours", warc, work / "warm")  # compiles what is not in numba's cache yet
    measured(args.peer_python, "peer", one, work / "warm-peer")
    measured(sys.executable, "floor", warc, work / "floor")
    parts = json.loads((work / "floor/outcome.json").read_text())
    documents = write_texts(work / "warm", texts)
    one_text = work / "one.jsonl"
    one_text.write_text(json.dumps({"id": "start", "text": ONE_PAGE}) + "\n")
    pages, megabytes = sum(used.values()), _html_bytes(warc) / 1e6
    print(f"{pages} pages, {megabytes:.0f} MB of HTML, {documents} texts, {texts.stat().st_size / 1e6:.0f} MB; from {used}")
    cases = {"html": ("ours", "peer", warc, one), "text": ("ours", "peer", texts, one_text),
             "minhash": ("ours_minhash", "peer_minhash", texts, one_text)}  # fmt: skip
    found: dict[str, dict[str, list[Cost]]] = {}
    kept: dict[str, int] = {}
    stages: dict[str, float] = {}
    for case in args.case:
        our_side, peer_side, source, tiny = cases[case]
        found[case] = {"ours": [], "peer": [], "ours_start": [], "peer_start": []}
        for _ in range(args.runs):
            for who, python, side in (("ours", sys.executable, our_side), ("peer", args.peer_python, peer_side)):
                found[case][who].append(measured(python, side, source, work / "run"))
                kept[f"{case}_{who}"], seconds = outcome(work / "run")
                stages = seconds if who == "ours" and case == "html" else stages
                found[case][f"{who}_start"].append(measured(python, side, tiny, work / "start"))
        _print(case, found[case], pages if case == "html" else documents, megabytes if case == "html" else None)
    print(f"kept: {kept}\nour seconds by stage: {stages}\nseconds of the floor: {parts}")
    return _result(args, found, parts, used, pages, megabytes) | {"kept": kept, "stages": stages}


def _html_bytes(warc: Path) -> int:
    with gzip.open(warc) as file:
        return sum(len(block) for block in iter(lambda: file.read(1 << 20), b""))


def _cpu(costs: list[Cost]) -> float:
    return statistics.median(cost.cpu for cost in costs)


def _print(case: str, found: dict[str, list[Cost]], documents: int, megabytes: float | None) -> None:
    for who in ("ours", "peer"):
        cpu, start = _cpu(found[who]), _cpu(found[f"{who}_start"])
        best, peak = min(cost.cpu for cost in found[who]), max(cost.peak_mb for cost in found[who])
        wall = statistics.median(cost.wall for cost in found[who])
        rate = f"{megabytes / cpu:6.2f} MB/s" if megabytes else ""
        print(f"{case:<8} {who:<5} CPU median {cpu:7.1f} s  best {best:7.1f}  start-up {start:5.1f}  wall {wall:7.1f} s  "
              f"{documents / cpu:8.1f} docs/s {rate}  {peak:6.0f} MB", flush=True)  # fmt: skip


def _result(args: argparse.Namespace, found: dict, parts: dict, used: dict, pages: int, megabytes: float) -> dict[str, object]:
    ratios: dict[str, float] = {}
    for case, costs in found.items():
        our, our_start, peer_cpu, peer_start = (_cpu(costs[name]) for name in ("ours", "ours_start", "peer", "peer_start"))
        ratios[case] = peer_cpu / our
        ratios[f"{case}_strict"] = (peer_cpu - peer_start) / our
        ratios[f"{case}_work"] = (peer_cpu - peer_start) / max(our - our_start, 1e-3)
    worker = max((cost.peak_mb for case in ("html", "text") if case in found for cost in found[case]["ours"]), default=0.0)
    limits = {**{f"{name}_seconds": value for name, value in parts.items()}, "worker_mb": worker,
              "pages": pages, "megabytes": megabytes}  # fmt: skip
    if "html" in found:
        limits["share_of_limit"] = sum(parts.values()) / _cpu(found["html"]["ours"])
    peer_version = subprocess.run(
        [args.peer_python, "-c", "import importlib.metadata as m; print(m.version('datatrove'), m.version('trafilatura'))"],
        capture_output=True, text=True, check=True).stdout.split()  # fmt: skip
    versions = {"python": platform.python_version(), "datatrove": peer_version[0], "trafilatura": peer_version[1]}
    return {"bench": "curate_vs_datatrove", "ratios": ratios, "limits": limits, "pages": used, "runs": args.runs,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores", "versions": versions}  # fmt: skip


def missed(result: dict, quick: bool) -> list[str]:
    """Goals that were not met; a quick run is mostly start-up, so there both sides are judged without it."""
    kind = "work" if quick else "strict"
    names = [f"{case} {result['ratios'][f'{case}_{kind}']:.1f} < {goal}" for case, goal in GOAL.items()
             if result["ratios"].get(f"{case}_{kind}", goal) < goal]  # fmt: skip
    worker = result["limits"]["worker_mb"]
    return names + ([f"worker {worker:.0f} MB > {GOAL_WORKER_MB:.0f}"] if worker > GOAL_WORKER_MB else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--pages", type=Path, nargs="*", default=[])
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--case", choices=sorted(GOAL), nargs="*", default=list(GOAL), help="only these comparisons")
    parser.add_argument("--peer-python", default=str(HERE.parents[1] / ".bench-env/bin/python"))
    parser.add_argument("--cache", type=Path, default=HERE.parents[1] / "build/bench-pages")
    parser.add_argument("--fetch", action="store_true")
    parser.add_argument("--side", choices=sorted(SIDES))
    parser.add_argument("--source", type=Path)
    parser.add_argument("--work", type=Path)
    args = parser.parse_args()
    if args.side:
        SIDES[args.side](args.work, args.source)
        return
    if not Path(args.peer_python).exists():
        sys.exit(f"datatrove's interpreter is not at {args.peer_python}: run `make bench-env`, or give --peer-python")
    if args.fetch:
        fetch(args.cache)
    cached = sorted(path for path in (args.cache / "pages").glob("*") if path.is_dir())
    args.pages = args.pages or cached or [Path(folder) for folder in FOUND_HERE]
    args.count = args.count or (QUICK_PAGES if args.quick else PAGES)
    args.runs = args.runs or (1 if args.quick else 3)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory() as work:
        result = compare(args, Path(work))
    print(json.dumps(result))
    failed = missed(result, args.quick)
    if args.check and failed:
        sys.exit(f"missed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
