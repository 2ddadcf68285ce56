"""The two verbs on every back end: same results, same files, whatever the number of workers and partitions."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from engines_for_tests import needs_ray, sbatch  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.core.errors import InputError, Preempted, RunError
from puna.data.engine import EngineSettings, load_array, map_shards, partition_of, shuffle
from puna.data.engines import ray_tasks, wire
from puna.data.minhash import MinHashSettings

ROW = np.dtype([("key", np.uint64), ("value", np.int64)])
ENGINES = ("serial", "processes", "ray", "slurm")

pytestmark = [pytest.mark.usefixtures("sbatch"), pytest.mark.cores]


def square(shard: int) -> int:
    return shard * shard


def rows_of(shard: int) -> np.ndarray:
    rng = np.random.default_rng(shard)
    rows = np.empty(200, dtype=ROW)
    rows["key"], rows["value"] = rng.integers(0, 60, 200), rng.integers(0, 1000, 200)
    return rows


def sums(rows: np.ndarray) -> np.ndarray:
    keys, where = np.unique(rows["key"], return_inverse=True)
    found = np.zeros(len(keys), dtype=ROW)
    found["key"] = keys
    np.add.at(found["value"], where, rows["value"])
    return found


def available(name: str) -> EngineSettings:
    if name == "ray":
        needs_ray()
    return EngineSettings(name=name, array_tasks=3)


@pytest.mark.parametrize("name", ENGINES)
def test_map_keeps_the_order(name, tmp_path):
    seen = []
    found = map_shards(square, range(7), engine=available(name), workers=2, done=seen.append, scratch=tmp_path)
    assert found == [0, 1, 4, 9, 16, 25, 36]
    assert seen[-1] == 7 and seen == sorted(seen)
    assert map_shards(square, [], engine=available(name), scratch=tmp_path) == []


@pytest.mark.parametrize("name", ENGINES)
def test_shuffle_brings_equal_keys_together(name, tmp_path):
    every = np.concatenate([rows_of(shard) for shard in range(5)])
    files = shuffle(
        rows_of, range(5), sums, out=tmp_path / "out", partitions=4, engine=available(name), workers=2, scratch=tmp_path
    )
    parts = [load_array(path) for path in files]
    assert all((partition_of(part["key"], 4) == number).all() for number, part in enumerate(parts))
    found = {int(key): int(value) for part in parts for key, value in part.tolist()}
    assert found == {key: int(every["value"][every["key"] == key].sum()) for key in np.unique(every["key"]).tolist()}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"0000{number}.npy" for number in range(4)]


def test_every_engine_leaves_the_same_bytes(tmp_path):
    found = {}
    for name in ENGINES:
        if name == "ray":
            needs_ray()
        out = tmp_path / name
        files = shuffle(rows_of, range(4), sums, out=out, partitions=3, engine=available(name), workers=2, scratch=tmp_path)
        found[name] = [path.read_bytes() for path in files]
    assert found["serial"] == found["processes"] == found["ray"] == found["slurm"]


@pytest.mark.parametrize("name", ["serial", "processes", "ray"])
def test_what_a_function_raises_reaches_the_caller(name):
    with pytest.raises(TypeError):
        map_shards(abs, ["a", "b", "c"], engine=available(name), workers=2)
    with pytest.raises(Preempted):
        map_shards(square, range(5), engine=available(name), workers=2, done=_stop)
    assert map_shards(square, range(3), engine=available(name), workers=2) == [0, 1, 4]


def _stop(count: int) -> None:
    raise Preempted("asked to stop")


def end_once(path: Path) -> int:
    if path.exists():
        return 1
    path.write_text("was here")
    os._exit(1)


def test_ray_tries_a_lost_task_again(tmp_path):
    engine = available("ray")
    assert map_shards(end_once, [tmp_path / "a", tmp_path / "b"], engine=engine, workers=2) == [1, 1]


def test_a_lost_ray_driver_is_started_again_once():
    engine, seen = available("ray"), []

    def lose_once(count: int) -> None:
        if not seen:
            ray_tasks._drivers[None][0].kill()
        seen.append(count)

    assert map_shards(square, range(3), engine=engine, workers=2, done=lose_once) == [0, 1, 4]
    assert seen == [1, 2, 3]
    counts = []

    def lose_always(count: int) -> None:
        counts.append(count)
        ray_tasks._drivers[None][0].kill()

    with pytest.raises(RunError, match="process that speaks with the Ray cluster ended with code -9"):
        map_shards(slow_square, range(20), engine=engine, workers=2, done=lose_always)
    assert len(counts) >= 2


def slow_square(shard: int) -> int:
    time.sleep(0.2)
    return shard * shard


def test_a_dead_process_is_told(tmp_path, monkeypatch):
    from puna.data.engines import processes

    monkeypatch.setattr(processes, "POOL_START_S", -1.0)
    with pytest.raises(RunError, match="worker process died"):
        map_shards(partial(_die, where=os.getpid()), [0, 1, 2, 3], workers=2)
    assert map_shards(square, [1, 2, 3, 4], workers=2) == [1, 4, 9, 16]


def _die(shard: int, where: int) -> int:
    if os.getpid() != where:
        os._exit(9)
    return shard


def note(shard: int, folder: Path) -> int:
    with (folder / f"{shard}.txt").open("a") as file:
        file.write("x")
    if shard == 2 and not (folder / "well").exists():
        raise ValueError("ill")
    return shard


def test_slurm_goes_on_from_the_results_there_are(tmp_path, sbatch):  # noqa: F811
    engine = EngineSettings(name="slurm", memory_mb=900, sbatch=("--partition=cpu",))
    job = partial(note, folder=tmp_path)
    with pytest.raises(RunError, match="2 of 4 shards"):
        map_shards(job, range(4), engine=engine, workers=2, scratch=tmp_path)
    [script] = tmp_path.glob("slurm/*/submit.sh")
    text = script.read_text()
    assert "#SBATCH --array=0-3%2\n" in text and "#SBATCH --mem=900M\n" in text and "#SBATCH --partition=cpu\n" in text
    (tmp_path / "well").touch()
    assert map_shards(job, range(4), engine=engine, workers=2, scratch=tmp_path) == [0, 1, 2, 3]
    assert [(tmp_path / f"{shard}.txt").read_text() for shard in range(4)] == ["x", "x", "xx", "x"]
    sbatch.unlink()
    os.environ["PATH"] = str(Path(sys.executable).parent)
    with pytest.raises(InputError, match="no sbatch") as error:
        map_shards(job, range(5), engine=engine, workers=2, scratch=tmp_path)
    assert Path(error.value.where).exists()


def test_a_shuffle_is_not_made_twice(tmp_path):
    files = shuffle(rows_of, range(3), sums, out=tmp_path, partitions=2)
    before = [path.read_bytes() for path in files]
    files[1].unlink()
    assert [path.read_bytes() for path in shuffle(rows_of, range(3), sums, out=tmp_path, partitions=2)] == before
    assert shuffle(_never, range(3), sums, out=tmp_path, partitions=2) == files


def _never(shard: int) -> np.ndarray:
    raise AssertionError("all partitions are there")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=50), st.integers(1, 9))
def test_partitions_split_all_keys(keys, partitions):
    places = partition_of(np.array(keys, dtype=np.uint64), partitions)
    assert ((places >= 0) & (places < partitions)).all()


def test_partitions_are_even_for_close_keys():
    counts = np.bincount(partition_of(np.arange(10_000, dtype=np.uint64), 16), minlength=16)
    assert counts.min() > 0.8 * 10_000 / 16 and counts.max() < 1.2 * 10_000 / 16


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.builds(lambda part: Path("/a") / part, st.just("b")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3).filter(lambda key: key != "$"), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(PLAIN)
def test_values_travel(value):
    assert wire.load(wire.dump(value)) == value


def test_functions_and_settings_travel():
    call = wire.load(wire.dump(partial(note, folder=Path("/x"))))
    assert call.func is note and call.keywords == {"folder": Path("/x")}
    assert wire.load(wire.dump(MinHashSettings(bands=3))) == MinHashSettings(bands=3)
    for stranger in (lambda: 1, {1: 2}, {"$": 1}, object()):
        with pytest.raises(TypeError):
            wire.dump(stranger)
