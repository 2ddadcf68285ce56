"""Distillation from a teacher in memory: divergences by naive formulas, cuts and packs, own answers, refusals, the same bytes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from post_toys import (
    assert_same_step,
    base_artifact,
    gradients,
    run_stage,
    tasks_artifact,
    toy_model,
    toy_tasks,
    toy_tokenizer,
)

from puna.core.errors import InputError, Preempted
from puna.core.rng import python_stream
from puna.core.stage import local_context
from puna.core.store import digest_files
from puna.model.checkpoint import load_model
from puna.post import logits, online
from puna.post.draws import Draws, read_prompts
from puna.post.logits import LogitLoss
from puna.post.online import DivergenceLoss, Own, OwnBatches, Settings
from puna.post.reject import PromptSlice
from puna.tokenizer.chat import render
from puna.train.packing import IGNORED, pack

TOKENIZER = toy_tokenizer()
DIVERGENCES = [("forward", 0.5), ("reverse", 0.5), ("jensen-shannon", 0.3)]
COMMON = {"steps": 5, "lr": 5e-3, "batch_tokens": 256, "max_tokens": 5, "dev": 5, "log_every": 2}
OWN = {"share": 0.6, "prompts_per_step": 5, "k": 2}


def loss_of(kind="forward", mixture=0.5, weight=0.4, *, seed=1, temperature=1.0, own=False) -> DivergenceLoss:
    return DivergenceLoss(toy_model(seed), kind, mixture, temperature, weight, own)


def examples(count: int = 8) -> list[tuple[list[int], list[int]]]:
    """Rows of very unequal lengths, of each of which the end is learnt."""
    rng = python_stream(5, "examples")
    found = []
    for _ in range(count):
        prompt, answer = rng.randint(1, 9), rng.randint(1, 20)
        found.append(([rng.randrange(200) for _ in range(prompt + answer)], [0] * prompt + [1] * answer))
    return found


def own_text(rows) -> torch.Tensor:
    batch = pack(rows, None, 128)
    batch.weights_BT = torch.zeros(batch.targets_BT.shape)
    return batch


def draws_of(tmp_path, model, *, per_draw: int = 4, k: int = 2) -> Draws:
    prompts = [(task, render(TOKENIZER, task.prompt, generation_prompt=True).ids) for task in toy_tasks(6)]
    ctx = local_context(tmp_path / "online", seed=7)
    return Draws(model, TOKENIZER, prompts, ctx, "post.online", per_draw=per_draw, k=k, max_tokens=5)


def naive(p: torch.Tensor, q: torch.Tensor, kind: str, mixture: float) -> torch.Tensor:
    """A divergence of probabilities by its definition."""
    kl = lambda a, b: (a * (a / b).log()).sum()  # noqa: E731
    if kind == "jensen-shannon":
        m = mixture * p + (1 - mixture) * q
        return mixture * kl(p, m) + (1 - mixture) * kl(q, m)
    return kl(p, q) if kind == "forward" else kl(q, p)


# ---- the loss -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "mixture"), DIVERGENCES)
def test_a_teacher_equal_to_the_student_gives_nothing(kind, mixture):
    model, objective = toy_model(), loss_of(kind, mixture, weight=1.0, seed=0)
    loss, grads = gradients(model, objective, [pack(examples(), None, 128)])
    assert abs(loss) < 1e-6 and max(gradient.abs().max() for gradient in grads) < 1e-5
    assert gradients(model, loss_of(kind, mixture, weight=1.0), [pack(examples(), None, 128)])[0] > 1e-3


@pytest.mark.parametrize(
    ("kind", "mixture", "temperature"), [("forward", 0.5, 1.0), ("reverse", 0.5, 2.5), ("jensen-shannon", 0.3, 1.5)]
)
def test_gradient_is_that_of_the_definition(kind, mixture, temperature):
    """Each row alone, each token by sums of probabilities: a mean over all learnt tokens, which the prompt is no part of."""
    model, teacher, total, tokens = toy_model(), toy_model(1), 0.0, 0
    for ids, learnt in examples():
        place = [i for i in range(len(ids) - 1) if learnt[i + 1]]
        mine = model(torch.tensor([ids]))[0, place]
        p = (teacher(torch.tensor([ids]))[0, place].detach() / temperature).softmax(-1)
        far = naive(p, (mine / temperature).softmax(-1), kind, mixture)
        targets = torch.tensor([ids[i + 1] for i in place])
        total = total + 0.4 * temperature**2 * far + 0.6 * F.cross_entropy(mine, targets, reduction="sum")
        tokens += len(place)
    expected = torch.autograd.grad(total / tokens, list(model.parameters()))
    loss, grads = gradients(model, loss_of(kind, mixture, temperature=temperature), [pack(examples(), None, 128)])
    assert loss == pytest.approx(total.item() / tokens, rel=1e-5)
    for one, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_top_k_of_the_whole_vocabulary_is_the_forward_divergence():
    model, batch = toy_model(), [pack(examples(), None, 128)]
    loss, grads = gradients(model, loss_of(), batch)
    other, others = gradients(model, LogitLoss(toy_model(1), TOKENIZER.vocab_size, 0.4), batch)
    assert loss == pytest.approx(other, rel=1e-5)
    for a, b in zip(grads, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("kind", "mixture"), DIVERGENCES)
def test_any_micro_batch_pack_and_chunk_gives_one_gradient(kind, mixture, monkeypatch):
    """Own answers among them, which count in the divergence alone."""
    rows, objective, model = examples(), loss_of(kind, mixture, own=True), toy_model()
    together = [pack(rows[:5], None, 128), own_text(rows[5:])]
    alone = [*(pack([row], None, 64) for row in rows[:5]), *(own_text([row]) for row in rows[5:])]
    assert_same_step(model, objective, together, alone)
    loss, grads = gradients(model, objective, together)
    monkeypatch.setattr(logits, "CHUNK", 7)
    chunked, others = gradients(model, objective, together)
    assert loss == pytest.approx(chunked, rel=1e-6)
    for a, b in zip(grads, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_another_document_of_the_pack_has_no_part():
    objective, (first, second) = loss_of(weight=1.0), examples()[:2]
    other = ([*second[0][:-1], (second[0][-1] + 1) % 200], second[1])
    silent = lambda row: (row[0], [0] * len(row[0]))  # noqa: E731
    sums = [objective.sums(toy_model(), pack([first, silent(row)], 1, 128))[0]["kl"].item() for row in (second, other)]
    assert sums[0] == sums[1] == pytest.approx(objective.sums(toy_model(), pack([first], 1, 128))[0]["kl"].item(), rel=1e-5)


def test_own_answers_have_no_cross_entropy():
    model, rows = toy_model(), examples()
    objective, learnt = loss_of("reverse", own=True), sum(sum(mask) for _, mask in rows)
    assert objective.counts(own_text(rows)) == {"ce": 0.0, "kl": learnt, "own_kl": learnt}
    assert objective.counts(pack(rows, None, 128)) == {"ce": learnt, "kl": learnt, "own_kl": 0.0}
    terms, figures = objective.sums(model, own_text(rows))
    assert terms["ce"].item() == 0 < terms["kl"].item() == figures["own_kl"].item()
    assert figures["sampled"] == learnt and objective.sums(model, pack(rows, None, 128))[1] == {"own_kl": 0, "sampled": 0}
    assert loss_of().counts(pack(rows, None, 128)).keys() == {"ce", "kl"}


# ---- own answers --------------------------------------------------------------------------------------------------------


def test_answers_are_a_function_of_step_and_weights(tmp_path):
    model = toy_model()
    batches = OwnBatches(lambda step: [], draws_of(tmp_path, model), Own(), 128, local_context(tmp_path / "online", seed=7))
    same = lambda a, b: torch.equal(a.ids_BT, b.ids_BT) and torch.equal(a.targets_BT, b.targets_BT)  # noqa: E731
    (first,), (again,) = batches.answers(3), batches.answers(3)
    assert same(first, again) and not same(first, batches.answers(4)[0])
    assert int(first.documents_BT.max()) == 7 and not first.weights_BT.any()  # four prompts, two answers each
    learnt = first.targets_BT != IGNORED
    assert 0 < int(learnt.sum()) <= 8 * 5
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)), alpha=0.2)
    assert not same(first, batches.answers(3)[0])


def test_answers_of_micro_batches_are_those_of_one(tmp_path):
    model, objective, ctx = toy_model(), loss_of("reverse", own=True), local_context(tmp_path / "online", seed=7)
    draws = draws_of(tmp_path, model, per_draw=6, k=5)
    (whole,) = OwnBatches(lambda step: [], draws, Own(), 128, ctx).answers(3)
    parts = OwnBatches(lambda step: [], draws, Own(), 128, ctx, micro_rows=2).answers(3)
    rows = len(whole.ids_BT)
    assert rows > 2 and [len(part.ids_BT) for part in parts] == [2] * (rows // 2) + [1] * (rows % 2)
    assert torch.equal(torch.cat([part.ids_BT for part in parts]), whole.ids_BT)
    assert all(not part.weights_BT.any() for part in parts)
    given = pack(examples(), None, 128)  # so that the cross-entropy has tokens
    assert_same_step(model, objective, [whole, given], [*parts, given])


def test_the_share_of_steps_with_own_answers(tmp_path):
    ctx = local_context(tmp_path / "online", seed=7)
    for own, expected in ((Own(share=0.3), 0.3), (Own(share=1.0), 1.0), (Own(share=1.0, first_step=100), 0.75)):
        batches = OwnBatches(lambda step: [], draws_of(tmp_path, toy_model()), own, 128, ctx)
        found = [batches.is_own(step) for step in range(400)]
        assert sum(found) / 400 == pytest.approx(expected, abs=0.06) and not any(found[: own.first_step])


# ---- the stage ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A student, a larger teacher that has learnt the tasks, and the tasks."""
    root = tmp_path_factory.mktemp("online")
    large, tasks = base_artifact(root / "large", seed=2, dim=32, ffn_dim=64), tasks_artifact(root / "tasks")
    teacher = run_stage(root, "post.sft", "teacher", [large, tasks], steps=30, lr=1e-2, batch_tokens=512, max_tokens=5, dev=5)
    return base_artifact(root / "student", seed=3), replace(teacher, name="teacher"), tasks


@pytest.mark.parametrize("kind", [kind for kind, _ in DIVERGENCES])
def test_the_student_comes_nearer(world, tmp_path, kind):
    made = run_stage(tmp_path, "post.online", kind, list(world),
                     **{**COMMON, "steps": 20, "lr": 2e-2, "divergence": kind, "weight": 1.0})  # fmt: skip
    summary = made.summary()
    assert summary["steps"] == 20 and summary["teacher_tokens"] == summary["tokens"] > 0 == summary["sampled_tokens"]
    assert (summary["divergence"], summary["dialogs"]) == (kind, {"gold": 24, "samples": 0})
    assert summary["loss"] < 0.9 * summary["first_loss"]  # of the divergence alone


def test_own_answers_are_counted_and_scored(world, tmp_path):
    made = run_stage(tmp_path, "post.online", "own", list(world), **COMMON, divergence="reverse", own=OWN)
    rows = [json.loads(line) for line in (made.path / "metrics.jsonl").read_text().splitlines()]
    sampled = sum(row.get("sampled", 0) for row in rows)
    assert made.summary()["sampled_tokens"] == sampled > 10
    assert made.summary()["own_kl"] == [row["own_kl"] for row in rows if "own_kl" in row][-1] > 0
    first = run_stage(tmp_path, "post.online", "first", list(world), **{**COMMON, "steps": 1}, own={**OWN, "share": 1.0})
    prompts = read_prompts(world[2], PromptSlice(), TOKENIZER, 128, local_context(tmp_path / "first", seed=7), verified=False)
    draws = Draws(load_model(world[0].path).eval(), TOKENIZER, prompts, local_context(tmp_path / "again", name="first", seed=7),
                  "post.online", per_draw=5, k=2, max_tokens=5)  # fmt: skip
    answers = [ids for _, found in draws(0, lambda _, completions: [one.drawn for one in completions]) for ids in found]
    assert first.summary()["sampled_tokens"] == sum(map(len, answers)) and len(answers) == 10


@pytest.mark.parametrize("more", [{"own": OWN}, {"own": {**OWN, "share": 1.0}, "lora": {"rank": 2}}])
def test_stopped_and_resumed_leaves_the_same_bytes(world, tmp_path, more):
    settings = Settings(**{**COMMON, "divergence": "reverse", "checkpoint_seconds": 0.0, **more})
    whole = local_context(tmp_path / "whole", name="online", inputs=world, seed=7)
    summary = online.run(settings, whole)
    for stop_at in (2, 2):
        ctx = local_context(tmp_path / "stopped", name="online", inputs=world, seed=7)
        calls = iter(range(1000))
        ctx.stopping = lambda calls=calls, stop_at=stop_at: next(calls) >= stop_at
        with pytest.raises(Preempted):
            online.run(settings, ctx)
        shutil.rmtree(ctx.out)  # what the runner does before a stage starts again; scratch stays
    ctx = local_context(tmp_path / "stopped", name="online", inputs=world, seed=7)
    assert online.run(settings, ctx) == summary
    assert digest_files(ctx.out)[0] == digest_files(whole.out)[0]
    assert {path.name for path in ctx.scratch.iterdir()} == {"train", "dialogs", "clock.json"}  # no draw is kept


def test_own_text_needs_another_and_no_smaller_model(world, tmp_path):
    student, teacher, tasks = world
    cases = [
        ([student, student, tasks], "nothing to learn from itself"),
        ([replace(teacher, name="flagship"), teacher, tasks], "nothing to learn from itself"),
        ([teacher, student, tasks], "by the word of one of"),
    ]
    descendant = run_stage(tmp_path, "post.sft", "child", [student, tasks], steps=1, max_tokens=4)
    cases.append(([student, descendant, tasks], "own unverified text"))
    for inputs, wrong in cases:
        with pytest.raises(InputError, match=wrong):
            run_stage(tmp_path, "post.online", "refused", inputs, **COMMON, own=OWN)
    fine = run_stage(tmp_path, "post.online", "fine", [teacher, student, tasks], **{**COMMON, "steps": 1})
    assert fine.summary()["steps"] == 1  # given dialogs are nobody's unverified text


def test_without_a_prompt_own_answers_are_refused(world, tmp_path):
    with pytest.raises(InputError, match="no prompt for the student to answer"):
        run_stage(tmp_path, "post.online", "none", list(world), **COMMON, own={**OWN, "prompts": {"count": 0}})
    with pytest.raises(InputError, match="a student and a teacher"):
        run_stage(tmp_path, "post.online", "one", [world[0], world[2]], **COMMON)
