"""Lineage row by row: what is written, and counts by source against a count in plain Python."""

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from puna.core import lineage_rows
from puna.core.lineage_rows import RowLineage, groups, row_files
from puna.core.rng import python_stream


@pytest.fixture
def written(tmp_path, monkeypatch):
    """5,000 rows in row groups of 512, and the same as a list."""
    monkeypatch.setattr(lineage_rows, "GROUP_ROWS", 512)
    monkeypatch.setattr(lineage_rows, "HELD_ROWS", 256)
    draw, rows = python_stream(3, "rows"), []
    writer = RowLineage(tmp_path / lineage_rows.FILE)
    for number in range(5000):
        source = draw.choice(["web", "books", "forum"])
        row = {"id": f"r{number}", "part": "train", "source": source, "licence_declared": {"web": None}.get(source, "MIT"),
               "licence_concluded": "CC0-1.0" if source == "books" else None, "teacher": draw.choice([None, "gpt-4", "own"]),
               "judge": draw.choice([None, "jury"]), "round": draw.choice([None, 1, 2]), "parents": ["p"]}  # fmt: skip
        row["teacher_licence"] = {"gpt-4": "LicenseRef-openai-terms", "own": lineage_rows.OWN}.get(row["teacher"])
        writer.add(**row)
        rows.append(row)
    writer.close()
    return tmp_path, rows


def test_counts_by_source_and_role(written):
    directory, rows = written
    assert pq.ParquetFile(directory / lineage_rows.FILE).num_row_groups == 10
    found = [group.source() for group in groups(row_files(directory))]
    sources = Counter(row["source"] for row in rows)
    teachers, judges = (Counter(row[role] for row in rows) for role in ("teacher", "judge"))
    assert sorted(found, key=lambda row: row["source"]) == [
        {"source": "books", "licence": "CC0-1.0", "declared": "MIT", "rows": sources["books"]},
        {"source": "forum", "licence": "MIT", "rows": sources["forum"]},
        {"source": "gpt-4", "licence": "LicenseRef-openai-terms", "rows": teachers["gpt-4"], "use": "outputs", "role": "teacher"},
        {"source": "jury", "licence": "unknown", "rows": judges["jury"], "use": "outputs", "role": "judge"},
        {"source": "web", "licence": "unknown", "rows": sources["web"]},
    ]


def test_the_example_is_the_first_row(written):
    directory, rows = written
    first = {group.source()["source"]: group.example for group in groups(row_files(directory))}
    assert first["web"] == next(row["id"] for row in rows if row["source"] == "web")
    assert first["gpt-4"] == next(row["id"] for row in rows if row["teacher"] == "gpt-4")


def test_many_different_values_are_counted_as_few_are(monkeypatch):
    import numpy as np

    codes = np.array([7, 3, 7, 0, 3, 7])
    dense = lineage_rows._counted(codes, 8)
    sparse = lineage_rows._counted(codes, lineage_rows.DENSE + 1)
    for found in (dense, sparse):
        assert [part.tolist() for part in found] == [[0, 3, 7], [3, 1, 0], [1, 2, 3]]


def test_documents_are_read_by_their_own_columns(tmp_path):
    (tmp_path / "documents").mkdir()
    table = pa.table(
        {"id": ["a", "b", "c"], "source": ["x", "y", "x"], "licence": ["MIT", "CC0-1.0", "MIT"], "text": ["", "", ""]}
    )
    pq.write_table(table, tmp_path / "documents" / "0.parquet")
    found = {group.source()["source"]: group for group in groups(row_files(tmp_path))}
    assert found["x"].source() == {"source": "x", "licence": "MIT", "rows": 2} and found["x"].example == "a"
    assert found["y"].source() == {"source": "y", "licence": "CC0-1.0", "rows": 1}


def test_no_rows_are_a_file_too(tmp_path):
    RowLineage(tmp_path / lineage_rows.FILE).close()
    assert groups(row_files(tmp_path)) == [] and row_files(tmp_path / "elsewhere") == []
