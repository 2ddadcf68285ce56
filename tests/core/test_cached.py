"""Arrays kept between processes: made once, found again, made anew when they are not whole, and never in the way."""

from __future__ import annotations

import os

import numpy as np
import pytest

from puna.core.cached import cache_root, cached_arrays


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Calls of `make`, with the cache in a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return []


def arrays(made: list[int], version: str = "1") -> dict[str, np.ndarray]:
    def make():
        made.append(1)
        return {"a": np.arange(5), "names": np.array(["x", "yy"])}

    return cached_arrays("things", version, ("a", "names"), make)


def test_made_once_and_by_version(made):
    for _ in range(2):
        found = arrays(made)
        assert found["a"].tolist() == [0, 1, 2, 3, 4] and found["names"].tolist() == ["x", "yy"]
        assert type(found["a"]) is np.ndarray and found["a"].flags.writeable
    assert len(made) == 1
    arrays(made, "2")
    assert len(made) == 2


def test_a_change_stays_in_the_process(made):
    arrays(made)
    arrays(made)["a"][0] = 9
    assert arrays(made)["a"][0] == 0


@pytest.mark.parametrize("damage", ["missing", "short", "pickled"])
def test_what_is_not_whole_is_made_again(made, damage):
    arrays(made)
    file = cache_root() / "things" / "1" / "a.npy"
    if damage == "missing":
        file.unlink()
    elif damage == "short":
        file.write_bytes(file.read_bytes()[:-3])
    else:
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    assert arrays(made)["a"].tolist() == [0, 1, 2, 3, 4]
    assert arrays(made)["a"].tolist() == [0, 1, 2, 3, 4]
    assert len(made) == 2
    assert [path.name for path in (cache_root() / "things").iterdir()] == ["1"]


def test_a_user_without_a_home_pays_with_time_only(made, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)

    def nowhere():
        raise RuntimeError("no home")

    monkeypatch.setattr("pathlib.Path.home", nowhere)
    assert arrays(made)["a"].tolist() == [0, 1, 2, 3, 4]


def test_what_a_kill_left_is_removed_later(made):
    arrays(made)
    left = cache_root() / "things" / f"2.{'a' * 32}"
    left.mkdir()
    arrays(made, "3")
    assert left.exists()
    os.utime(left, (0, 0))
    arrays(made, "4")
    assert not left.exists()


def test_a_place_that_cannot_be_written_costs_time_only(made, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert arrays(made)["a"].tolist() == [0, 1, 2, 3, 4]
