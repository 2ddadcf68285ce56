"""Documents that changed fate between two curations, against a comparison of plain dictionaries."""

from collections import Counter

import pyarrow as pa

from puna.data.columns import write_table
from puna.data.fates import fate_changes


def write(path, kept, dropped):
    """A `documents` artifact of kept ids and of (id, reason)."""
    for folder in ("documents", "dropped"):
        (path / folder).mkdir(parents=True)
    half = len(kept) // 2
    for name, part in (("0.parquet", kept[:half]), ("1.parquet", kept[half:])):
        table = {"id": pa.array(part, pa.string()), "url": pa.array([f"http://x/{i}" for i in part], pa.string())}
        write_table(path / "documents" / name, pa.table(table))
        gone = dropped if name == "0.parquet" else []
        ids, reasons = [i for i, _ in gone], pa.array([r for _, r in gone], pa.string()).dictionary_encode()
        urls = pa.array([f"http://x/{i}" for i in ids], pa.string())
        write_table(path / "dropped" / name, pa.table({"id": pa.array(ids, pa.string()), "reason": reasons, "url": urls}))
    return path


def test_changes_are_counted_by_reason_with_examples(tmp_path):
    ids = [f"d{i:03d}" for i in range(40)]
    before = {i: "" if n % 3 else "quality:words" for n, i in enumerate(ids)}
    after = {i: "" if n % 4 else "language" for n, i in enumerate([*ids[5:], "new"])}
    paths = [
        write(tmp_path / name, [i for i, r in fates.items() if not r], [(i, r) for i, r in fates.items() if r])
        for name, fates in (("a", before), ("b", after))
    ]
    found = fate_changes(*paths)
    told = {i: before.get(i, "not collected") or "kept" for i in {*before, *after}}
    later = {i: after.get(i, "not collected") or "kept" for i in told}
    expected = Counter((told[i], later[i]) for i in told if told[i] != later[i])
    assert {(row["before"], row["after"]): row["documents"] for row in found["changes"]} == expected
    assert (found["pages"], found["changed"]) == (41, expected.total())
    assert [row["documents"] for row in found["changes"]] == sorted(expected.values(), reverse=True)
    for row in found["changes"]:
        members = sorted(i for i in told if (told[i], later[i]) == (row["before"], row["after"]))
        assert row["examples"] == [{"id": i, "url": f"http://x/{i}"} for i in members[:3]]


def test_equal_curations_have_no_changes(tmp_path):
    paths = [write(tmp_path / name, ["a", "b"], [("c", "language")]) for name in "xy"]
    assert fate_changes(*paths) == {"pages": 3, "changed": 0, "changes": []}
