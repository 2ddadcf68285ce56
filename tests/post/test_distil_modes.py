"""The modes of distillation beyond text and top k: their graph, pairs of two models, own rounds as a control, what each spent."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from post_toys import base_artifact, finished, run_graph, run_stage, tasks_artifact, toy_tasks, toy_tokenizer
from pydantic import ValidationError

from puna.core.errors import InputError
from puna.core.graph import Source
from puna.core.modules import load_stage
from puna.post import distil, rounds
from puna.post.checkpoints import POLICY
from puna.post.gate import Verdict, read_verdict, write_verdict
from puna.post.origin import handed_on
from puna.tokenizer.dialog import Dialog, MessageRow, Preference, Provenance, Sample, read_rows, write_rows

TOKENIZER = toy_tokenizer()
SOURCES = [Source("student", "model"), Source("teacher", "model"), Source("tasks", "tasks")]
NEW = ("online-forward", "online-reverse", "online-jsd", "on-policy", "preferences")


def expanded(**settings) -> dict[str, dict]:
    return distil.expand("small", distil.Settings(**settings), SOURCES)


# ---- the graph ----------------------------------------------------------------------------------------------------------


def test_by_default_nothing_new_is_run():
    assert list(expanded()) == ["small.samples", "small.gold", "small.verified", "small.unverified", "small.logits",
                                "small.verified-logits", "small"]  # fmt: skip
    assert expanded()["small.samples"]["pairs_per_prompt"] == 0
    with pytest.raises(ValidationError, match="cap"):  # without an accepted answer there is nothing to be taught
        distil.Settings(cap=0)


def test_every_mode_reads_what_it_says_for_as_many_steps():
    stages = expanded(modes=NEW, steps=40, own_from=0.5)
    assert {name: stages[f"small.{name}"]["divergence"] for name in NEW[:4]} == {
        "online-forward": "forward", "online-reverse": "reverse", "online-jsd": "jensen-shannon", "on-policy": "reverse",
    }  # fmt: skip
    assert {stages[f"small.{name}"]["steps"] for name in ("gold", *NEW[:4])} == {40}
    assert all(stages[f"small.{name}"]["from"] == ["student", "teacher", "tasks"] for name in NEW[:4])
    own = stages["small.on-policy"]["own"]
    assert (own["first_step"], own["share"], own["prompts"]) == (20, 0.5, {"start": 9000, "count": 1500, "of": 12000})
    assert stages["small.best"]["from"] == ["small.gold", *(f"small.{name}" for name in NEW[:4])]
    assert stages["small.tries"]["from"] == ["small.best", "tasks"]
    assert stages["small.pairs"]["from"] == ["small.best", "tasks", "small.samples", "small.tries"]
    assert stages["small.preferences"]["from"] == ["small.best", "small.pairs", "tasks"]
    teachers = expanded(modes=("preferences",), rejected="teacher")
    assert teachers["small.preferences"]["from"] == ["small.best", "small.samples", "tasks"]
    assert teachers["small.samples"]["pairs_per_prompt"] == 1 and "small.tries" not in teachers


def test_own_rounds_are_a_loop_of_the_student_alone():
    stages = expanded(
        modes=("verified",), steps=30, dev=70, precision="bf16", own_rounds={"rounds": 1, "rs_steps": 25, "dev": 60}
    )
    entry = stages["small.own"]
    assert (entry["uses"], entry["from"], entry["rs_steps"]) == ("post.rounds", ["student", "tasks"], 25)
    given = {key: value for key, value in entry.items() if key not in ("uses", "from")}
    own = rounds.expand("small.own", rounds.Settings(**given), entry["from"])
    assert "small.own.r1.dpo" in own and "small.own.r2.dpo" not in own
    assert all("teacher" not in entry["from"] and "small.samples" not in entry["from"] for entry in own.values())
    assert own["small.own.r1.sft-a"]["steps"] == 25 and own["small.own.r1.sft-a"]["dev"] == 60
    assert own["small.own.r1.sft-a"]["precision"] == "bf16" and own["small.own"]["batch_tokens"] == 1024
    assert expanded(steps=30, own_rounds={})["small.own"]["rs_steps"] == 30


def test_taught_rounds_are_the_own_ones_with_the_teachers_answers():
    stages = expanded(modes=("verified", "rounds"), own_rounds={"rounds": 1, "rs_steps": 25})
    own, taught = stages["small.own"], stages["small.rounds"]
    assert taught.pop("from") == [*own.pop("from"), "small.samples"] and taught == own
    with pytest.raises(InputError, match="needs the settings of the student's own rounds"):
        expanded(modes=("rounds",))


def test_every_sub_stage_takes_its_settings():
    for entry in expanded(modes=(*NEW, "rounds"), own_rounds={}).values():
        given = {key: value for key, value in entry.items() if key not in ("uses", "from")}
        assert set(given) <= load_stage(entry["uses"]).Settings(**given).model_fields_set


# ---- pairs of two models ------------------------------------------------------------------------------------------------


def answers_of(folder, name: str, rows: list[Sample], accepted: list[Dialog], policy: str):
    """A samples artifact."""
    folder = folder / name
    folder.mkdir()
    write_rows(folder / "samples.jsonl", rows)
    write_rows(folder / "accepted.jsonl", accepted)
    (folder / POLICY).write_text(json.dumps({"policy": policy, "ancestors": [policy]}))
    return finished(folder, "samples", name)


def answer(task, text: str, right: bool, ended: bool = True) -> Sample:
    ids = [*TOKENIZER.encode(text), *([TOKENIZER.eot_id] if ended else [])]
    return Sample(task_id=task.id, policy="s", temperature=1.0, seed=0, ids=ids, text=text, finished=ended,
                  scores={"verifier": float(right)})  # fmt: skip


def taught(task, text: str, check: str = "pass") -> Dialog:
    provenance = Provenance(source="toy", licence="CC0-1.0", parents=[task.id], checks={"verifier": check})
    return Dialog(id=task.id, messages=[*task.prompt, MessageRow(role="assistant", content=text)], provenance=provenance)


def test_a_pair_is_the_teachers_right_answer_over_the_students_wrong_one(tmp_path):
    base, tasks = base_artifact(tmp_path / "base"), tasks_artifact(tmp_path / "tasks", gold=4, prompts=6, dev=4)
    a, b, c, d = toy_tasks(10)[4:8]
    said = [taught(a, "yes"), taught(a, "oui"), taught(b, "no"), taught(c, "no", "no check")]
    teacher = answers_of(tmp_path, "right", [], said, "big")
    tries = [answer(a, "maybe", False), answer(a, "yes", True), answer(a, "ma", False, ended=False), answer(b, "no", True),
             answer(c, "maybe", False), answer(d, "maybe", False)]  # fmt: skip
    student = answers_of(tmp_path, "tries", tries, [], "small")
    made = run_stage(tmp_path, "post.contrast", "pairs", [base, tasks, teacher, student], pairs_per_prompt=3)
    assert made.summary() == {"prompts": 4, "student_wrong": 3, "teacher_right": 2, "pairs": 1}
    (pair,) = read_rows(made.path / "preferences.jsonl", Preference)
    assert [one.messages[0].content for one in pair.candidates] == ["yes", "maybe"] and pair.ranking == [0, 1]
    assert pair.context == a.prompt and (pair.provenance.teacher, pair.provenance.parents) == ("big", [a.id])
    assert json.loads((made.path / POLICY).read_text()) == {"policy": "big", "ancestors": ["big", "small"]}
    row = pq.read_table(made.path / "lineage.parquet").to_pylist()
    assert [(r["id"], r["part"], r["source"], r["teacher"], r["parents"]) for r in row] == [
        (pair.id, "preferences", pair.provenance.source, "big", [a.id])
    ]
    with pytest.raises(InputError, match="two samples inputs"):
        run_stage(tmp_path, "post.contrast", "one", [base, tasks, teacher])


def test_the_best_of_several_goes_on_unchanged(tmp_path):
    models = [base_artifact(tmp_path / name, seed=seed) for seed, name in enumerate("abc")]
    for model, value in zip(models, (0.2, 0.5, 0.5), strict=True):
        write_verdict(Verdict("accuracy", value, 10), model.path)
    made = run_stage(tmp_path, "post.best", "best", models)
    assert handed_on(made) == "b" and read_verdict(made.path).value == 0.5
    assert (made.path / "model.safetensors").read_bytes() == (models[1].path / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="no model to choose from"):
        run_stage(tmp_path, "post.best", "none", [])


# ---- a whole run --------------------------------------------------------------------------------------------------------


def test_what_beat_what_and_what_it_cost(tmp_path):
    large, tasks = base_artifact(tmp_path / "large", seed=2, dim=32, ffn_dim=64), tasks_artifact(tmp_path / "tasks", dev=20)
    common = {"lr": 1e-2, "batch_tokens": 512, "max_tokens": 6}
    teacher = run_stage(tmp_path, "post.sft", "teacher", [large, tasks], steps=30, **common)
    loop = {"rounds": 1, "gold_steps": 4, "rs_steps": 4, "reward": False, "variants": [{}], "prompts": 10, "dpo_prompts": 10,
            "least_pairs": 2}  # fmt: skip
    made = run_graph(tmp_path, "post.distil", "small", [base_artifact(tmp_path / "student", seed=3), teacher, tasks],
                     modes=("online-forward", "on-policy", "preferences", "rounds"), steps=12,
                     prompts=30, prompts_start=0, prompts_of=120, k=2, least_pairs=2, dev=20, own_from=0.25,
                     own_share=0.8, own_rounds=loop, **common)  # fmt: skip
    manifest = json.loads((made["small"].path / "distil.json").read_text())
    values = {mode: read_verdict(made[f"small.{mode}"].path).value for mode in manifest["runs"]}
    assert set(values) == {"gold", "online-forward", "on-policy", "preferences", "rounds"}
    assert manifest["rounds_over_own_rounds"]["difference"] == pytest.approx(
        values["rounds"] - read_verdict(made["small.own"].path).value, abs=1e-6
    )
    assert values[manifest["chosen"]] == max(values.values()) and handed_on(made["small"]) == f"small.{manifest['chosen']}"
    over = {mode: found["difference"] for mode, found in manifest["over_gold"].items()}
    assert over == {mode: pytest.approx(value - values["gold"], abs=1e-6) for mode, value in values.items() if mode != "gold"}
    own = read_verdict(made["small.own"].path).value
    assert manifest["over_own_rounds"]["difference"] == pytest.approx(max(values.values()) - own, abs=1e-6)
    start = manifest["preferences_start"]
    assert manifest["preferences_over_start"]["difference"] == pytest.approx(
        values["preferences"] - values[start.removeprefix("small.")], abs=1e-6
    )
    drawn = {part: sum(len(row.ids) for row in read_rows(made[f"small.{part}"].path / "samples.jsonl", Sample))
             for part in ("samples", "tries")}  # fmt: skip
    spent = manifest["spent"]
    assert set(spent) == set(values) - {"rounds"}
    assert spent["gold"] == {"steps": 12, "tokens": made["small.gold"].summary()["tokens"], "teacher_tokens": 0,
                             "sampled_by_teacher": 0, "sampled_by_student": 0}  # fmt: skip
    assert spent["online-forward"]["teacher_tokens"] == spent["online-forward"]["tokens"] > 0
    assert spent["on-policy"]["sampled_by_student"] == made["small.on-policy"].summary()["sampled_tokens"] > 0
    preferences = spent["preferences"]
    assert (preferences["sampled_by_teacher"], preferences["sampled_by_student"]) == (drawn["samples"], drawn["tries"])
    assert preferences["steps"] == made["small.preferences"].summary().get("steps", 0)
