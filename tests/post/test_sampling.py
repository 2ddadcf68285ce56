"""Rejection sampling and the reward model: what is accepted, what is paired, what a score depends on."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from post_toys import base_artifact, run_stage, tasks_artifact, toy_model, toy_task, toy_tasks, toy_tokenizer

from puna.core.intervals import wilson
from puna.core.stage import local_context
from puna.core.store import digest_files
from puna.evals.stats import pass_at
from puna.post import reject
from puna.post.prompts import prompt_id
from puna.post.reject import PromptSlice, with_room
from puna.post.reward import RewardModel, RewardScorer, is_held, load_reward
from puna.post.reward_measure import mean_interval
from puna.tokenizer.chat import render
from puna.tokenizer.dialog import Dialog, MessageRow, Preference, Sample, Task, read_rows

TOKENIZER = toy_tokenizer()


def drawn(letters: str, *answers: str, finished: bool = True) -> reject.Drawn:
    """A prompt with given answers, as if sampled."""
    task, samples = toy_task(letters), []
    for answer in answers:
        ids = TOKENIZER.encode(answer) + ([TOKENIZER.eot_id] if finished else [])
        right = float(finished and answer == task.reference)
        samples.append(Sample(task_id=task.id, policy="p", temperature=1.0, seed=0, ids=ids, text=answer, finished=finished,
                              scores={"verifier": right}))  # fmt: skip
    return reject.drawn_from(TOKENIZER, task, samples)


class LongestFirst:
    """A stand-in reward: the longer the better."""

    def score(self, dialogs: list[list[MessageRow]]) -> list[float]:
        return [float(len(d[-1].content)) for d in dialogs]


def test_accepts_distinct_passing_answers_up_to_the_cap(tmp_path):
    ctx = local_context(tmp_path / "s", name="s")
    right = toy_task("aaa").reference
    wrong = "no" if right == "yes" else "yes"
    kept = reject.select([drawn("aaa", right, right, wrong, "x", right)], None, "policy", reject.Settings(cap=3), ctx)
    assert [d.messages[-1].content for d in kept.accepted] == [right]
    assert len(kept.preferences) == 2
    assert {p.candidates[0].messages[0].content for p in kept.preferences} == {right}
    assert {p.candidates[1].messages[0].content for p in kept.preferences} == {wrong, "x"}
    row = kept.accepted[0].provenance
    assert (row.teacher, row.checks, row.parents) == ("policy", {"verifier": "pass"}, [toy_task("aaa").id])


def test_unfinished_and_unfaithful_answers_are_never_accepted(tmp_path):
    ctx = local_context(tmp_path / "s", name="s")
    right = toy_task("aab").reference
    cut = drawn("aab", right, finished=False)
    odd = drawn("aab", right)
    odd.samples[0].ids = [TOKENIZER.ranks[bytes([byte])] for byte in b"user"] + [TOKENIZER.eot_id]  # "user" is one token
    odd = reject.drawn_from(TOKENIZER, odd.task, odd.samples)
    assert odd.faithful == [False]
    kept = reject.select([cut, odd], None, "p", reject.Settings(), ctx)
    assert kept.accepted == [] and kept.preferences == [] and kept.raw == []


def test_reward_orders_passing_answers_and_decides_alone_without_a_verifier(tmp_path):
    ctx = local_context(tmp_path / "s", name="s")
    one = drawn("aac", "a", "bbb", "cc")
    for sample in one.samples:
        sample.scores["verifier"] = 1.0
    kept = reject.select([one], LongestFirst(), "p", reject.Settings(cap=2), ctx)
    assert [d.messages[-1].content for d in kept.accepted] == ["bbb", "cc"]
    free = drawn("aad", "a", "bbb", "cc")
    free.task = free.task.model_copy(update={"verifier": ""})
    kept = reject.select([free], LongestFirst(), "p", reject.Settings(cap=2), ctx)
    assert [d.messages[-1].content for d in kept.accepted] == ["bbb"]
    assert kept.preferences == []
    assert reject.select([free], None, "p", reject.Settings(), ctx).accepted == []


@pytest.mark.parametrize("available", [100, 97, 60, 13, 1, 0, 1000])
def test_slices_of_rounds_stay_disjoint_in_a_smaller_file(available: int):
    starts = [0, 15, 45, 60, 90]
    slices = [PromptSlice(start=a, count=b - a, of=100) for a, b in itertools.pairwise([*starts, 100])]
    taken = Counter(i for one in slices for i in range(*one.bounds(available)))
    assert set(taken.values()) <= {1}
    assert len(taken) == min(available, 100)
    assert PromptSlice(start=90, count=20).bounds(100) == (90, 100)


@pytest.mark.parametrize(("n", "k", "right"), [(1, 4, 1), (2, 4, 1), (2, 4, 3), (4, 4, 0), (3, 5, 2)])
def test_pass_at_n_by_enumeration(n: int, k: int, right: int):
    draws = list(itertools.combinations([True] * right + [False] * (k - right), n))
    assert pass_at(n, k, right) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """A trained-for-moments policy, its tasks, and samples of it."""
    root = tmp_path_factory.mktemp("sampled")
    base, tasks = base_artifact(root / "base"), tasks_artifact(root / "tasks")
    policy = run_stage(root, "post.sft", "policy", [base, tasks], steps=40, lr=1e-2, batch_tokens=512, max_tokens=8)
    samples = run_stage(root, "post.reject", "samples", [policy, tasks], prompts={"count": 60}, k=8, max_tokens=8, raw=True)
    return root, base, tasks, policy, samples


def test_samples_artifact(sampled):
    _, _, tasks, policy, samples = sampled
    summary = samples.summary()
    rows = list(read_rows(samples.path / "samples.jsonl", Sample))
    assert len(rows) == summary["samples"] == 60 * 8
    first = list(read_rows(tasks.path / "prompts.jsonl", Task))[:60]
    assert [row.task_id for row in rows[::8]] == [task.id for task in first]
    assert {row.policy for row in rows} == {policy.digest}
    passed = [row.scores["verifier"] for row in rows]
    assert summary["pass_at"]["1"] == pytest.approx(sum(passed) / len(passed), abs=1e-6)
    assert summary["pass_at"]["8"] == pytest.approx(sum(any(passed[i : i + 8]) for i in range(0, 480, 8)) / 60, abs=1e-6)
    assert summary["pass_at"]["8"] > 0.2
    dialogs = list(read_rows(samples.path / "accepted.jsonl", Dialog))
    references = {task.prompt[0].content: task.reference for task in first}
    assert dialogs and all(references[d.messages[0].content] == d.messages[1].content for d in dialogs)
    written = {tuple(row.ids) for row in rows}
    for dialog in dialogs:  # training sees exactly the sampled ids
        rendered = render(TOKENIZER, dialog.messages)
        assert tuple(rendered.ids[rendered.spans[-1][0] :]) in written
        assert rendered.ids.count(TOKENIZER.bos_id) == 1
    assert all(p.strength == "significantly" for p in read_rows(samples.path / "preferences.jsonl", Preference))


def test_sampling_again_and_after_a_kill_gives_the_same_bytes(sampled, tmp_path, monkeypatch):
    root, _, tasks, policy, samples = sampled
    monkeypatch.setattr(reject, "PROMPTS_PER_PART", 25)  # other parts, other neighbours in the batch
    scratch = tmp_path / "samples.scratch"
    scratch.mkdir()
    lines = (root / "samples" / "samples.jsonl").read_text().splitlines(keepends=True)
    (scratch / "samples-0.jsonl").write_text("".join(lines[: 25 * 8]))  # what a killed run had finished
    again = run_stage(tmp_path, "post.reject", "samples", [policy, tasks], prompts={"count": 60}, k=8, max_tokens=8, raw=True)
    assert digest_files(again.path)[0] == samples.digest


def test_reward_score_does_not_depend_on_company_or_padding():
    model = RewardModel(toy_model())
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
    scorer = RewardScorer(model, TOKENIZER)
    dialogs = [
        [MessageRow(role="user", content="q" * n), MessageRow(role="assistant", content="a" * (9 - n))] for n in range(1, 8)
    ]
    together = scorer.score([*dialogs, [MessageRow(role="user", content="x"), MessageRow(role="assistant", content="y" * 70)]])[
        :-1
    ]
    alone = [scorer.score([dialog])[0] for dialog in dialogs]
    assert together == pytest.approx(alone, abs=1e-5)
    assert len({round(score, 4) for score in alone}) == len(dialogs)
    ids = render(TOKENIZER, dialogs[0]).ids
    with torch.no_grad():  # read at the last turn's terminator, nowhere else
        expected = model.head(model.trunk.hidden(torch.tensor([ids]))[0, len(ids) - 1]).item()
    assert ids[-1] == TOKENIZER.eot_id and alone[0] == pytest.approx(expected, abs=1e-5)


def test_overlong_dialog_scores_minus_infinity():
    scorer = RewardScorer(RewardModel(toy_model()), TOKENIZER)
    scores = scorer.score(
        [[MessageRow(role="user", content="q"), MessageRow(role="assistant", content="a" * n)] for n in (3, 500)]
    )
    assert math.isfinite(scores[0]) and scores[1] == -math.inf


def test_reward_stage_learns_and_measures_on_held_out_prompts(sampled):
    root, base, tasks, _, samples = sampled
    made = run_stage(root, "post.reward", "reward", [base, tasks, samples], steps=140, lr=3e-3, held=0.3, least_pairs=10)
    summary = made.summary()
    assert not summary["skipped"] and summary["loss"] < 0.6
    best = summary["best_of_n"]
    held = [t for t in list(read_rows(tasks.path / "prompts.jsonl", Task))[:60] if is_held(prompt_id(t.prompt), 0.3)]
    assert best["n"] == 8 and best["random"]["n"] == len(held) > 5
    assert best["random"]["mean"] <= best["oracle"]["mean"] and best["reward"]["mean"] <= best["oracle"]["mean"]
    prefs = list(read_rows(samples.path / "preferences.jsonl", Preference))
    assert summary["pairs"] + summary["held_pairs"] + summary["empty"] == len(prefs)
    scorer = load_reward(made.path)
    right, wrong = ([[*p.context, *p.candidates[i].messages] for p in prefs] for i in (0, 1))
    better = [a > b for a, b in zip(scorer.score(right), scorer.score(wrong), strict=True)]
    assert sum(better) > 0.7 * len(better)  # most of these were trained on


def test_reward_with_too_few_pairs_says_so_and_is_not_used(sampled, tmp_path):
    _, base, tasks, policy, samples = sampled
    made = run_stage(tmp_path, "post.reward", "reward", [base, tasks, samples], least_pairs=10_000)
    assert made.summary()["skipped"] and load_reward(made.path) is None
    plain = run_stage(
        tmp_path, "post.reject", "samples", [policy, tasks, made], prompts={"count": 60}, k=8, max_tokens=8, raw=True
    )
    assert digest_files(plain.path)[0] == samples.digest


def test_prompts_without_room_for_an_answer_are_left_out_with_a_note(tmp_path):
    """In sampling, in labelling steps and in the search alike; a system prompt takes room too."""
    ctx, model, tasks = local_context(tmp_path / "a"), toy_model(max_seq_len=40), toy_tasks(2)
    notes: list[str] = []
    ctx.report = lambda event: notes.append(event["text"])
    assert with_room([(task, None) for task in tasks], model, TOKENIZER, ctx) == [(task, None) for task in tasks] and not notes
    asked = [(tasks[0], "s" * 40), (tasks[1], None)]
    assert with_room(asked, model, TOKENIZER, ctx) == asked[1:]
    assert notes == ["1 prompts leave the model no room for an answer: left out"]


def test_held_prompts_are_the_same_in_every_round():
    keys = [str(i) for i in range(2000)]
    assert 0.12 < sum(is_held(key, 0.15) for key in keys) / 2000 < 0.18
    assert all(is_held(key, 0.3) for key in keys if is_held(key, 0.15))


def test_mean_interval():
    found = mean_interval([0.0, 1.0, 1.0, 1.0])
    assert (found["mean"], found["n"]) == (0.75, 4)
    assert (found["low"], found["high"]) == pytest.approx(wilson(3, 4), abs=1e-6)
    assert mean_interval([1.0, 1.0, 0.9], least=-1.0)["high"] <= 1.0
    assert mean_interval([])["n"] == 0


@pytest.mark.parametrize(
    ("precision", "kernels", "dtype"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("fp32", True, torch.float32),
        ("bf16", False, torch.bfloat16),
    ],
)
def test_policies_are_sampled_from_in_bfloat16_where_that_is_faster(tmp_path, monkeypatch, precision, kernels, dtype):
    monkeypatch.setattr(reject, "runs_native", lambda model: kernels)
    model, tokenizer = reject.open_policy(base_artifact(tmp_path / "base"), reject.Settings(precision=precision))
    assert model.model.embed_tokens.weight.dtype == dtype and not model.training
    assert tokenizer.digest == toy_tokenizer().digest
