"""Curation in parts: equal bytes from every engine and after a kill, what a changed setting repeats, a document's path."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from curating import collected, curated, digest, digests
from engines_for_tests import needs_ray, sbatch  # noqa: F401

from puna.core.errors import InputError, Preempted
from puna.core.explain import why
from puna.core.graph import Source, build_graph
from puna.core.recipe import recipe_from_data
from puna.core.stage import local_artifact, local_context
from puna.data import curate, facts
from puna.data.columns import read_layout, read_shard_table, shard_paths
from puna.data.engines import processes
from puna.data.lookup import find, trace

PARTS = ("docs.facts", "docs.duplicates", "docs.signals", "docs")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    collected(root / "pages", seed=5, sources=[{"world": {"pages": 160}}], pages_per_shard=25)
    curated(root / "pages", root / "docs", engine="serial", workers=1)
    return root


@pytest.mark.parametrize("engine", ["processes", "ray", "slurm", "small partitions"])
@pytest.mark.usefixtures("sbatch")
def test_every_engine_gives_the_same_bytes(world, tmp_path, engine, monkeypatch):
    if engine == "ray":
        needs_ray()
    monkeypatch.setattr(processes, "POOL_START_S", -1.0)  # a pool from the second shard on
    if engine == "small partitions":
        monkeypatch.setattr("puna.data.workforce.partition_count", lambda rows, row_bytes, engine: 5)
        engine = "serial"
    how = {"name": "slurm", "array_tasks": 1} if engine == "slurm" else engine
    curated(world / "pages", tmp_path / "docs", engine=how, workers=2)
    assert digests(tmp_path / "docs") == digests(world / "docs")


def test_a_stop_keeps_what_is_done(world, tmp_path):
    ctx = local_context(tmp_path / "facts", inputs=[local_artifact(world / "pages", "pages")])
    calls = iter([False, True, *[False] * 100])
    ctx.stopping = lambda: next(calls)
    with pytest.raises(Preempted):
        facts.run(facts.Settings(engine="serial"), ctx)
    done = sorted(path.name for path in (tmp_path / "facts.scratch" / "facts").iterdir())
    assert done == ["00000.parquet", "00001.parquet"]
    before = [(tmp_path / "facts.scratch" / "facts" / name).stat().st_mtime_ns for name in done]
    facts.run(facts.Settings(engine="serial"), ctx)
    assert [(tmp_path / "facts" / "facts" / name).stat().st_mtime_ns for name in done] == before
    assert pq.read_table(tmp_path / "facts" / "facts").equals(pq.read_table(world / "docs.facts" / "facts"))


def test_killed_anywhere_and_run_again_gives_the_same_bytes(world, tmp_path):
    command = [
        sys.executable,
        "-c",
        "from puna.cli import main; main()",
        "run",
        "data.curate",
        "--input",
        f"pages={world / 'pages'}",
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def start(out: Path) -> subprocess.Popen[bytes]:
        words = [*command, "--out", str(out), "workers=2", "--json"]
        return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, start_new_session=True)

    assert start(tmp_path / "whole").wait(120) == 0
    expected = json.loads((tmp_path / "whole" / "artifact.json").read_text())["digest"]
    kills = 0
    for marker in ("docs.parts/*facts.scratch/facts/00001.parquet", "docs.parts/*duplicates*", "docs.scratch/counts/00000.json"):
        job = start(tmp_path / "docs")
        while job.poll() is None and not list(tmp_path.glob(marker)):
            time.sleep(0.01)
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            kills += 1
        job.wait()
    assert kills >= 2
    assert start(tmp_path / "docs").wait(120) == 0
    assert json.loads((tmp_path / "docs" / "artifact.json").read_text())["digest"] == expected
    assert not (tmp_path / "docs.parts").exists()


def recipe(**settings):
    return recipe_from_data(
        {
            "name": "r",
            "stages": {
                "pages": {"uses": "data.collect", "sources": [{"world": {"pages": 40}}]},
                "docs": {"uses": "data.curate", "from": "pages", "engine": "serial", "workers": 1, **settings},
            },
        },
        "test",
    )


def reruns(root: Path, **settings) -> tuple[list[str], list[str]]:
    """Which parts a changed setting makes again, by the identities of the graph, and the lines of `why`."""
    found = {name: why(recipe(**settings), build_graph(recipe(**settings)), root, name) for name in PARTS}
    return [name for name in PARTS if found[name][0].state != "finished"], found["docs"][0].lines()


def test_a_changed_threshold_repeats_only_what_hangs_on_it(tmp_path):
    from puna.core.run import up

    class Silent:
        def event(self, event):
            pass

        def close(self):
            pass

    def run(**settings):
        return up(recipe(**settings), build_graph(recipe(**settings)), tmp_path, cores=1, listener=Silent())

    assert run().made == ["pages", *PARTS]
    stricter, lines = reruns(tmp_path, general={"min_words": 60})
    assert stricter == ["docs"] and any("settings.general.min_words: 20 -> 60" in line for line in lines)
    assert reruns(tmp_path, redact=False)[0] == ["docs"]
    assert reruns(tmp_path, engine="processes", workers=7)[0] == []
    assert reruns(tmp_path, minhash={"threshold": 0.7})[0] == ["docs.duplicates", "docs.signals", "docs"]
    assert reruns(tmp_path, lines={"min_letters": 9})[0] == list(PARTS)
    outcome = run(general={"min_words": 60})
    assert outcome.made == ["docs"] and outcome.reused == ["pages", *PARTS[:3]]


def test_rows_of_all_parts_belong_together(world):
    layout = read_layout(world / "docs.facts")
    pages = shard_paths(world / "pages" / "shards")
    assert layout.documents == 160 and layout.names == tuple(path.name for path in pages)
    for path in pages:
        ids = [row["id"] for row in read_shard_table(path, ["id"])]
        for part, folder in (("docs.facts", "text"), ("docs.facts", "facts"), ("docs.duplicates",) * 2, ("docs.signals",) * 2):
            shard = world / part / folder.removeprefix("docs.") / path.name
            assert [row["id"] for row in read_shard_table(shard, ["id"])] == ids
        written = [
            row["id"]
            for name in ("annotations", "dropped")
            for row in read_shard_table(world / "docs" / name / path.name, ["id"])
        ]
        assert sorted(written) == sorted(ids)


def test_dropped_documents_keep_signals_and_what_stands_for_them(world):
    dropped = [row for path in shard_paths(world / "docs" / "dropped") for row in read_shard_table(path)]
    assert all(row["words"] is not None and row["lines_removed"] is not None for row in dropped)
    copies = [row for row in dropped if row["reason"].endswith("_duplicate")]
    assert len(copies) >= 6 and all(row["duplicate_of"] and row["duplicate_of"] != row["id"] for row in copies)
    assert all(row["similarity"] >= 0.8 for row in copies if row["reason"] == "near_duplicate")
    assert not any(row["duplicate_of"] for row in dropped if row not in copies)
    truth = {row["id"]: row for row in read_shard_table(world / "pages" / "truth.parquet")}
    for row in copies:
        pair = {row["id"], row["duplicate_of"]}
        members = pair | {json.loads(truth[name]["detail"]).get("of") for name in pair if truth[name]["fault"]}
        assert pair <= members and any(truth[name]["fault"] == row["reason"] for name in pair)
    clusters = read_shard_table(world / "docs.duplicates" / "clusters.parquet")
    counted = {
        kind: sum(row["size"] - 1 for row in clusters if row["kind"] == kind) for kind in ("url_duplicate", "near_duplicate")
    }
    assert counted == {kind: sum(row["reason"] == kind for row in copies) for kind in counted}


def test_the_path_of_a_document(world):
    parts = [world / name for name in PARTS]
    dropped = next(
        row for path in shard_paths(world / "docs" / "dropped") for row in read_shard_table(path) if row["duplicate_of"]
    )
    [story] = trace(*parts, dropped["id"])
    assert story["decision"]["reason"] == story["duplicates"]["reason"] == dropped["reason"]
    assert story["duplicates"]["duplicate_of"] == dropped["duplicate_of"] and story["output_row"] is None
    kept = read_shard_table(world / "docs" / "documents" / "00003.parquet")
    for row, document in enumerate(kept):
        assert find(parts[0], document["id"]) == [(3, read_layout(parts[0]).place(find_number(parts[0], document["id"]))[1])]
        [story] = [story for story in trace(*parts, document["url"]) if story["id"] == document["id"]]
        assert (story["shard"], story["output_row"]) == ("00003.parquet", row) and story["decision"]["keep"]
        assert story["signals"]["words"] == story["decision"]["words"]
    address = kept[0]["url"].replace("https://", "http://www.") + "#part"
    assert kept[0]["id"] in [story["id"] for story in trace(*parts, address)]
    with pytest.raises(InputError, match="no document has"):
        trace(*parts, "nothing")


def find_number(folder: Path, name: str) -> int:
    ids = [row["id"] for path in shard_paths(folder / "facts") for row in read_shard_table(path, ["id"])]
    return ids.index(name)


def test_a_score_that_is_not_there_is_one_message(world, tmp_path):
    given = {
        name: local_artifact(world / name, kind) for name, kind in zip(PARTS[:3], ("facts", "duplicates", "signals"), strict=True)
    }
    ctx = local_context(tmp_path / "docs", inputs=[local_artifact(world / "pages", "pages"), *given.values()])
    with pytest.raises(InputError, match=r"no classifier gave a score 'quality\.good'"):
        curate.run(curate.Settings(scores={"quality.good": 0.5}, engine="serial"), ctx)


def test_classifiers_go_to_the_signals():
    parts = curate.expand("docs", curate.Settings(), [Source("pages", "pages"), Source("judge", "classifier")])
    assert (
        parts["docs.facts"]["from"] == ["pages"]
        and "judge" in parts["docs.signals"]["from"]
        and "judge" not in parts["docs"]["from"]
    )


MEMORY = """
import resource, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from curating import curated
started = time.process_time()
curated(Path(sys.argv[1]), Path(sys.argv[2]), engine={"name": "serial", "partition_mb": 1}, workers=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, time.process_time() - started)
"""


@pytest.mark.slow
def test_memory_and_time_of_a_document_do_not_grow_with_the_corpus(tmp_path):
    peaks, seconds = [], []
    for pages in (250, 1500, 3000, 6000):  # the first fills caches of compiled code
        root = tmp_path / str(pages)
        collected(root / "pages", sources=[{"world": {"pages": pages}}], pages_per_shard=250)
        words = [sys.executable, "-c", MEMORY, str(root / "pages"), str(root / "docs"), str(Path(__file__).parent)]
        peak, cpu = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
        peaks.append(int(peak))
        seconds.append(float(cpu))
    print("peak MB of 1500, 3000 and 6000 pages:", peaks[1:], "CPU seconds:", seconds[1:])
    assert peaks[3] < 1.15 * peaks[1] and peaks[3] < 600, peaks
    assert (seconds[3] - seconds[2]) / 3000 < 1.2 * (seconds[2] - seconds[1]) / 1500, seconds


def test_blocked_pages_keep_their_reason_and_stand_for_nothing(tmp_path):
    """Two pages of a blocked host at one address each, and one good page that must not count as a copy of them."""
    (tmp_path / "list.txt").write_text("bad.example\n")
    text = "The harbour opens at six in the morning and the boats come back before the bells of the old church ring at noon. " * 2
    urls = ("https://bad.example/a", "https://good.example/a", "https://bad.example/b")
    rows = [json.dumps({"url": url, "text": text}) for url in urls]
    (tmp_path / "pages.jsonl").write_text("\n".join(rows) + "\n")
    source = [{"path": str(tmp_path / "pages.jsonl"), "licence": "CC0-1.0"}]
    _, pages = collected(tmp_path / "pages", sources=source, block={"lists": [str(tmp_path / "list.txt")]})
    summary = curated(pages, tmp_path / "documents", general={"min_words": 5})
    assert summary["dropped"] == {"blocked": 2} and summary["documents"] == 1


def test_a_failure_after_the_folders_were_taken_loses_no_document(tmp_path, monkeypatch):
    """The store throws a half-made artifact away and keeps its scratch folder, whose marks must not pass for work done."""
    _, pages = collected(tmp_path / "pages", sources=[{"world": {"pages": 60}}])
    curated(pages, tmp_path / "whole")
    monkeypatch.setattr(curate, "write_overview", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        curated(pages, tmp_path / "documents")
    monkeypatch.undo()
    for made in set(tmp_path.glob("documents*")) - {tmp_path / "documents.scratch"}:
        shutil.rmtree(made)
    curated(pages, tmp_path / "documents")
    assert digest(tmp_path / "documents") == digest(tmp_path / "whole")
