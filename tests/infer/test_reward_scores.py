"""Reward scores of BF16 and FP8: the reader against the trainer's own, the test against permutations, stage and report."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from puna.core.errors import InputError
from puna.core.stage import Artifact, local_artifact, local_context
from puna.infer import quantize
from puna.infer.fp8 import quantize_model
from puna.infer.reward_scores import (
    Reward,
    compare_rewards,
    described,
    held_out_prompts,
    kolmogorov_smirnov,
    kolmogorov_tail,
    load_reward,
)
from puna.model.checkpoint import load_model, save_model
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.post import reward as trained
from puna.report import post_sections
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import render
from puna.tokenizer.dialog import MessageRow, Provenance, Task

TOKENIZER = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})
CONFIG = ModelConfig(512, 32, 4, 4, 2, 96, max_seq_len=64, rope_theta=10000.0)


def lively(seed: int, scale: float = 3.0, layers: int = 4) -> Llama:
    model = Llama(ModelConfig(**(vars(CONFIG) | {"layers": layers})), seed=seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(scale)
    return model.eval()


def made_reward(path, **more):
    save_model(lively(7, 10.0, layers=2), path, tokenizer=TOKENIZER)
    generator = torch.Generator().manual_seed(3)
    head = {"weight": torch.randn(1, 32, generator=generator), "bias": torch.tensor([0.25])}
    save_file(head | more, path / trained.HEAD_FILE)
    (path / trained.STATE_FILE).write_text('{"skipped": false}')
    return path


@pytest.fixture
def reward(tmp_path):
    return made_reward(tmp_path / "reward")


@pytest.fixture
def tasks(tmp_path):
    path = tmp_path / "tasks"
    path.mkdir()
    texts = ["one", "two?", "x" * 90, "7 + 3", "the cat"]
    rows = [
        Task(
            id=f"t{i}",
            prompt=[MessageRow(role="user", content=text)],
            verifier="exact",
            provenance=Provenance(source="", licence=""),
        )
        for i, text in enumerate(texts)
    ]
    (path / "test.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))
    return path


@pytest.mark.parametrize("head", [{}, {"likelihood": torch.tensor([0.5])}])
def test_scores_are_those_of_the_model_that_was_trained(tmp_path, head):
    reward = made_reward(tmp_path / "reward", **head)
    dialogs = [
        [MessageRow(role="user", content=question), MessageRow(role="assistant", content=answer)]
        for question, answer in [("a", "b"), ("why?", "because"), ("", "x" * 30), ("one", "two")] * 6
    ]
    due = trained.load_reward(reward).score(dialogs)
    found = Reward(reward).scores([render(TOKENIZER, dialog) for dialog in dialogs])
    assert len(set(due)) == 4
    np.testing.assert_allclose(found, due, rtol=1e-4, atol=1e-5)
    assert (trained.HEAD_FILE, trained.STATE_FILE) == ("reward_head.safetensors", "reward.json")


def test_kolmogorov_s_tail_has_its_published_quantiles():
    for x, p in [(1.2238, 0.10), (1.3581, 0.05), (1.6276, 0.01), (1.9495, 0.001), (0.5712, 0.9)]:
        assert kolmogorov_tail(x) == pytest.approx(p, rel=2e-3)
    assert kolmogorov_tail(0.0) == 1.0 and 0.999 < kolmogorov_tail(0.21) <= 1.0 and kolmogorov_tail(8.0) < 1e-50


def test_two_samples_by_hand():
    assert kolmogorov_smirnov([1, 2, 3, 4], [1, 2, 3, 4]) == (0.0, 1.0)
    distance, p = kolmogorov_smirnov([1, 2, 3], [4, 5, 6, 7])
    assert distance == 1.0 and p == pytest.approx(kolmogorov_tail(math.sqrt(12 / 7)))
    assert kolmogorov_smirnov([1, 3, 3, 5], [2, 3, 4, 4])[0] == 0.25
    with pytest.raises(InputError):
        kolmogorov_smirnov([], [1.0])


def test_p_values_equal_those_of_permutations():
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.2):
        a, b = rng.normal(size=150), rng.normal(shift, size=200)
        distance, p = kolmogorov_smirnov(a.tolist(), b.tolist())
        both, beyond = np.concatenate([a, b]), 0
        for _ in range(2000):
            rng.shuffle(both)
            beyond += kolmogorov_smirnov(both[:150].tolist(), both[150:].tolist())[0] >= distance - 1e-12
        assert p == pytest.approx(beyond / 2000, abs=0.05)


def test_p_values_equal_scipy_s():
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed: permutations are the reference")
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=400), rng.normal(0.1, size=500)
    due = stats.ks_2samp(a, b, method="asymp")
    distance, p = kolmogorov_smirnov(a.tolist(), b.tolist())
    assert distance == pytest.approx(due.statistic) and p == pytest.approx(due.pvalue, rel=0.1)


def test_description():
    assert described([]) == {"n": 0, "mean": None, "quantiles": None}
    found = described([float(i) for i in range(101)])
    assert (found["n"], found["mean"]) == (101, 50.0) and found["quantiles"] == pytest.approx([5.0 * i for i in range(21)])


def test_fp8_answers_score_alike_and_another_model_s_do_not(reward, tasks):
    reference = lively(0, 1.5)
    fp8 = copy.deepcopy(reference)
    quantize_model(fp8)
    settings = {"answers": 800, "max_tokens": 20, "seed": 5}
    found = compare_rewards(Reward(reward), {"bf16": reference, "fp8": fp8}, TOKENIZER, tasks, **settings)
    assert found["prompts"] == 4  # one leaves no room
    assert found["bf16"]["n"] + found["bf16"]["too_long"] == 800 == found["fp8"]["n"] + found["fp8"]["too_long"]
    assert found["p_value"] > 0.01 and found["ks"] < 0.1
    again = compare_rewards(Reward(reward), {"bf16": reference, "fp8": fp8}, TOKENIZER, tasks, **settings)
    assert again == found
    other = copy.deepcopy(reference)
    with torch.no_grad():
        other.lm_head.weight.mul_(1000.0)  # says the same to a prompt again and again
    broken = compare_rewards(Reward(reward), {"bf16": reference, "fp8": other}, TOKENIZER, tasks, **settings)
    assert broken["p_value"] < 1e-6 and broken["ks"] > 0.2
    with pytest.raises(InputError, match="another tokenizer"):
        stranger = Tokenizer.from_ranks({bytes([255 - byte]): byte for byte in range(256)})
        compare_rewards(Reward(reward), {"bf16": reference, "fp8": fp8}, stranger, tasks, **settings)


def test_prompts_that_leave_no_room_are_an_error_when_they_are_all(tasks):
    assert [task.id for task, _ in held_out_prompts(tasks, TOKENIZER, 64, 3)] == ["t0", "t1", "t3"]
    with pytest.raises(InputError, match="no held-out task"):
        held_out_prompts(tasks, TOKENIZER, 5, 3)


def test_the_stage_measures_rewards_where_it_has_them_and_the_report_shows_them(reward, tasks, tmp_path):
    source = tmp_path / "model"
    save_model(lively(0, 1.5), source, tokenizer=TOKENIZER)
    settings = quantize.Settings(
        tokens=200, seq_len=32, continuations=2, continuation_tokens=4, reward_answers=40, reward_tokens=8
    )
    plain = quantize.run(settings, local_context(tmp_path / "a", inputs=[local_artifact(source, "model")]))
    assert "rewards" not in plain
    inputs = [local_artifact(source, "model"), local_artifact(tasks, "tasks"), local_artifact(reward, "reward")]
    summary = quantize.run(settings, local_context(tmp_path / "b", inputs=inputs))
    rewards = summary.pop("rewards")
    assert summary == plain and rewards["bf16"]["n"] == 40 and 0 < rewards["p_value"] <= 1
    written = load_model(tmp_path / "b").eval()
    assert written.model.layers[1].mlp.up_proj.weight.dtype == torch.float8_e4m3fn
    (tmp_path / "b/summary.json").write_text(json.dumps(summary | {"rewards": rewards}))
    section = post_sections.fp8_section([Artifact("fp8", "model", tmp_path / "b", "d", {"stage": "infer.quantize"})], [])
    page = " ".join(section.blocks)
    assert "Reward scores of 40 and 40 answers to 4 held-out prompts." in page and f"p = {rewards['p_value']:.3g}" in page
    assert page.count('"name": "BF16"') + page.count('"name":"BF16"') == 1


def test_a_reward_model_that_was_not_trained_is_said(reward, tasks, tmp_path):
    (reward / trained.STATE_FILE).write_text('{"skipped": true}')
    assert load_reward(reward) is None
    source = tmp_path / "model"
    save_model(lively(0), source, tokenizer=TOKENIZER)
    inputs = [local_artifact(source, "model"), local_artifact(tasks, "tasks"), local_artifact(reward, "reward")]
    ctx = local_context(tmp_path / "out", inputs=inputs)
    summary = quantize.run(quantize.Settings(tokens=100, seq_len=32, continuations=2, continuation_tokens=4), ctx)
    assert "rewards" not in summary and "not trained" in (tmp_path / "out/volatile/notes.txt").read_text()
