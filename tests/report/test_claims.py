"""Claims are true: no verdict on a stage whose result a gate refused, and each figure of the model that it is said to be of."""

import importlib.util
import json
from pathlib import Path

import pytest

from puna.core.stage import Artifact
from puna.evals.one import ITEMS_FILE, write_items
from puna.report import post_sections, results
from puna.report.claims import collect_claims, sentence
from puna.report.page import Section

DEV = {"measure": "accuracy", "n": 500}


def made(path, name, stage, **summary):
    (path / name).mkdir()
    (path / name / "summary.json").write_text(json.dumps(summary))
    return Artifact(name=name, kind="model", path=path / name, digest=name, record={"stage": stage})


def one_claim(artifacts):
    (claim,) = collect_claims(artifacts)
    return claim


def average(path, kept, control="chat.sft-a"):
    test = {"difference": -0.024, "low": -0.049, "high": 0.001, "wins": 15, "losses": 27, "p": 0.09}
    parts = {"chat.sft-a": DEV | {"value": 0.644}, "chat.sft-b": DEV | {"value": 0.72}}
    value = 0.696 if kept != "average" else 0.73
    return made(path, "chat.average", "post.average", kept=kept, average=DEV | {"value": value}, parts=parts,
                dev=DEV | {"value": max(value, 0.72)}, against_best={"difference": -0.024, "paired": test})  # fmt: skip


def scores(path, name, better, control, passed, **figures):
    """A scores artifact with one comparison; `passed` is a string of 0 and 1 for each model."""
    artifact = made(path, "scores", "evals.scores")
    test = {"n": 1500, "difference": 0.025, "low": 0.01, "high": 0.04, "wins": 90, "losses": 52, "p": 0.002, **figures}
    comparison = {"name": name, "better": better, "control": control, **test}
    (artifact.path / "scores.json").write_text(json.dumps({"comparisons": [comparison]}))
    rest = {"family": "f", "capability": "c", "lang": "en", "text": "", "finished": True}
    items = [
        {"task_id": str(i), "model": model, "passed": hit == "1", **rest}
        for model, hits in passed.items()
        for i, hit in enumerate(hits)
    ]
    write_items(items, artifact.path / ITEMS_FILE)
    return artifact


NAME = "averaging (round 2) against its first variant"


def test_a_refused_average_is_told_as_refused_and_not_as_a_help(tmp_path):
    variants = [made(tmp_path, f"chat.sft-{letter}", "post.sft") for letter in "ab"]
    scored = scores(tmp_path, NAME, "chat.average", "chat.sft-a", {})
    (claim,) = collect_claims([*variants, average(tmp_path, "chat.sft-b"), scored])
    assert claim["verdict"] == "refused" and "difference" not in claim and "n" not in claim
    told = "averaging (round 2): refused on the dev set, 69.6 % against 72.0 % (-2.4 points, -4.9 to +0.1, n = 500); sft-b kept."
    assert sentence(claim) == told
    text = results.render({"headlines": [], "claims": [claim]})
    assert "helped" not in text and "refused on the dev set" in text and "+2.5" not in text


def test_a_kept_average_stands_against_its_best_variant_whichever_is_named(tmp_path):
    variants = [made(tmp_path, f"chat.sft-{letter}", "post.sft") for letter in "ab"]
    hits = {"chat.average": "1" * 30 + "0" * 10, "chat.sft-a": "0" * 40, "chat.sft-b": "1" * 29 + "0" * 10 + "1"}
    scored = scores(tmp_path, NAME, "chat.average", "chat.sft-a", hits)
    (claim,) = collect_claims([*variants, average(tmp_path, "average"), scored])
    assert claim["name"] == "averaging (round 2) against its best variant, sft-b"
    assert (claim["control"], claim["wins"], claim["losses"], claim["n"]) == ("chat.sft-b", 1, 1, 40)
    assert claim["verdict"] == "no difference shown"


def test_a_kept_average_whose_best_variant_was_not_scored_has_no_verdict(tmp_path):
    variants = [made(tmp_path, f"chat.sft-{letter}", "post.sft") for letter in "ab"]
    scored = scores(tmp_path, NAME, "chat.average", "chat.sft-a", {"chat.average": "11", "chat.sft-a": "00"})
    (claim,) = collect_claims([*variants, average(tmp_path, "average"), scored])
    assert claim["verdict"] == "not compared" and "chat.sft-b, was not scored" in claim["outcome"]


def test_a_kept_average_is_tested_in_a_needle_as_the_recipe_names_it(tmp_path):
    variants = [made(tmp_path, f"chat.sft-{letter}", "post.sft") for letter in "ab"]
    needle = made(tmp_path, "needle", "evals.needle")
    test = {"n": 1000, "difference": 0.025, "low": 0.01, "high": 0.04, "wins": 90, "losses": 52, "p": 0.002, "length": 512}
    comparison = {"name": "needle of the average", "better": "chat.average", "control": "chat.sft-a", **test}
    (needle.path / "needle.json").write_text(json.dumps({"comparisons": [comparison]}))
    claim = one_claim([*variants, average(tmp_path, "average"), needle])
    assert (claim["name"], claim["control"]) == ("needle of the average, 512 tokens", "chat.sft-a")
    assert claim["verdict"] == "helped" and claim["n"] == 1000


def test_an_average_of_one_part_is_that_part_and_no_gate_refused_it(tmp_path):
    variant = made(tmp_path, "chat.sft-a", "post.sft")
    dev = DEV | {"value": 0.5}
    mean = made(tmp_path, "chat.average", "post.average", kept="chat.sft-a", average=dev, parts={"chat.sft-a": dev}, dev=dev,
                against_best={"difference": 0.0})  # fmt: skip
    claim = one_claim([variant, mean, scores(tmp_path, NAME, "chat.average", "chat.sft-a", {})])
    assert claim["verdict"] == "same weights"
    assert sentence(claim) == "averaging (round 2): not compared, both models are chat.sft-a unchanged."


@pytest.mark.parametrize(
    ("stage", "chosen", "control"), [("post.rounds", "chat.r2.dpo", "chat.r2.dpo"), ("post.distil", "gold", "chat.gold")]
)
def test_a_result_that_was_chosen_among_models_is_that_model(tmp_path, stage, chosen, control):
    parts = [made(tmp_path, control, "post.sft"), made(tmp_path, "chat.control", "post.sft")]
    chat = made(tmp_path, "chat", stage, chosen=chosen)
    same, other = tmp_path / "same", tmp_path / "other"
    same.mkdir(), other.mkdir()
    claim = one_claim([*parts, chat, scores(same, "the result against its choice", "chat", control, {})])
    assert sentence(claim) == f"the result: not compared, both models are {control} unchanged."
    assert one_claim([*parts, chat, scores(other, "loop against gold", "chat", "chat.control", {})])["verdict"] == "helped"
    assert post_sections._unchanged([*parts, chat], ["chat"]) == f"Handed on by a gate: chat is {control} unchanged."


@pytest.mark.parametrize("verdict", ["discarded", "not trained", "same weights"])
@pytest.mark.parametrize("equal", [True, False])
def test_the_demo_check_holds_verdicts_of_equal_weights_to_the_weights(tmp_path, verdict, equal):
    spec = importlib.util.spec_from_file_location("check_demo", Path(__file__).parents[2] / ".ci/check_demo.py")
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    for name, weights in (("1-start", b"w"), ("2-tuned", b"w" if equal else b"v")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
        (tmp_path / name / "summary.json").write_text(json.dumps({"kept": "start", "parts": {"start": {}}}))
    claim = {"better": "tuned", "control": "start", "stage": "scores", "verdict": verdict}
    assert check._true(claim, tmp_path) is equal
    assert not check._true(claim | {"verdict": "helped"}, tmp_path)


def dpo(path, kept, start="chat.average", skipped=None):
    if skipped:
        return made(path, "chat.dpo", "post.dpo", model=start, skipped=skipped, pairs=3)
    shown = kept or 33
    return made(path, "chat.dpo", "post.dpo", model=start, kept_step=kept, steps=33, figures_step=shown, pairs=1082,
                dev=DEV | {"value": 0.72}, looks=[[0, 0.72], [33, 0.628]], preference_accuracy=0.68, chosen_shift=-0.2,
                rejected_shift=-1.2)  # fmt: skip


@pytest.mark.parametrize(
    ("kept", "skipped", "expected"),
    [
        (0, None, "discarded on the dev set, 72.0 % before and 62.8 % after its 33 steps (n = 500); its start is handed on."),
        (0, "only 3 pairs", "not trained, only 3 pairs; its start is handed on."),
        (20, None, "+2.5 points (+1.0 to +4.0, n = 1500, McNemar p = 0.002): helped."),
    ],
)
def test_dpo_has_a_verdict_only_where_its_weights_were_kept(tmp_path, kept, skipped, expected):
    start = made(tmp_path, "chat.average", "post.average", kept="average", parts={})
    scored = scores(tmp_path, "DPO (round 2) against its start", "chat.dpo", "chat.average", {})
    (claim,) = collect_claims([start, dpo(tmp_path, kept, skipped=skipped), scored])
    subject = "DPO (round 2) against its start: " if kept else "DPO (round 2): "
    assert sentence(claim) == subject + expected
    assert ("difference" in claim) == bool(kept)


def test_another_comparison_of_a_discarded_dpo_stands(tmp_path):
    other = made(tmp_path, "chat.r1", "post.sft")
    scored = scores(tmp_path, "round 2 against round 1", "chat.dpo", "chat.r1", {})
    (claim,) = collect_claims([other, dpo(tmp_path, 0), scored])
    assert claim["verdict"] == "helped"


def test_models_of_the_same_weights_are_not_compared(tmp_path):
    variants = [made(tmp_path, f"chat.sft-{letter}", "post.sft") for letter in "ab"]
    scored = scores(tmp_path, "DPO against SFT", "chat.dpo", "chat.sft-b", {})
    (claim,) = collect_claims([*variants, average(tmp_path, "chat.sft-b"), dpo(tmp_path, 0), scored])
    assert sentence(claim) == "DPO: not compared, both models are chat.sft-b unchanged."


def test_a_reward_model_that_picks_worse_than_chance_hurts(tmp_path):
    gain = {"mean": -0.0516, "low": -0.0754, "high": -0.0277, "n": 982}
    bad = made(tmp_path, "chat.reward", "post.reward", best_of_n={"n": 8, "reward_over_random": gain})
    unmeasured = made(tmp_path, "chat.other", "post.reward", best_of_n=None)
    (claim,) = collect_claims([bad, unmeasured])
    assert sentence(claim) == "best of 8 by chat.reward against a random one: -5.2 points (-7.5 to -2.8, n = 982): hurt."
    assert results.render({"headlines": [], "claims": [claim]}).endswith("hurt")


def test_the_dpo_table_says_of_which_weights_its_figures_are(tmp_path):
    section = Section("Rounds", "4.1")
    post_sections._preference_training(section, [dpo(tmp_path, 0)])
    assert "33 steps discarded, start handed on" in section.blocks[0] and "step 33, discarded" in section.blocks[0]
    section.blocks.clear()
    (tmp_path / "kept").mkdir()
    post_sections._preference_training(section, [dpo(tmp_path / "kept", 20)])
    assert "step 20 of 33 kept" in section.blocks[0] and "step 20, kept" in section.blocks[0]
