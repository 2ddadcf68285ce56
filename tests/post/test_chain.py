"""SFT, DPO, averaging, rounds and distillation on toys: masks, controls, gates, manifests, and the same bytes twice."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from post_toys import SHAPE, base_artifact, finished, run_graph, run_stage, tasks_artifact, toy_model, toy_task, toy_tokenizer

from puna.core.errors import InputError, Preempted
from puna.core.graph import Source
from puna.core.modules import load_stage
from puna.core.stage import local_context
from puna.core.store import digest_files
from puna.model.checkpoint import load_model, save_model
from puna.post import distil, dpo, reject, rounds, sft
from puna.post.average import averaged
from puna.post.collect import gold_dialog
from puna.post.examples import encode_dialog, row_length
from puna.post.gate import Judge, Verdict, comparison, open_judge, read_verdict, write_verdict
from puna.post.origin import handed_on, origin
from puna.tokenizer.chat import render
from puna.tokenizer.dialog import Dialog, MessageRow, Provenance, Sample, Task, read_rows, write_rows

TOKENIZER = toy_tokenizer()
LOOP = {"rounds": 2, "gold_steps": 40, "rs_steps": 40, "lr": 1e-2, "batch_tokens": 512, "prompts": 30, "dpo_prompts": 30,
        "prompts_of": 120, "least_pairs": 5, "reward_steps": 5, "dev": 30, "max_tokens": 8,
        "variants": [{"lr": 1e-2}, {"lr": 7e-3, "seed_offset": 1}]}  # fmt: skip


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    """Two rounds from a random base."""
    root = tmp_path_factory.mktemp("loop")
    return run_graph(root, "post.rounds", "chat", [base_artifact(root / "base"), tasks_artifact(root / "tasks")], **LOOP)


# ---- SFT ----------------------------------------------------------------------------------------------------------------


def test_terminator_is_learnt_once_per_assistant_turn_and_bos_stands_once():
    turns = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "de")]
    rows = [MessageRow(role=role, content=text) for role, text in turns]
    encoded = encode_dialog(TOKENIZER, Dialog(id="1", messages=rows, provenance=Provenance(source="t", licence="MIT")))
    learnt = [i for i, mask in zip(encoded.ids, encoded.loss_mask, strict=True) if mask]
    assert learnt == [*TOKENIZER.encode("b"), TOKENIZER.eot_id, *TOKENIZER.encode("de"), TOKENIZER.eot_id]
    assert encoded.ids.count(TOKENIZER.bos_id) == 1
    assert encoded.ids == render(TOKENIZER, rows).ids


def test_stopping_is_learnt(loop, tmp_path):
    made = run_stage(
        tmp_path, "post.sft", "long", [loop["base"], loop["tasks"]], steps=120, lr=1e-2, batch_tokens=512, max_tokens=8
    )
    model = load_model(made.path).eval()
    dialogs = read_rows(loop["tasks"].path / "train.jsonl", Dialog)
    prompts = [torch.tensor([render(TOKENIZER, dialog.messages).ids[:-1]]) for dialog in dialogs]
    with torch.no_grad():
        stops = [model(ids)[0, -1].softmax(-1)[TOKENIZER.eot_id] for ids in prompts]
    assert torch.stack(stops).mean() > 0.9


def test_overlong_dialogs_are_counted_and_an_empty_pool_hands_the_base_on(tmp_path):
    base, tasks = base_artifact(tmp_path / "base"), tasks_artifact(tmp_path / "tasks", gold=4)
    long = Task(id="x", prompt=[MessageRow(role="user", content="q" * 500)], verifier="exact", reference="a", gold="a",
                provenance=Provenance(source="t", licence="MIT"))  # fmt: skip
    short = [gold_dialog(toy_task(letters)) for letters in ("abc", "bcd")]
    write_rows(tasks.path / "train.jsonl", [gold_dialog(long), *short])
    made = run_stage(tmp_path, "post.sft", "chat", [base, tasks], steps=2, max_tokens=4, batch_tokens=8)
    assert "a step reads one row of" in (made.path / "volatile" / "notes.txt").read_text()
    assert made.summary()["dialogs"] == {"gold": 2, "samples": 0} and made.summary()["overlong"] == 1
    write_rows(tasks.path / "train.jsonl", [gold_dialog(long)])
    made = run_stage(tmp_path, "post.sft", "empty", [base, tasks], steps=2, max_tokens=4)
    assert "no dialog" in made.summary()["skipped"] and made.summary()["dev"]["measure"] == "accuracy"
    assert (made.path / "model.safetensors").read_bytes() == (base.path / "model.safetensors").read_bytes()


def test_control_reads_gold_in_the_order_of_its_variant(tmp_path):
    ctx = local_context(tmp_path / "one", name="one", seed=7), local_context(tmp_path / "two", name="two", seed=7)
    first, second = sft.Settings(), sft.Settings(seed_offset=1)
    assert sft.batch_seed(first, ctx[0]) == sft.batch_seed(first, ctx[1]) != sft.batch_seed(second, ctx[0])


def test_row_length():
    assert [row_length(n, 512) for n in (1, 128, 129, 500, 900)] == [128, 128, 256, 512, 512]
    assert row_length(60, 100) == 100


def test_own_unverified_text_is_refused_and_another_models_is_not(loop, tmp_path):
    base, tasks, policy = loop["base"], loop["tasks"], loop["chat"]
    raw = run_stage(tmp_path, "post.reject", "raw", [policy, tasks], prompts={"count": 5}, k=2, max_tokens=8, raw=True)
    with pytest.raises(InputError, match="own unverified text"):
        run_stage(tmp_path, "post.sft", "own", [base, tasks, raw], steps=1, samples="raw")
    with pytest.raises(InputError, match="own unverified text"):
        run_stage(tmp_path, "post.sft", "self", [policy, tasks, raw], steps=1, samples="raw")
    other = base_artifact(tmp_path / "other", seed=9)
    made = run_stage(tmp_path, "post.sft", "student", [other, tasks, raw], steps=1, samples="raw", max_tokens=4)
    assert made.summary()["dialogs"]["samples"] > 0
    assert run_stage(tmp_path, "post.sft", "fine", [base, tasks, raw], steps=1, max_tokens=4).summary()["steps"] == 1  # accepted


# ---- gates --------------------------------------------------------------------------------------------------------------


def test_judge_counts_what_the_verifier_passes_and_survives_a_round_trip(loop, tmp_path):
    judge = open_judge(loop["tasks"], TOKENIZER, limit=10, max_tokens=8)
    model = load_model(loop["chat.control"].path)
    verdict = judge(model)
    assert (verdict.measure, verdict.n, verdict.value) == ("accuracy", 10, sum(verdict.passed) / 10)
    assert verdict.low <= verdict.value <= verdict.high
    write_verdict(verdict, tmp_path)
    assert read_verdict(tmp_path) == verdict
    stored = read_verdict(loop["chat.control"].path)
    assert stored.passed[:10] == verdict.passed


def test_without_verifiable_tasks_the_held_out_loss_judges(tmp_path):
    held = tuple(gold_dialog(toy_task(letters)) for letters in ("abc", "bcd", "cde"))
    judge = Judge(TOKENIZER, (), held, 8)
    verdict = judge(toy_model())
    assert (verdict.measure, verdict.n) == ("held_loss", 3)
    assert -7 < verdict.value < -5  # a random model: about log(vocabulary)
    assert comparison(verdict, Verdict("held_loss", verdict.value - 1, 3)) == {"difference": 1.0}
    assert Judge(TOKENIZER, (), (), 8)(toy_model()).measure == "none"


def test_whole_loop_without_one_verifiable_task(tmp_path):
    base, tasks = base_artifact(tmp_path / "base"), tasks_artifact(tmp_path / "tasks")
    for name in ("prompts", "dev"):
        write_rows(tasks.path / f"{name}.jsonl", [])
    made = run_graph(tmp_path, "post.rounds", "chat", [base, finished(tasks.path, "tasks", "tasks")],
                     **{**LOOP, "rounds": 1, "gold_steps": 4, "rs_steps": 8})  # fmt: skip
    assert made["chat.r1.samples"].summary()["samples"] == 0
    assert "preference pairs" in made["chat.r1.dpo"].summary()["skipped"]
    assert made["chat.r1.reward"].summary()["skipped"]
    assert made["chat"].summary()["dev"]["measure"] == "held_loss"
    assert load_model(made["chat"].path).config.dim == SHAPE["dim"]


# ---- averaging ----------------------------------------------------------------------------------------------------------


def test_average_of_equals_is_itself_and_the_order_does_not_matter():
    models = [toy_model(seed) for seed in range(3)]
    same = averaged([models[0]] * 3)
    for a, b in zip(same.parameters(), models[0].parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b, *parts in zip(averaged(models).parameters(), averaged(models[::-1]).parameters(),
                            *(m.parameters() for m in models), strict=True):  # fmt: skip
        assert torch.equal(a, b)
        torch.testing.assert_close(a, sum(parts) / 3)


def test_tied_model_averages_to_a_tied_model():
    mean = averaged([toy_model(seed, tied=True) for seed in range(2)])
    assert mean.lm_head.weight is mean.model.embed_tokens.weight


def test_average_is_kept_only_if_no_worse_than_the_best(loop, tmp_path):
    good, tasks = loop["chat.control"], loop["tasks"]
    wrecked = base_artifact(tmp_path / "wrecked", seed=4)
    noise = load_model(wrecked.path)
    with torch.no_grad():
        for weight in noise.parameters():
            weight.mul_(20)  # noise of the usual size is outweighed by what was learnt
    save_model(noise, wrecked.path, tokenizer=TOKENIZER)
    made = run_stage(tmp_path, "post.average", "mean", [wrecked, good, tasks], dev=30, max_tokens=8)
    assert made.summary()["kept"] == good.name == handed_on(made)
    assert (made.path / "model.safetensors").read_bytes() == (good.path / "model.safetensors").read_bytes()
    pairs = loop["chat.r1.pairs"]
    passed = run_stage(tmp_path, "post.dpo", "dpo", [made, pairs, tasks], least_pairs=10_000, max_tokens=8)
    assert origin(passed, {"mean": made, good.name: good}) == good.name  # through both stages
    same = run_stage(tmp_path, "post.average", "same", [good, replace(good, name="twin"), tasks], dev=30, max_tokens=8)
    assert handed_on(same) is None and origin(same, {}) == "same"
    assert same.summary()["kept"] == "average" and same.summary()["against_best"]["difference"] == 0
    with pytest.raises(InputError, match="cannot be averaged"):
        run_stage(tmp_path, "post.average", "bad", [good, base_artifact(tmp_path / "wide", dim=32), tasks])


# ---- rounds and distillation ----------------------------------------------------------------------------------------------


def test_rounds_expand_to_the_papers_loop():
    stages = rounds.expand("chat", rounds.Settings(), [Source("base", "model"), Source("tasks", "tasks")])
    assert list(stages) == ["chat.sft", "chat.control", *(f"chat.r{r}.{part}" for r in (1, 2) for part in
                            ("samples", "sft-a", "sft-b", "average", "pairs", "dpo", "reward")), "chat"]  # fmt: skip
    assert stages["chat.control"]["steps"] == stages["chat.r1.sft-a"]["steps"] == stages["chat.r2.sft-b"]["steps"]
    assert stages["chat.r2.sft-a"]["from"] == ["base", "tasks", "chat.r1.samples", "chat.r2.samples"]
    assert stages["chat.r2.samples"]["from"] == ["chat.r1.dpo", "tasks", "chat.r1.reward"]
    with pytest.raises(InputError, match="kind 'tasks'"):
        rounds.expand("chat", rounds.Settings(), [Source("base", "model")])


def test_every_sub_stage_takes_its_settings():
    base, teacher, tasks = Source("base", "model"), Source("teacher", "model"), Source("tasks", "tasks")
    graphs = [
        rounds.expand("chat", rounds.Settings(), [base, tasks]),
        distil.expand("small", distil.Settings(), [base, teacher, tasks]),
    ]
    for stages in graphs:
        for entry in stages.values():
            given = {k: v for k, v in entry.items() if k not in ("uses", "from")}
            settings = load_stage(entry["uses"]).Settings(**given)
            assert set(given) <= settings.model_fields_set, "every value that was written arrives"


def test_prompts_of_different_rounds_and_purposes_are_disjoint(loop):
    drawn = Counter()
    for name, artifact in loop.items():
        if artifact.kind == "samples":
            found = {row.task_id for row in read_rows(artifact.path / "samples.jsonl", Sample)}
            assert len(found) == 30, name
            drawn.update(found)
    assert len(drawn) == 120 and set(drawn.values()) == {1}


def test_rounds_manifest_and_gates(loop):
    manifest = json.loads((loop["chat"].path / "rounds.json").read_text())
    values = {name: read_verdict(artifact.path).value for name, artifact in loop.items() if (artifact.path / "dev.json").exists()}
    expected = "chat.sft"
    for number in (1, 2):
        candidate = f"chat.r{number}.dpo"
        keep = values[candidate] >= values[expected]
        assert manifest["rounds"][number - 1]["kept"] is keep
        expected = candidate if keep else expected
    assert manifest["chosen"] == expected == handed_on(loop["chat"]) and manifest["dev"]["n"] == 30
    assert read_verdict(loop["chat"].path).value == values[expected] == max(values["chat.sft"], values[expected])
    for number, text in enumerate(manifest["decisions"][1:], 1):
        candidate = f"chat.r{number}.dpo"
        source = origin(loop[candidate], loop)
        same = (loop[candidate].path / "model.safetensors").read_bytes() == (loop[source].path / "model.safetensors").read_bytes()
        assert same and (f"{candidate}, which is {source} unchanged," in text) == (source != candidate)
    part = manifest["rounds"][0]["parts"]["dpo"]
    assert part["output"] == loop["chat.r1.dpo"].digest
    assert {"name": "chat.r1.average", "digest": loop["chat.r1.average"].digest} in part["inputs"]
    assert part["figures"]["dev"]["value"] >= values["chat.r1.average"]  # step 0 is among what may be kept
    assert loop["base"].digest in json.loads((loop["chat"].path / "ancestors.json").read_text())


def test_dpo_with_too_few_pairs_hands_the_policy_on(loop, tmp_path):
    policy, pairs, tasks = loop["chat.r1.average"], loop["chat.r1.pairs"], loop["tasks"]
    made = run_stage(tmp_path, "post.dpo", "dpo", [policy, pairs, tasks], least_pairs=10_000, max_tokens=8)
    assert "preference pairs" in made.summary()["skipped"]
    assert read_verdict(made.path) == read_verdict(policy.path)
    assert handed_on(made) == policy.name


def test_simpo_keeps_no_reference(loop, tmp_path):
    policy, pairs, tasks = loop["chat.control"], loop["chat.r1.pairs"], loop["tasks"]
    common = {"least_pairs": 2, "pairs_per_step": 8, "dev": 30, "max_tokens": 8}
    for loss, references, figure in (("simpo", 0, "chosen_token_logp"), ("ipo", 1, "chosen_token_shift")):
        made = run_stage(tmp_path, "post.dpo", loss, [policy, pairs, tasks], loss=loss, beta=2.0, **common)
        assert made.summary()["steps"] > 0 and figure in made.summary() and "chosen_shift" not in made.summary()
        assert len(list((tmp_path / f"{loss}.scratch").glob("reference-*"))) == references


def test_dpo_that_only_hurts_keeps_step_zero(loop, tmp_path):
    policy, pairs, tasks = loop["chat.control"], loop["chat.r1.pairs"], loop["tasks"]
    made = run_stage(tmp_path, "post.dpo", "dpo", [policy, pairs, tasks], least_pairs=2, lr=3.0, nll=0.0, passes=2.0,
                     pairs_per_step=8, dev=30, max_tokens=8)  # fmt: skip
    assert made.summary()["kept_step"] == 0
    assert "kept step 0" in (made.path / "volatile/notes.txt").read_text()
    assert made.summary()["figures_step"] == made.summary()["steps"] > 0  # of weights that were discarded
    assert handed_on(made) == origin(made, loop) == policy.name
    assert (made.path / "model.safetensors").read_bytes() == (policy.path / "model.safetensors").read_bytes()


def test_dpo_figures_are_of_the_step_that_was_kept(tmp_path):
    figures = {"margin": 0.1, "chosen_shift": -0.1, "rejected_shift": -1.0}
    rows = [{"step": 0, "dev": 0.5}, *({"step": step, "preference_accuracy": step / 100, **figures} for step in (10, 20, 30))]
    pairs = SimpleNamespace(rows=[0] * 4, weak=0, left=SimpleNamespace(overlong=0, empty=0))
    ctx = local_context(tmp_path / "dpo")
    for kept, shown in ((20, 20), (0, 30), (25, 30)):
        result = SimpleNamespace(rows=rows, best_step=kept, steps=30, loss=0.6)
        found = dpo._summary(result, pairs, Verdict("accuracy", 0.6, 100), dpo.PairLoss(0.1, 0.2).figures, ctx)
        assert (found["kept_step"], found["figures_step"], found["preference_accuracy"]) == (kept, shown, shown / 100)


def test_the_loop_gives_the_same_bytes_again(loop, tmp_path):
    again = run_graph(
        tmp_path, "post.rounds", "chat", [base_artifact(tmp_path / "base"), tasks_artifact(tmp_path / "tasks")], **LOOP
    )
    assert {name: artifact.digest for name, artifact in again.items()} == {
        name: artifact.digest for name, artifact in loop.items()
    }


def test_distillation_chooses_on_dev_and_shows_every_control(loop, tmp_path):
    student = base_artifact(tmp_path / "student", seed=3)
    made = run_graph(tmp_path, "post.distil", "small", [student, loop["chat"], loop["tasks"]], steps=20, lr=1e-2, prompts=30,
                     prompts_start=0, prompts_of=120, dev=30, max_tokens=8, top_k=8)  # fmt: skip
    manifest = json.loads((made["small"].path / "distil.json").read_text())
    values = {mode: read_verdict(made[f"small.{mode}"].path).value for mode in manifest["runs"]}
    assert set(values) == {"gold", "verified", "unverified", "logits", "verified-logits"}
    assert handed_on(made["small"]) == f"small.{manifest['chosen']}"
    assert values[manifest["chosen"]] == max(values.values()) == read_verdict(made["small"].path).value
    assert {made[f"small.{mode}"].summary()["steps"] for mode in values} == {20}
    assert set(manifest["over_gold"]) == set(values) - {"gold"}
    assert made["small.gold"].summary()["dialogs"]["samples"] == 0 < made["small.unverified"].summary()["dialogs"]["samples"]
    with pytest.raises(InputError, match="a student and a teacher"):
        distil.expand("x", distil.Settings(), [Source("a", "model"), Source("tasks", "tasks")])


@pytest.mark.parametrize(
    ("sub", "extra"),
    [
        ("chat.r1.sft-a", {}),
        ("chat.r1.dpo", {"evaluate_every": 1, "pairs_per_step": 2, "passes": 2.0}),
        ("chat.r1.dpo", {"evaluate_every": 1, "pairs_per_step": 2, "passes": 2.0, "lora": {"rank": 4}}),
        ("chat.r1.reward", {"least_pairs": 1}),
        ("chat.r1.samples", {}),
    ],
)
def test_a_stage_stopped_and_resumed_leaves_the_same_bytes(loop, tmp_path, monkeypatch, sub, extra):
    stages = rounds.expand("chat", rounds.Settings(**LOOP), [Source("base", "model"), Source("tasks", "tasks")])
    entry = {**stages[sub], **extra}
    stage = load_stage(entry["uses"])
    settings = stage.Settings(**{k: v for k, v in entry.items() if k not in ("uses", "from")})
    inputs = [loop[name] for name in entry["from"]]
    monkeypatch.setattr(reject, "PROMPTS_PER_PART", 7)
    whole = local_context(tmp_path / "whole", name=sub, inputs=inputs, seed=7)
    summary = stage.run(settings, whole)
    for stop_at in (2, 1):
        ctx = local_context(tmp_path / "stopped", name=sub, inputs=inputs, seed=7)
        calls = iter(range(1000))
        ctx.stopping = lambda calls=calls, stop_at=stop_at: next(calls) >= stop_at
        with pytest.raises(Preempted):
            stage.run(settings, ctx)
        shutil.rmtree(ctx.out)  # what the runner does before a stage starts again; scratch stays
    ctx = local_context(tmp_path / "stopped", name=sub, inputs=inputs, seed=7)
    assert stage.run(settings, ctx) == summary
    assert digest_files(ctx.out)[0] == digest_files(whole.out)[0]
