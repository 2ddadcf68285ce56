"""How long questions about the lineage of ten million rows take, and what memory.

    python bench/lineage.py [--quick] [--check] [--rows N]

A process writes `lineage.parquet` with N rows (10,000,000; with --quick 1,000,000) from 400 sources under 12 licences, with 30
teachers, four judges and six rounds, all independent of each other, and one row by a Llama 3.1 teacher. A new process then asks:
`obligations` of all rows, `attribution` (the sources that must be named), `without` (the rows that go when one source is taken
back), and `why` (the one row that brings the duty of the name). The limit beside is reading the same columns once with pyarrow
and doing nothing with them. Peak memory is that of the asking process, resident.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

SECONDS = 30.0  # goal for an obligation query over ten million rows, machine time of one core
ROWS, QUICK_ROWS, TRIES = 10_000_000, 1_000_000, 3
LICENCES = ("CC0-1.0", "MIT", "Apache-2.0", "BSD-3-Clause", "CC-BY-4.0", "CC-BY-SA-4.0", "ODC-By-1.0", "CC-BY-SA-3.0",
            "GPL-3.0-only", "MPL-2.0", "ISC", "CDLA-Permissive-2.0")  # fmt: skip
SOURCES, MODELS, JUDGES, ROUNDS = 400, 30, 4, 6
LLAMA = ("Llama-3.1-8B-Instruct", "LicenseRef-llama3.1")


def write(path: Path, rows: int) -> None:
    """Rows of random sources and teachers, group by group; the last one is Llama's."""
    import numpy as np
    import pyarrow as pa

    from puna.core.lineage_rows import GROUP_ROWS, RowLineage, row_schema

    draw, writer = np.random.default_rng(1), RowLineage(path)
    for first in range(0, rows, GROUP_ROWS):
        count = min(GROUP_ROWS, rows - first)
        source, model = draw.integers(0, SOURCES, count), draw.integers(0, MODELS, count)
        columns: dict[str, Any] = {name: pa.nulls(count, row_schema().field(name).type) for name in row_schema().names}
        columns["id"] = pa.array([f"{first + i:016x}" for i in range(count)])
        columns["part"] = pa.array(["train"] * count)
        columns["source"] = named([f"source-{i}" for i in range(SOURCES)], source)
        columns["licence_declared"] = named([LICENCES[i % len(LICENCES)] for i in range(SOURCES)], source)
        models = [*(f"OLMo-{i}" for i in range(MODELS)), LLAMA[0]]
        licences = [*["Apache-2.0"] * MODELS, LLAMA[1]]
        if first + count == rows:
            model[-1] = MODELS
        columns["teacher"], columns["teacher_licence"] = named(models, model), named(licences, model)
        columns["judge"] = named([f"judge-{i}" for i in range(JUDGES)], draw.integers(0, JUDGES, count))
        columns["judge_licence"] = pa.array(["none-needed"] * count)
        columns["round"] = pa.array(draw.integers(0, ROUNDS, count).astype(np.int32))
        writer.add_table(pa.table(columns, schema=row_schema()))
    writer.close()


def named(names: list[str], indices: Any) -> Any:
    """Names by index, as text."""
    import pyarrow as pa

    return pa.array(names).take(pa.array(indices))


def ask(path: Path) -> dict[str, Any]:
    """Every question, best of TRIES, and the limit."""
    import pyarrow.parquet as pq

    from puna.core.lineage import obligations, owed
    from puna.core.lineage_rows import ASKED, groups

    def sources() -> list[dict[str, Any]]:
        return [group.source() for group in groups([path])]

    def attribution() -> int:
        return len({row["source"] for row in sources() if "attribution" in owed(row)})

    def without() -> int:
        return sum(row["rows"] for row in sources() if row["source"] == "source-7")

    def why() -> list[tuple[int, str]]:
        return [(group.rows, group.example) for group in groups([path]) if "llama-name" in owed(group.source())]

    rows = pq.read_metadata(path).num_rows
    answers: dict[str, Any] = {}
    seconds = {}
    questions: dict[str, Callable[[], Any]] = {
        "limit": lambda: len(pq.ParquetFile(path, read_dictionary=ASKED).read(columns=[*ASKED])),
        "obligations": lambda: obligations(sources()), "attribution": attribution, "without": without, "why": why,
    }  # fmt: skip
    for name, question in [*list(questions.items())[1:], *list(questions.items())[:1]]:
        taken = []
        for _ in range(TRIES):
            started = time.perf_counter()
            answers[name] = question()
            taken.append(time.perf_counter() - started)
        seconds[name] = min(taken)
        if name == "why":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert answers["why"] == [(1, f"{rows - 1:016x}")] and "llama-name" in answers["obligations"]
    return {"rows": rows, "bytes": path.stat().st_size, "seconds": seconds, "peak_mb": round(peak), "answers": answers}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--ask", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ask:
        print(json.dumps(ask(given.ask)))
        return 0
    rows = given.rows or (QUICK_ROWS if given.quick else ROWS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lineage.parquet"
        write(path, rows)
        told = subprocess.run([sys.executable, __file__, "--ask", str(path)], check=True, capture_output=True, text=True).stdout
    found = json.loads(told)
    limit = found["seconds"].pop("limit")
    print(f"{found['rows']:,} rows, {found['bytes'] / 1e6:.0f} MB on disk, peak {found['peak_mb']} MB; "
          f"reading the columns alone {limit:.2f} s")  # fmt: skip
    for name, seconds in found["seconds"].items():
        print(f"{name:12} {seconds:8.2f} s {found['rows'] / seconds / 1e6:8.1f} million rows a second")
    ratios = {f"{name}_s": round(seconds, 3) for name, seconds in found["seconds"].items()}
    print(json.dumps({
        "bench": "lineage", "ratios": {**ratios, "rows": found["rows"], "peak_mb": found["peak_mb"]},
        "limits": {"read_columns_s": round(limit, 3)}, "machine": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("pyarrow", "numpy")},
    }))  # fmt: skip
    late = [name for name, seconds in found["seconds"].items() if seconds * ROWS / found["rows"] > SECONDS]
    if given.check and late:
        print(f"over {SECONDS:.0f} s for {ROWS:,} rows: {', '.join(late)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
