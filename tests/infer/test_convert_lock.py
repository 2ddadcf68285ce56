"""Two conversions to one destination: the second is refused and leaves the first alone; a killed one holds nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_model import SHARD, lively

from puna.core import lease
from puna.core.errors import InputError
from puna.core.lease import Lease, is_held
from puna.infer.convert import convert
from puna.model.checkpoint import save_model

SLOW = """
import sys, time
from pathlib import Path
from puna.infer.convert import convert
from puna.model.weight_file import WeightWriter

put, begun, go = WeightWriter.put, Path(sys.argv[3]), Path(sys.argv[4])
def waiting(writer, name, first, rows):
    begun.touch()
    while not go.exists():
        time.sleep(0.01)
    put(writer, name, first, rows)
WeightWriter.put = waiting
convert(Path(sys.argv[1]), Path(sys.argv[2]), "fp8", max_shard_bytes=40_000)
"""


@pytest.fixture
def source(tmp_path):
    save_model(lively(), tmp_path / "src", max_shard_bytes=SHARD)
    return tmp_path / "src"


@pytest.fixture
def first(source, tmp_path):
    """A process in the middle of converting to `out`; it goes on once `go` exists."""
    paths = [source, tmp_path / "out", tmp_path / "begun", tmp_path / "go"]
    process = subprocess.Popen([sys.executable, "-c", SLOW, *map(str, paths)])
    until = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert process.poll() is None and time.monotonic() < until, "the first conversion did not begin"
        time.sleep(0.02)
    yield process
    process.kill()
    process.wait()


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_the_second_is_refused_and_the_first_ends_whole(source, tmp_path, first):
    with pytest.raises(InputError, match=f"the destination is in use by process {first.pid} on ") as caught:
        convert(source, tmp_path / "out", "bf16", max_shard_bytes=SHARD)
    assert caught.value.where == str(tmp_path / "out.lock") and "another destination" in caught.value.fix
    assert caught.value.exit_code == 2 and list((tmp_path / "out.partial").glob("*.part"))
    (tmp_path / "go").touch()
    assert first.wait(60) == 0
    convert(source, tmp_path / "due", "fp8", max_shard_bytes=SHARD)
    assert files(tmp_path / "out") == files(tmp_path / "due")
    assert {path.name for path in tmp_path.iterdir()} == {"src", "out", "due", "begun", "go"}


def test_the_lock_of_a_killed_conversion_does_not_block(source, tmp_path, first):
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert (tmp_path / "out.lock").exists() and not is_held(tmp_path / "out.lock")
    convert(source, tmp_path / "out", "fp8", max_shard_bytes=SHARD)
    convert(source, tmp_path / "due", "fp8", max_shard_bytes=SHARD)
    assert files(tmp_path / "out") == files(tmp_path / "due") and not list(tmp_path.glob("out.*"))


def test_one_that_ended_while_the_next_waited_is_not_overwritten(source, tmp_path, monkeypatch):
    def ended_meanwhile(self, what, patience_s, fix):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").touch()

    monkeypatch.setattr(Lease, "take_or_refuse", ended_meanwhile)
    with pytest.raises(InputError, match="not empty"):
        convert(source, tmp_path / "out", "fp8")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs"]


def test_a_held_lease_beats_and_is_freed_after_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_S", 0.01)
    path = tmp_path / "l"
    with pytest.raises(ValueError, match="inside"), Lease(path).held("it", fix="wait"):
        os.utime(path, (1, 1))
        until = time.monotonic() + 10
        while path.stat().st_mtime == 1:
            assert time.monotonic() < until, "no beat came"
            time.sleep(0.01)
        raise ValueError("inside")
    assert not path.exists()
