"""One row by a Llama teacher through SFT, averaging, FP8 and distillation: the duty arrives everywhere, and goes with the row."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from post_toys import toy_model, toy_tasks, toy_tokenizer
from typer.testing import CliRunner

from puna.cli import app
from puna.core import store
from puna.core.alone import run_alone
from puna.core.lineage_graph import Graph, of_store
from puna.core.stage import Artifact
from puna.model.checkpoint import save_model
from puna.report.release.bundle import release
from puna.report.release.check import check
from puna.report.release.refusals import ReleaseRefused

LLAMA, OLDER = "meta-llama/Llama-3.1-8B-Instruct", "Llama-2-7b-chat"
TRAINING = ["steps=2", "dev=4", "max_tokens=2", "batch_tokens=256", "lr=1e-3"]


def dialog(number: int, teacher: str = "") -> dict:
    """A row as people share them, with the model that wrote it."""
    said = [{"role": "user", "content": f"abc {number}?"}, {"role": "assistant", "content": "yes"}]
    return {"messages": said, **({"teacher": teacher} if teacher else {})}


class Chain:
    """A store below `root`, filled stage by stage."""

    def __init__(self, root: Path):
        self.root = root
        for seed, name in enumerate(("base", "small")):
            save_model(toy_model(seed, layers=3), root / "given" / name, tokenizer=toy_tokenizer())
        tasks = [task.model_dump(mode="json") for task in toy_tasks(60)]
        self.file(root / "given" / "gold.jsonl", tasks)

    def file(self, path: Path, rows: list[dict]) -> Path:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def make(self, uses: str, name: str, inputs: dict[str, Artifact] | None = None, *overrides: str) -> Artifact:
        paths = {label: artifact.path for label, artifact in (inputs or {}).items()}
        return run_alone(uses, self.root / "store" / uses / name, paths, overrides, seed=7, cores=1, report=lambda event: None)

    def start(self, name: str, licence: str = "CC0-1.0") -> Artifact:
        return self.make("post.start", name, None, f"path={self.root / 'given' / name}", f"licence={licence}")

    def tasks(self, name: str, rows: list[dict], *overrides: str) -> Artifact:
        mix = self.file(self.root / "given" / f"{name}.jsonl", rows)
        sources = [{"path": str(self.root / "given" / "gold.jsonl"), "licence": "CC0-1.0"},
                   {"path": str(mix), "licence": "CC-BY-4.0", "name": "mix"}]  # fmt: skip
        sizes = ("gold=10", "prompts=20", "dev=4", "test=8")
        return self.make("post.collect", name, None, f"sources={json.dumps(sources)}", *sizes, *overrides)

    def whole(self, tasks: Artifact) -> dict[str, Artifact]:
        """SFT twice, their average in FP8, and students of its answers and of its logits."""
        base, small = self.start("base"), self.start("small")
        made = {"a": self.make("post.sft", "a", {"model": base, "tasks": tasks}, *TRAINING),
                "b": self.make("post.sft", "b", {"model": base, "tasks": tasks}, *TRAINING, "seed_offset=1")}  # fmt: skip
        both = {"m1": made["a"], "m2": made["b"], "tasks": tasks}
        average = self.make("post.average", "average", both, "dev=4", "max_tokens=2")
        quick = ("tokens=64", "seq_len=32", "continuations=0", "random_model=null")
        fp8 = self.make("infer.quantize", "fp8", {"model": average}, *quick)
        samples = self.make("post.reject", "samples", {"model": average, "tasks": tasks}, "k=1", "max_tokens=2", "raw=true")
        plain = self.make("post.collect", "plain", None, f"sources=[{self.root / 'given' / 'gold.jsonl'}]",
                          "gold=10", "prompts=20", "dev=4", "test=8")  # fmt: skip
        student = self.make("post.sft", "student", {"model": small, "tasks": plain, "samples": samples}, *TRAINING, "samples=raw")
        logits = self.make("post.logits", "logits", {"m1": small, "m2": average, "tasks": plain}, *TRAINING)
        return {**made, "average": average, "fp8": fp8, "samples": samples, "student": student, "logits": logits}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    chain = Chain(tmp_path_factory.mktemp("herd"))
    mixed = chain.tasks("tasks", [*map(dialog, range(20)), dialog(99, LLAMA)])
    return SimpleNamespace(store=chain, tasks=mixed, models=chain.whole(mixed))


def puna(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def refusal(model: Artifact, dst: Path, **about: object) -> ReleaseRefused:
    with pytest.raises(ReleaseRefused) as refused:
        release(model, [], dst, run="test", **{"name": model.name, **about})
    assert not dst.exists() and not list(dst.parent.glob(dst.name + "*"))
    return refused.value


def test_one_row_reaches_sft_average_fp8_and_both_students(chain):
    for name in ("a", "b", "average", "fp8", "samples", "student", "logits"):
        assert "llama-name" in chain.models[name].record["obligations"], name
    rows = [row for row in chain.models["fp8"].record["lineage"] if row["source"] == LLAMA]
    assert rows == [{"source": LLAMA, "licence": "LicenseRef-llama3.1", "rows": 1, "use": "outputs", "role": "teacher"}]


def test_weights_are_outputs_for_those_who_only_learn_from_them(chain):
    uses = {
        name: {row["source"]: row["use"] for row in chain.models[name].record["lineage"] if "role" not in row and "use" in row}
        for name in ("fp8", "samples", "student", "logits")
    }
    assert uses == {"fp8": {"base": "weights"}, "samples": {"base": "outputs"},
                    "student": {"base": "outputs", "small": "weights"},
                    "logits": {"base": "outputs", "small": "weights"}}  # fmt: skip


def test_the_path_ends_at_the_row(chain):
    row = next(json.loads(line) for line in (chain.tasks.path / "train.jsonl").read_text().splitlines() if LLAMA in line)
    told = puna("why-licence", chain.models["student"].path, "--duty", "llama-name")
    assert told.exit_code == 0 and f"1 row written by {LLAMA}" in told.stdout and f"such as row {row['id']}" in told.stdout
    told = json.loads(puna("why-licence", chain.models["student"].path, "--json").stdout)
    assert {entry["duty"] for entry in told} == {"attribution", "llama-name"}
    assert "not owed" in puna("why-licence", chain.models["student"].path, "--duty", "no-training").stdout
    assert puna("why-licence", chain.models["student"].path, "--duty", "llama-nam").exit_code != 0


def test_affected_names_what_is_made_again_in_order(chain):
    found = json.loads(puna("affected", LLAMA, "--dir", chain.store.root, "--json").stdout)
    stages = [row["stage"] for row in found]
    assert {"post.collect", "post.sft", "post.average", "infer.quantize", "post.reject", "post.logits"} == set(stages)
    assert len(found) == 8 and stages[0] == "post.collect"  # the plain tasks and the two bases are not among them
    places = [Path(row["path"]).name for row in found]
    assert places.index("average") < places.index("samples") < places.index("student")
    assert {node.stage for node in of_store(chain.store.root).affected("small")} == {"post.start", "post.sft", "post.logits"}


def test_release_wants_the_name_and_verifies_elsewhere(chain, tmp_path):
    reason = refusal(chain.models["fp8"], tmp_path / "out", name="quick").reasons
    assert [r.what for r in reason] == ["the name 'quick' must begin with \"Llama\""] and "Llama-quick" in reason[0].fix
    assert reason[0].paths[0][0] == "quantize" and LLAMA in reason[0].paths[0][-1] and "such as row" in reason[0].paths[0][-1]
    told = puna("release", chain.models["fp8"].path, tmp_path / "out", "--name", "Llama-quick", "--json")
    assert told.exit_code == 0 and json.loads(told.stdout)["obligations"] == ["attribution", "llama-name"]
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    assert check(tmp_path / "elsewhere") == []
    assert "Built with Llama\nLlama 3.1 is licensed under" in (tmp_path / "elsewhere" / "NOTICE").read_text()
    assert "**Built with Llama**" in (tmp_path / "elsewhere" / "README.md").read_text()


def test_a_release_or_a_stages_model_taken_up_again_brings_its_sources(chain, tmp_path):
    release(chain.models["a"], [], tmp_path / "tuned", name="Llama-tuned", run="test")
    again = {"bundle": tmp_path / "tuned", "stage": chain.models["a"].path}
    for name, path in again.items():
        made = chain.store.make("post.start", name, None, f"path={path}")
        assert "llama-name" in made.record["obligations"], name
        assert any(row["source"] == LLAMA and row["role"] == "teacher" for row in made.record["lineage"]), name
    said = chain.store.make("post.start", "said", None, f"path={tmp_path / 'tuned'}", "licence=MIT")
    own = [row for row in said.record["lineage"] if row["source"] == "tuned"]
    assert [row["licence"] for row in own] == ["MIT"] and "llama-name" in said.record["obligations"]


def test_without_the_row_the_duty_is_gone(chain, tmp_path):
    clean = chain.store.tasks("clean", list(map(dialog, range(20))))
    base = store.read(chain.store.root / "store" / "post.start" / "base")
    model = chain.store.make("post.sft", "clean", {"model": base, "tasks": clean}, *TRAINING)
    assert model.record["obligations"] == ["attribution"]
    assert release(model, [], tmp_path / "out", name="quick", run="test")["obligations"] == ["attribution"]
    assert check(tmp_path / "out") == []


def test_older_and_unknown_teachers_are_refused(chain, tmp_path):
    older = chain.store.tasks("older", [*map(dialog, range(20)), dialog(99, OLDER), dialog(98, "mystery")])
    base = store.read(chain.store.root / "store" / "post.start" / "base")
    model = chain.store.make("post.sft", "older", {"model": base, "tasks": older}, *TRAINING)
    reasons = {r.what: r for r in refusal(model, tmp_path / "out").reasons}
    assert set(reasons) == {"the licence of a source is not known",
                            "a teacher's licence forbids that its outputs improve another model"}  # fmt: skip
    assert "written by mystery [unknown]" in reasons["the licence of a source is not known"].paths[0][-1]
    forbidden = reasons["a teacher's licence forbids that its outputs improve another model"].paths[0]
    assert forbidden[:2] == ("sft", "collect") and "Llama-2-7b-chat [LicenseRef-llama2]" in forbidden[2]
    told = puna("release", model.path, tmp_path / "out")
    assert told.exit_code != 0 and not (tmp_path / "out").exists()


def test_the_recipe_may_say_what_a_teacher_allows(chain):
    made = chain.store.tasks("said", [*map(dialog, range(20)), dialog(98, "mystery")], "teachers={mystery: MIT}")
    assert made.record["obligations"] == ["attribution"]
    graph = Graph()
    key = graph.add(made)
    assert {"source": "mystery", "licence": "MIT", "rows": 1, "use": "outputs", "role": "teacher"} in graph.sources(key)
