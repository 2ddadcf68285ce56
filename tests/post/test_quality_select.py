"""Selection from end to end on a planted mix: what is found, what is written, what a changed limit repeats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from post_toys import base_artifact, run_graph, run_stage, tasks_artifact

from puna.core.errors import InputError
from puna.core.graph import Source
from puna.core.stage import local_artifact, local_context
from puna.data.columns import read_table
from puna.post.quality import scores, select
from puna.post.quality.explain import stories
from puna.post.quality.expression import names_in
from puna.post.quality.planted import score_planted
from puna.tokenizer.dialog import Dialog, read_rows

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def mix(tmp_path_factory):
    root = tmp_path_factory.mktemp("mix")
    tasks = run_stage(root, "post.collect", "tasks", [], sources=["world"], gold=60, prompts=80, dev=120, test=80)
    made = run_stage(root, "post.quality.planted", "mix", [tasks], rows=600)
    measured = run_stage(root, "post.quality.scores", "measured", [tasks, made], parts=["samples"])
    return root, [tasks, made, measured]


def chosen(mix, name: str, **settings):
    root, inputs = mix
    return run_stage(root, "post.quality.select", name, inputs, parts=["samples"], **settings)


def test_planted_faults_are_found_and_good_rows_kept(mix):
    found = json.loads((chosen(mix, "picked").path / "selection.json").read_text())
    for fault, row in found["planted"].items():
        if fault != "kept":
            assert row["recall"] >= 0.9 and row["precision"] >= 0.9 and row["planted"] > 20, fault
    assert found["planted"]["kept"]["recall"] > 0.75 and found["planted"]["kept"]["precision"] > 0.97
    left = [step["left"] for step in found["funnel"]]
    assert left == sorted(left, reverse=True) and left[-1] < left[0] / 1.5
    shown = found["predicates"]["unique"]["examples"]
    assert {row["passes"] for row in shown} == {True, False} and len(shown) == 6 and all(row["opening"] for row in shown)


def test_without_verifiers_wrong_answers_stay(mix):
    keep = select.KEEP.replace("verified and ", "").replace("(verified or reward or judge) and ", "")
    found = json.loads((chosen(mix, "blind", keep=keep).path / "selection.json").read_text())["planted"]
    assert found["wrong"]["recall"] < 0.2 and found["contaminated"]["recall"] == 1.0


def test_rows_stay_as_they_are_and_annotations_lie_beside_them(mix):
    made = chosen(mix, "beside")
    source = list(read_rows(mix[1][1].path / "accepted.jsonl", Dialog))
    assert list(read_rows(made.path / "rows.jsonl", Dialog)) == source
    notes = read_table(made.path / "annotations.parquet").to_pylist()
    assert [row["id"] for row in notes] == [row.id for row in source]
    kept = [row for row, note in zip(source, notes, strict=True) if note["keep"]]
    assert list(read_rows(made.path / "accepted.jsonl", Dialog)) == kept and len(kept) == made.summary()["kept"]
    for note in notes:
        assert note["keep"] == (note["reason"] == "")
        assert note["reward.value"] is None and note["reward.pass"] is None
        assert note["topic.pass"] == (note["topic.value"] >= note["topic.limit"])


def test_whose_text_it_is_travels_with_the_rows(mix, tmp_path):
    path = tmp_path / "samples"
    path.mkdir()
    (path / "accepted.jsonl").write_bytes((mix[1][1].path / "accepted.jsonl").read_bytes())
    (path / "policy.json").write_text(json.dumps({"policy": "p", "ancestors": ["a", "p"], "round": 1}))
    inputs = [mix[1][0], local_artifact(path, "samples"), mix[1][2]]
    made = run_stage(tmp_path, "post.quality.select", "chosen", inputs, parts=["samples"])
    assert json.loads((made.path / "policy.json").read_text())["ancestors"] == ["a", "p"]


def test_a_row_can_be_asked_why_it_is_out(mix):
    made = chosen(mix, "asked")
    note = next(row for row in read_table(made.path / "annotations.parquet").to_pylist() if row["reason"] == "unique")
    (story,) = stories(made.path, note["id"])
    assert story["reason"] == "unique" and not story["keep"] and story["text"]
    told = {row["name"]: row for row in story["predicates"]}
    assert told["unique"]["passes"] is False and told["unique"]["value"] >= 0.82
    (better,) = stories(made.path, told["unique"]["detail"])
    assert better["worth"] >= story["worth"]
    assert stories(made.path, "0" * 16) == []


def test_a_random_share_is_another_half_of_the_same_size(mix):
    best = chosen(mix, "half", keep="difficulty", share=0.5)
    drawn = chosen(mix, "drawn", keep="difficulty", share=0.5, order="random")
    assert best.summary()["kept"] == drawn.summary()["kept"] == best.summary()["rows"] // 2
    worth = [
        np.mean([r["worth"] for r in read_table(a.path / "annotations.parquet").to_pylist() if r["keep"]]) for a in (best, drawn)
    ]
    assert worth[0] > worth[1]
    ids = [{row.id for row in read_rows(a.path / "accepted.jsonl", Dialog)} for a in (best, drawn)]
    assert 0.2 < len(ids[0] & ids[1]) / len(ids[0]) < 0.9


def test_rewriting_keeps_rows_that_only_their_manner_drops(mix):
    plain, calm = chosen(mix, "dropping"), chosen(mix, "calming", rewrite=True)
    assert calm.summary()["kept"] > plain.summary()["kept"] and calm.summary()["rewritten"] > 20
    changed = [row for row in read_rows(calm.path / "accepted.jsonl", Dialog) if row.provenance.checks.get("manner")]
    assert len(changed) == calm.summary()["rewritten"]
    whole = {row.id for row in read_rows(calm.path / "rows.jsonl", Dialog)}
    assert all(row.provenance.parents[-1] in whole and "!!" not in row.messages[-1].content for row in changed)


def test_the_stage_is_two_and_a_limit_repeats_only_the_second():
    sources = [Source("tasks", "tasks"), Source("mix", "samples")]
    graphs = [select.expand("picked", select.Settings(topic=limit), sources) for limit in (0.5, 0.7)]
    assert list(graphs[0]) == ["picked.scores", "picked"]
    assert graphs[0]["picked.scores"] == graphs[1]["picked.scores"] and graphs[0]["picked"] != graphs[1]["picked"]
    assert graphs[0]["picked"]["from"] == ["tasks", "mix", "picked.scores"]


def test_sft_learns_from_the_kept_rows_only(tmp_path):
    tasks, base = tasks_artifact(tmp_path / "tasks"), base_artifact(tmp_path / "base")
    made = run_graph(tmp_path, "post.quality.select", "picked", [tasks], parts=["gold"], share=0.5)["picked"]
    tuned = run_stage(
        tmp_path, "post.sft", "tuned", [base, tasks, made], mix={"gold": 0, "samples": 1}, steps=2, dev=5, max_tokens=2
    )
    assert made.summary()["kept"] == 12 and tuned.summary()["dialogs"] == {"gold": 24, "samples": 12}


def test_a_model_embeds_and_judges_and_what_it_says_is_read_strictly(tmp_path):
    tasks, base = tasks_artifact(tmp_path / "tasks"), base_artifact(tmp_path / "base")
    made = run_graph(
        tmp_path, "post.quality.select", "picked", [tasks, base], parts=["gold"], judge={"use": "model", "input": "base"},
        embedder="base", judge_difficulty=False,
    )  # fmt: skip
    summary = made["picked.scores"].summary()
    assert summary["judged"] == 0 and summary["unreadable"] == summary["rows"] == 24  # an untrained model says nothing
    assert np.load(made["picked.scores"].path / scores.EMBEDDINGS).shape == (24, 16)


def test_an_empty_input_selects_nothing(tmp_path):
    tasks = tasks_artifact(tmp_path / "tasks", gold=0)
    made = run_graph(tmp_path, "post.quality.select", "picked", [tasks], parts=["gold"])["picked"]
    assert made.summary()["rows"] == made.summary()["kept"] == 0


@pytest.mark.parametrize("keep", ["topic and", "topic > 1", "clean and topics"])
def test_a_broken_expression_is_refused_before_anything_runs(keep):
    with pytest.raises(ValueError, match="keep"):
        select.Settings(keep=keep)


def test_every_predicate_can_be_named_and_a_misspelt_one_is(mix):
    columns = read_table(chosen(mix, "all").path / "annotations.parquet").column_names
    assert {name.removesuffix(".value") for name in columns if name.endswith(".value")} == set(names_in(select.KEEP))
    with pytest.raises(ValueError, match="no predicate is called 'topics'; did you mean 'topic'"):
        select.Settings(keep="topics")


def test_a_misspelt_topic_is_named(mix):
    with pytest.raises(InputError, match="about 'chess'"):
        chosen(mix, "chess", wanted=["chess"])


def test_truth_of_rows_that_were_not_judged_is_refused(tmp_path):
    (tmp_path / "truth.jsonl").write_text('{"id": "a", "truth": "good", "of": ""}\n')
    with pytest.raises(InputError, match="was not judged"):
        score_planted(tmp_path / "truth.jsonl", {})
    assert score_planted(tmp_path / "truth.jsonl", {"a": ""})["kept"]["recall"] == 1.0


def test_of_a_good_row_and_its_copy_either_may_stay(tmp_path):
    rows = [("a", "good", ""), ("b", "exact_duplicate", "a"), ("c", "good", ""), ("d", "wrong", ""), ("e", "good", "")]
    lines = [json.dumps({"id": name, "truth": truth, "of": of}) for name, truth, of in rows]
    (tmp_path / "truth.jsonl").write_text("\n".join(lines) + "\n")
    reasons = {"a": "duplicate", "b": "", "c": "", "d": "", "e": "dull"}
    kept = score_planted(tmp_path / "truth.jsonl", reasons)["kept"]
    assert kept["recall"] == pytest.approx(2 / 3) and kept["planted"] == 3  # a by its copy, and c
    assert kept["precision"] == pytest.approx(2 / 3) and kept["found"] == 3  # b and c, not d


def test_real_dialogs_go_through(tmp_path):
    found = sorted((DATA / "instr_seed").rglob("*.jsonl")) if (DATA / "instr_seed").is_dir() else []
    if not found:
        pytest.skip("no real dialogs beside the project")
    lines = found[0].read_text().splitlines()[:60]
    path = tmp_path / "some.jsonl"
    path.write_text("\n".join(lines) + "\n")
    ctx = local_context(tmp_path / "out", name="measured", seed=1)
    summary = scores.run(scores.Settings(files=(str(path),)), ctx)
    picked = local_context(tmp_path / "picked", name="picked", inputs=[local_artifact(tmp_path / "out", scores.KIND)], seed=1)
    decided = select.run(select.Settings(files=(str(path),)), picked)
    assert decided["rows"] == summary["rows"] > 0 and 0 < decided["kept"] <= decided["rows"]


def test_predicates_that_know_nothing_are_named_and_rows_of_files_take_the_licence(tmp_path):
    path = tmp_path / "mine.jsonl"
    said = [{"role": "user", "content": "What is blue?"}, {"role": "assistant", "content": "The sky."}]
    path.write_text(json.dumps({"messages": said}) + "\n")
    ctx = local_context(tmp_path / "out", name="measured", seed=1)
    scores.run(scores.Settings(files=(str(path),), licence="MIT"), ctx)
    (row,) = read_rows(tmp_path / "out" / "rows.jsonl", Dialog)
    assert (row.provenance.source, row.provenance.licence) == ("mine.jsonl", "MIT")
    picked = local_context(tmp_path / "picked", name="picked", inputs=[local_artifact(tmp_path / "out", scores.KIND)], seed=1)
    notes: list[str] = []
    picked.note = notes.append
    assert select.run(select.Settings(files=(str(path),)), picked)["kept"] == 1
    assert notes == ["topic, verified, reward, judge: nothing is known of any row, so `keep` decides without"]


def test_nothing_to_choose_from_is_refused(tmp_path):
    with pytest.raises(InputError, match="no rows to choose from: `files` is empty, `parts` is samples, gold"):
        scores.run(scores.Settings(), local_context(tmp_path / "out", name="measured"))
