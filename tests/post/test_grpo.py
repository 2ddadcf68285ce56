"""GRPO: the policy gradient by hand, micro-batches, what is left out, the toy that improves, and the same bytes after a stop."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from post_toys import (
    assert_same_step,
    base_artifact,
    finished,
    gradients,
    run_stage,
    tasks_artifact,
    toy_model,
    toy_tasks,
    toy_tokenizer,
)

from puna.core.errors import Preempted
from puna.core.stage import Artifact, local_context
from puna.core.store import digest_files
from puna.post import grpo
from puna.post.grpo import Group, GroupBatches, GroupLoss, Settings
from puna.post.origin import handed_on
from puna.tokenizer.chat import render
from puna.tokenizer.dialog import Task, read_rows, write_rows
from puna.train.objectives import token_logps

TOKENIZER = toy_tokenizer()
EOT = TOKENIZER.eot_id
GROUPS = [
    Group([1, 2, 3], [[4, 5, EOT], [6, EOT], [7, 8, 9, 10, 11, EOT], [12]], [True, True, True, False], [1.0, 0.0, 0.0, 0.0]),
    Group([9, 8], [[4, EOT], [5, EOT], [6, 6, EOT], [7] * 9], [True, True, True, False], [0.0, 0.0, 0.0, 0.0]),
    Group([5], [[1] * 20 + [EOT], [2, EOT], [3, EOT], [4, 4, EOT]], [True] * 4, [1.0, 1.0, 0.0, 1.0]),
]


def batches_of(tmp_path, model, settings: Settings, reference=None, tasks: list[Task] | None = None) -> GroupBatches:
    prompts = [(task, render(TOKENIZER, task.prompt, generation_prompt=True).ids) for task in tasks or toy_tasks(6)]
    return GroupBatches(model, TOKENIZER, prompts, settings, local_context(tmp_path / "grpo", seed=7), reference)


def test_gradient_at_ratio_one_is_the_policy_gradient(tmp_path):
    model = toy_model()
    loss, grads = gradients(model, GroupLoss(0.2, 0.0), batches_of(tmp_path, model, Settings()).batches(GROUPS))
    model.zero_grad()
    tokens = sum(len(answer) for group in (GROUPS[0], GROUPS[2]) for answer in group.answers)
    total = 0.0
    for group in (GROUPS[0], GROUPS[2]):
        mean = sum(group.rewards) / 4
        spread = (sum((reward - mean) ** 2 for reward in group.rewards) / 4) ** 0.5
        for answer, reward in zip(group.answers, group.rewards, strict=True):
            logps = F.log_softmax(model(torch.tensor([group.prompt + answer]))[0], -1)
            start = len(group.prompt)
            logp = sum(logps[start - 1 + i, token] for i, token in enumerate(answer))
            (-(reward - mean) / spread * logp / tokens).backward()
            total -= (reward - mean) / spread * len(answer) / tokens  # at ratio 1 the surrogate is the advantage itself
    assert loss == pytest.approx(total, rel=1e-5)
    for mine, parameter in zip(grads, model.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("updates", [1, 2])
def test_gradient_is_the_same_for_any_micro_batch(tmp_path, updates):
    model, start = toy_model(), toy_model(seed=1)
    reference = lambda batch: token_logps(start, batch).detach()  # noqa: E731
    cut = {}
    for micro in (None, 1):
        batches = batches_of(tmp_path, model, Settings(kl=0.1, micro_samples=micro), reference).batches(GROUPS)
        for batch in batches if updates > 1 else []:
            batch.extra["sampled_BT"] = reference(batch)
        cut[micro] = batches
    assert (len(cut[None]), len(cut[1])) == (1, 8)
    assert_same_step(model, GroupLoss(0.2, 0.1), cut[None], cut[1])
    for micro, batches in cut.items():
        counts = [GroupLoss(0.2, 0.1).counts(batch) for batch in batches]
        totals = {key: sum(count[key] for count in counts) for key in counts[0]}
        assert totals == {"policy": 40, "kl": 40, "reward": 12, "unfinished": 12, "alike": 3, "clipped": 40}, micro
        others = [GroupLoss(0.2, 0.1).sums(model, batch)[1] for batch in batches]
        assert [sum(float(other[key]) for other in others) for key in ("reward", "unfinished", "alike")] == [4, 2, 1]


def test_kl_is_zero_at_the_start_and_pulls_back_later(tmp_path):
    start, model = toy_model(), toy_model()
    reference = lambda batch: token_logps(start, batch).detach()  # noqa: E731
    batch = batches_of(tmp_path, model, Settings(kl=1.0), reference).batches(GROUPS)[0]
    assert GroupLoss(0.2, 1.0).sums(model, batch)[0]["kl"].item() == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        model.lm_head.weight.mul_(3)
    before = GroupLoss(0.2, 1.0).sums(model, batch)[0]["kl"]
    before.backward()
    with torch.no_grad():
        model.lm_head.weight -= 1e-3 * model.lm_head.weight.grad
    assert 0 < GroupLoss(0.2, 1.0).sums(model, batch)[0]["kl"].item() < before.item()


def test_a_step_of_groups_that_are_all_alike_changes_nothing(tmp_path):
    model = toy_model()
    batches = batches_of(tmp_path, model, Settings()).batches([GROUPS[1]] * 2)
    loss, grads = gradients(model, GroupLoss(0.2, 0.0), batches)
    assert loss == 0 and all(not gradient.any() for gradient in grads)
    assert GroupLoss(0.2, 0.0).sums(model, batches[0])[1]["alike"].item() == 2


def test_answers_come_from_the_weights_of_the_moment_and_unfinished_ones_earn_nothing(tmp_path):
    model, settings = toy_model(), Settings(prompts_per_step=4, k=6, max_tokens=3)
    batches = batches_of(tmp_path, model, settings)
    first = batches.groups(0)
    assert first == batches_of(tmp_path, toy_model(), settings).groups(0) != batches.groups(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)), alpha=0.2)
    assert batches.groups(0) == batches_of(tmp_path, model, settings).groups(0) != first
    everything = [group for draw in range(4) for group in batches.groups(draw)]
    assert {reward for group in everything for reward, ended in zip(group.rewards, group.finished, strict=True) if not ended} == {
        0
    }
    assert all(len(group.answers) == 6 and max(map(len, group.answers)) <= 3 for group in everything)
    assert all((answer[-1] in TOKENIZER.stop_ids) == ended
               for group in everything for answer, ended in zip(group.answers, group.finished, strict=True))  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A policy that says yes or no, rather yes, and tasks whose answer is always no."""
    root = tmp_path_factory.mktemp("grpo")
    base, tasks = base_artifact(root / "base"), tasks_artifact(root / "tasks")
    policy = run_stage(root, "post.sft", "policy", [base, tasks], steps=40, lr=1e-2, batch_tokens=512, max_tokens=8)
    return policy, always(tasks, "no", root / "no")


def always(tasks: Artifact, answer: str, folder: Path) -> Artifact:
    """The tasks with another right answer."""
    shutil.copytree(tasks.path, folder)
    for name in ("prompts", "dev"):
        rows = list(read_rows(folder / f"{name}.jsonl", Task))
        write_rows(folder / f"{name}.jsonl", [row.model_copy(update={"reference": answer}) for row in rows])
    return finished(folder, "tasks", "tasks")


COMMON = {"prompts_per_step": 8, "k": 8, "max_tokens": 8, "dev": 10, "evaluate_every": 5, "warmup": 2, "log_every": 2}


@pytest.mark.parametrize("more", [{}, {"updates": 2, "kl": 0.01}])
def test_a_toy_task_improves(world, tmp_path, more):
    made = run_stage(tmp_path, "post.grpo", "grpo", list(world), **{"steps": 12, "lr": 5e-3, **COMMON, **more})
    summary = made.summary()
    assert (summary["dev_before"], summary["dev"]["value"], summary["gain"]) == (0, 1, 1)
    assert summary["kept_step"] > 0 and handed_on(made) is None and summary["prompts"] == 120
    rows = [json.loads(line) for line in (made.path / "metrics.jsonl").read_text().splitlines()]
    rewards = [row["reward"] for row in rows if "reward" in row]
    assert rewards[-1] > rewards[0] + 0.15
    assert all(row["clipped"] == 0 for row in rows if "clipped" in row) or "updates" in more  # fresh samples: the ratio is 1
    if "kl" in more:
        assert rows[1]["kl"] >= 0 and summary["kl"] > 0


def test_a_run_that_only_hurts_hands_the_policy_on(world, tmp_path):
    policy, tasks = world[0], always(world[1], "yes", tmp_path / "yes")  # nothing to gain
    made = run_stage(tmp_path, "post.grpo", "grpo", [policy, tasks], steps=2, lr=30.0, **COMMON)
    assert made.summary()["kept_step"] == 0 and handed_on(made) == policy.name
    assert made.summary()["dev_before"] > 0.9 and made.summary()["looks"][-1][1] < 0.1
    assert (made.path / "model.safetensors").read_bytes() == (policy.path / "model.safetensors").read_bytes()


def test_without_a_prompt_to_verify_the_policy_goes_on(world, tmp_path):
    policy, tasks = world
    folder = shutil.copytree(tasks.path, tmp_path / "tasks")
    rows = [row.model_copy(update={"verifier": ""}) for row in read_rows(folder / "prompts.jsonl", Task)]
    write_rows(folder / "prompts.jsonl", rows)
    made = run_stage(tmp_path, "post.grpo", "grpo", [policy, finished(folder, "tasks", "tasks")])
    assert "no prompt can be verified" in made.summary()["skipped"] and handed_on(made) == policy.name


@pytest.mark.parametrize("more", [{"updates": 3, "kl": 0.05, "micro_samples": 9}, {"lora": {"rank": 2}, "kl": 0.05}])
def test_stopped_and_resumed_leaves_the_same_bytes(world, tmp_path, more):
    settings = Settings(
        **{**COMMON, "steps": 5, "evaluate_every": 3, "prompts_per_step": 4, "lr": 3e-3, "checkpoint_seconds": 0.0, **more}
    )
    whole = local_context(tmp_path / "whole", name="grpo", inputs=world, seed=7)
    summary = grpo.run(settings, whole)
    for stop_at in (2, 2):
        ctx = local_context(tmp_path / "stopped", name="grpo", inputs=world, seed=7)
        calls = iter(range(1000))
        ctx.stopping = lambda calls=calls, stop_at=stop_at: next(calls) >= stop_at
        with pytest.raises(Preempted):
            grpo.run(settings, ctx)
        shutil.rmtree(ctx.out)  # what the runner does before a stage starts again; scratch stays
    ctx = local_context(tmp_path / "stopped", name="grpo", inputs=world, seed=7)
    assert grpo.run(settings, ctx) == summary
    assert digest_files(ctx.out)[0] == digest_files(whole.out)[0]


def test_draws_that_no_checkpoint_can_need_are_dropped(world, tmp_path):
    """Two updates a draw; the last checkpoints are in the midst of draw 2 and at the beginning of draw 3 when that is drawn."""
    settings = Settings(**{**COMMON, "steps": 8, "updates": 2, "prompts_per_step": 4, "checkpoint_seconds": 0.0})
    ctx = local_context(tmp_path / "grpo", name="grpo", inputs=world, seed=7)
    grpo.run(settings, ctx)
    assert {path.name for path in ctx.scratch.glob("drawn-*")} == {"drawn-2.safetensors", "drawn-3.safetensors"}
