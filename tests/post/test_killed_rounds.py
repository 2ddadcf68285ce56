"""kill -9 in each step of a round and start again: the same manifest and the same digests as a run nobody disturbed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from post_toys import base_artifact, toy_tasks

from puna.core import store
from puna.core.forkserver import PRELOAD, ForkServer
from puna.core.graph import build_graph
from puna.core.recipe import recipe_from_data
from puna.core.run import Outcome, up
from puna.tokenizer.dialog import write_rows

pytestmark = pytest.mark.cores

STEPS, PARTS, FILES = ".scratch/train/step-[2-9]*", ".scratch/samples*-1.jsonl", ".partial/*"
MOMENTS = {  # what lies on disk when a stage is killed: a state to go on from where the stage keeps one, else its first file
    "chat.sft": STEPS, "chat.control": STEPS, "chat.r1.samples": PARTS, "chat.r1.sft-a": STEPS, "chat.r1.sft-b": STEPS,
    "chat.r1.average": FILES, "chat.r1.pairs": PARTS, "chat.r1.dpo": STEPS, "chat.r1.reward": STEPS, "chat": FILES,
}  # fmt: skip
ROUND = {"uses": "post.rounds", "from": ["base", "tasks"], "rounds": 1, "gold_steps": 40, "rs_steps": 40, "lr": 1e-2,
         "batch_tokens": 512, "prompts": 30, "dpo_prompts": 30, "prompts_of": 60, "dpo_passes": 8.0, "least_pairs": 3,
         "reward_steps": 8, "reward_least_pairs": 2, "dev": 30, "max_tokens": 8,
         "variants": [{"lr": 1e-2}, {"lr": 7e-3, "seed_offset": 1}]}  # fmt: skip


class Stages(ForkServer):
    """A server of stages that knows the process of each."""

    def __init__(self, log: Path):
        super().__init__(log, preload=(*PRELOAD, "toy_pace"))
        self.pids: dict[str, int] = {}

    def messages(self):
        found = super().messages()
        self.pids |= {message["name"]: message["started"] for message in found or [] if "started" in message}
        return found


class Silent:
    def event(self, event):
        pass


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    """`rounds(folder)` runs the base, the tasks and one round in a folder, as `puna up` does."""
    given = tmp_path_factory.mktemp("given")
    base_artifact(given / "base")
    write_rows(given / "tasks.jsonl", toy_tasks(114))
    stages = {
        "base": {"uses": "post.start", "path": str(given / "base"), "licence": "MIT"},
        "tasks": {
            "uses": "post.collect",
            "sources": [str(given / "tasks.jsonl")],
            "gold": 24,
            "prompts": 60,
            "dev": 30,
            "test": 0,
        },
        "chat": ROUND,
    }
    server = Stages(given / "server.txt")
    recipe = recipe_from_data({"name": "kill", "seed": 7, "stages": stages}, "test")

    def go(root: Path) -> Outcome:
        return up(recipe, build_graph(recipe), root, cores=2, listener=Silent(), server=server)

    go.server = server
    yield go
    server.close()


def kill_when(server: Stages, name: str, root: Path, moment: str, ended: threading.Event) -> None:
    """SIGKILL to the process of a stage once its files have come to a moment."""
    while not ended.is_set():
        if name in server.pids and any(root.glob(f"store/*/{name}-????????{moment}")):
            os.kill(server.pids[name], signal.SIGKILL)
            return
        time.sleep(0.001)


def killed_once(rounds, name: str, root: Path) -> None:
    """Run until the stage is killed; one that had ended before the signal came, or beside another, is made again."""
    for _ in range(20):
        for artifact in store.artifacts(root):
            if artifact.name == name:
                shutil.rmtree(artifact.path)
        ended = threading.Event()
        rounds.server.pids.clear()
        watch = threading.Thread(target=kill_when, args=(rounds.server, name, root, MOMENTS[name], ended))
        watch.start()
        outcome = rounds(root)
        ended.set()
        watch.join()
        if outcome.state == "failed":
            assert f"stage '{name}' was killed by signal 9" in outcome.error.what
            return
    raise AssertionError(f"{name} was always faster than the signal")


def test_killed_in_each_step_of_a_round_and_started_again_leaves_the_same_manifest(rounds, tmp_path):
    calm = rounds(tmp_path / "calm").artifacts
    assert set(calm) == {"base", "tasks", *MOMENTS}
    for name in ("chat.r1.reward", "chat.r1.dpo"):
        assert not calm[name].summary().get("skipped"), "a stage that hands its input on has no state to lose"
    root = tmp_path / "rough"
    for name in MOMENTS:
        killed_once(rounds, name, root)
        for artifact in store.artifacts(root):
            assert store.changed_files(artifact) == [], "what has a record is whole"
    outcome = rounds(root)
    assert outcome.state == "finished"
    assert {name: a.digest for name, a in outcome.artifacts.items()} == {name: a.digest for name, a in calm.items()}
    manifests = [(made["chat"].path / "rounds.json").read_text() for made in (calm, outcome.artifacts)]
    assert manifests[0] == manifests[1]
    assert {part["output"] for part in json.loads(manifests[0])["rounds"][0]["parts"].values()} <= {
        a.digest for a in calm.values()
    }
    left = [path.name for path in root.glob("store/*/*") if path.name.endswith((store.PARTIAL, store.SCRATCH))]
    assert left == []
