"""Identity, content digests and the commit: what counts, what does not, and that nothing half-made looks whole."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.core import store
from puna.core.errors import InputError, RunError
from puna.core.explain import collect_garbage, differences, verify
from puna.core.lease import Lease, is_held
from puna.core.settings import Settings, execution
from puna.core.stage import Artifact


class Inner(Settings):
    width: int = 4
    threads: int = execution(1)


class Outer(Settings):
    rate: float = 0.1
    inner: Inner = Inner()
    device: str = execution("cpu")


def identity(tmp_path, settings=None, inputs=(), **changes):
    facts = {"name": "n", "uses": "u", "revision": 1, "seed": 0, **changes}
    return store.identify(tmp_path, settings=settings or Outer(), inputs=inputs, **facts)


def test_execution_fields_are_left_out_at_every_depth(tmp_path):
    assert Outer().identity() == {"rate": 0.1, "inner": {"width": 4}}
    same = identity(tmp_path, Outer(device="cuda", inner=Inner(threads=9)))
    assert same == identity(tmp_path)
    assert identity(tmp_path, Outer(rate=0.2)).fingerprint != same.fingerprint


def test_everything_that_decides_content_is_in_the_fingerprint(tmp_path):
    one = Artifact("i", "lines", tmp_path, "d1")
    two = Artifact("j", "lines", tmp_path, "d2")
    prints = [
        identity(tmp_path, **change).fingerprint
        for change in (
            {},
            {"seed": 1},
            {"name": "m"},
            {"uses": "v"},
            {"revision": 2},
            {"inputs": [one]},
            {"inputs": [one, two]},
            {"inputs": [two, one]},
            {"inputs": [Artifact("i", "lines", tmp_path, "d3")]},
            {"outside": {"file": "x"}},
        )
    ]
    assert len(set(prints)) == len(prints)
    moved = Artifact("i", "lines", tmp_path / "elsewhere", "d1")
    assert identity(tmp_path, inputs=[moved]).fingerprint == identity(tmp_path, inputs=[one]).fingerprint


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, print, object()])
def test_unstable_values_are_refused(tmp_path, value):
    class Loose(Settings):
        anything: object = None

    with pytest.raises(InputError, match=r"stable form|no setting"):
        identity(tmp_path, Loose(anything=value))


def test_digest_covers_files_and_not_volatile_or_the_record(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/x.txt").write_text("x")
    (tmp_path / "y.txt").write_text("y")
    digest, files = store.digest_files(tmp_path)
    assert list(files) == ["a/b/x.txt", "y.txt"] and files["y.txt"][0] == 1
    (tmp_path / "volatile").mkdir()
    (tmp_path / "volatile/t.txt").write_text("now")
    (tmp_path / "artifact.json").write_text("{}")
    assert store.digest_files(tmp_path)[0] == digest
    (tmp_path / "a/volatile").mkdir()
    (tmp_path / "a/volatile/z").write_text("z")
    assert store.digest_files(tmp_path)[0] != digest, "only the folder at the top is volatile"
    (tmp_path / "link").symlink_to("y.txt")
    with pytest.raises(RunError, match="no links"):
        store.digest_files(tmp_path)


def made(tmp_path, **files):
    place = identity(tmp_path)
    partial, _ = store.prepare(place.path, place.fingerprint)
    for name, text in files.items():
        (partial / name).write_text(text)
    digest, listed = store.digest_files(partial)
    record = {"name": "n", "kind": "k", "digest": digest, "files": listed, "fingerprint": place.fingerprint}
    return place, record, listed


def test_commit_is_whole_or_not_there(tmp_path):
    place, record, files = made(tmp_path, x="1")
    (store.beside(place.path, store.SCRATCH) / "state").write_text("kept until the end")
    assert store.find(place) is None
    store.commit(place.path, record, files)
    assert store.find(place).digest == record["digest"]
    assert sorted(p.name for p in place.path.parent.iterdir()) == [place.path.name]


def test_restart_wipes_partial_and_keeps_scratch(tmp_path):
    place, _, _ = made(tmp_path, x="1")
    (store.beside(place.path, store.SCRATCH) / "state").write_text("s")
    partial, scratch = store.prepare(place.path, place.fingerprint)
    assert list(partial.iterdir()) == [] and (scratch / "state").read_text() == "s"


def test_another_fingerprint_with_the_same_eight_digits_gets_its_own_place(tmp_path):
    place, record, files = made(tmp_path, x="1")
    store.commit(place.path, {**record, "fingerprint": place.fingerprint[:8] + "other"}, files)
    again = identity(tmp_path)
    assert again.path != place.path and store.find(again) is None


def test_verify_names_the_file(tmp_path):
    place, record, files = made(tmp_path, x="1", y="2", z="3")
    artifact = store.commit(place.path, record, files)
    assert verify([artifact])[0]["changed"] == []
    (artifact.path / "x").write_text("!")
    (artifact.path / "y").unlink()
    (artifact.path / "w").write_text("new")
    assert verify([artifact])[0]["changed"] == ["w: added", "x: changed", "y: missing"]


def test_garbage_is_what_no_run_points_to(tmp_path):
    place, record, files = made(tmp_path, x="12345")
    artifact = store.commit(place.path, record, files)
    (tmp_path / "runs/r").mkdir(parents=True)
    link = tmp_path / "runs/r/01-n"
    link.symlink_to(os.path.relpath(artifact.path, link.parent))
    left = artifact.path.with_name("m-0123.partial")
    left.mkdir()
    (left / "half").write_text("123")
    assert [(r["path"], r["bytes"]) for r in collect_garbage(tmp_path, dry_run=True)] == [("store/u/m-0123.partial", 3)]
    assert left.exists()
    collect_garbage(tmp_path, dry_run=False)
    assert not left.exists() and artifact.path.exists()
    link.unlink()
    assert [r["path"] for r in collect_garbage(tmp_path, dry_run=False)] == [str(artifact.path.relative_to(tmp_path))]
    lease = Lease(tmp_path / "runs/r/lease.json")
    lease.take()
    with pytest.raises(InputError, match="is going on"):
        collect_garbage(tmp_path, dry_run=False)
    lease.free()


def test_lease_excludes_frees_and_takes_over(tmp_path):
    one, two = Lease(tmp_path / "l"), Lease(tmp_path / "l")
    assert one.take() and not two.take() and is_held(tmp_path / "l")
    one.free()
    assert two.take()
    two.free()
    (tmp_path / "l").write_text('{"pid": 1, "host": "gone"}')
    assert one.take(), "a file without a lock behind it is nobody's"
    one.free()


def test_differences_are_by_field_and_inputs_by_name():
    before = {"settings": {"a": 1, "b": 2}, "inputs": [{"name": "x", "digest": "1"}, {"name": "y", "digest": "2"}]}
    now = {"settings": {"a": 1, "b": 3, "c": 4}, "inputs": [{"name": "y", "digest": "5"}]}
    assert [(d["field"], d["before"], d["now"]) for d in differences(before, now)] == [
        ("settings.b", 2, 3),
        ("settings.c", None, 4),
        ("inputs.x", {"name": "x", "digest": "1"}, None),
        ("inputs.y.digest", "2", "5"),
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
)


@given(json_values, json_values)
def test_differences_are_empty_exactly_for_equal_values(a, b):
    assert (differences(a, b) == []) == (a == b)


def test_half_done_work_of_another_fingerprint_is_not_resumed(tmp_path):
    place = tmp_path / "out"
    _, scratch = store.prepare(place, "one")
    (scratch / "step-5").write_text("weights")
    assert (store.prepare(place, "one")[1] / "step-5").exists()
    assert not (store.prepare(place, "two")[1] / "step-5").exists()
