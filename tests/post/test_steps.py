"""Steps of reasoning on a toy whose truth is known: an answer of coins is right only if every one shows 1."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pytest
import torch
from post_toys import PROVENANCE, base_artifact, finished, run_stage, tasks_artifact, toy_model, toy_tokenizer

from puna.core.errors import InputError
from puna.core.rng import python_stream
from puna.infer.engine import Completion, Engine, Request
from puna.post import search, step_reward, steps
from puna.post.reject import prompt_ids
from puna.post.reward import RewardModel
from puna.post.steps import Labelled, label, step_ends
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.dialog import Dialog, MessageRow, Preference, Sample, Task, read_rows, write_rows

TOKENIZER = toy_tokenizer()
EOT = TOKENIZER.eot_id
ONE, ZERO, LINE = (TOKENIZER.encode(text)[0] for text in ("1", "0", "\n"))


class Coins:
    """An engine that tosses fair coins, a line each, and stops after `depth` of them."""

    max_seq_len = 4096

    def __init__(self, depth: int):
        self.depth, self.drawn = depth, 0

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        return [[self._toss(request, index) for index in range(request.n)] for request in requests]

    def _toss(self, request: Request, index: int) -> Completion:
        self.drawn += 1
        rng = python_stream(request.seed, index)
        tossed = sum(token in (ONE, ZERO) for token in request.prompt_ids)  # the prompts of the toy hold no digits
        ids: list[int] = []
        for _ in range(self.depth - tossed):
            ids += [rng.choice((ONE, ZERO)), LINE]
        cut = ids[: request.max_tokens]
        return Completion(cut, len(cut) == len(ids), EOT if len(cut) == len(ids) else None, 0.0)


def coins_task(depth: int, name: str = "toss") -> Task:
    wanted = " ".join(["1"] * depth)
    return Task(
        id=name, prompt=[MessageRow(role="user", content=name)], verifier="exact", reference=wanted, provenance=PROVENANCE
    )


def truth(ids: Sequence[int], depth: int) -> float:
    """Chance that an answer which begins so ends right."""
    tossed = [token for token in ids if token in (ONE, ZERO)]
    return 0.0 if ZERO in tossed else 0.5 ** (depth - len(tossed))


def coins(text: str, end: bool = True) -> list[int]:
    return [token for toss in text for token in (ONE if toss == "1" else ZERO, LINE)] + [EOT] * end


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("2 + 3 = 5.\n5 * 2 = 10.\nAnswer: 10", ["2 + 3 = 5.\n", "5 * 2 = 10.\n", "Answer: 10"]),
        ("12 + 5 = 17. 17 - 3 = 14. Answer: 14", ["12 + 5 = 17.", " 17 - 3 = 14.", " Answer: 14"]),
        ("It is 3.5 or .5 m", ["It is 3.5 or .5 m"]),
        ("one\n\n\ntwo", ["one\n", "\n\ntwo"]),
        ("\n\none line", ["\n\none line"]),
        ("Why? Because! So; yes.", ["Why?", " Because!", " So;", " yes."]),
        ("x", ["x"]),
    ],
)
def test_steps_end_where_lines_and_sentences_do(text: str, parts: list[str]):
    split = [token for char in text for token in TOKENIZER.encode(char)]  # single characters: a step must not depend on merges
    for ids in (split, TOKENIZER.encode(text)):
        ends = step_ends(TOKENIZER, [*ids, EOT])
        assert ends[-1] == len(ids)
        starts = [0, *(end + 1 for end in ends[:-1])]
        found = [TOKENIZER.decode(ids[a : b + 1]) for a, b in zip(starts, ends, strict=True)]
        assert "".join(found) == text
        if ids is split:
            assert found == parts
    assert step_ends(TOKENIZER, []) == [] and step_ends(TOKENIZER, [EOT]) == [0]


def test_labels_are_the_share_of_right_ends():
    depth, settings = 4, steps.Settings(k=24, rollouts=256, max_tokens=64)
    rows = list(label(Coins(depth), TOKENIZER, [coins_task(depth)], settings, 0))
    assert len(rows) == 24
    seen = set()
    for row in rows:
        assert [row.ids[end] for end in row.ends[:-1]] == [LINE] * depth and row.ids[row.ends[-1]] == EOT
        assert row.values[-1] == row.passed == truth(row.ids, depth)
        for end, value in zip(row.ends[:-1], row.values[:-1], strict=True):
            real = truth(row.ids[: end + 1], depth)
            assert abs(value - real) <= 4 * math.sqrt(real * (1 - real) / 256)
            seen.add((tuple(row.ids[: end + 1]), value))
    assert len(seen) == len({ids for ids, _ in seen})  # one label for one beginning, whoever wrote it


def test_unfinished_answers_end_in_nothing_and_long_ones_are_labelled_in_part():
    settings = steps.Settings(k=4, rollouts=4, max_tokens=5)
    for row in label(Coins(6), TOKENIZER, [coins_task(6)], settings, 0):
        assert not row.passed and row.values == [0.0, 0.0, 0.0] and row.ends == [1, 3, 4]
    few = steps.Settings(k=4, rollouts=4, most_steps=2)
    for row in label(Coins(6), TOKENIZER, [coins_task(6)], few, 0):
        assert row.ends == [1, 3] and len(row.values) == 2


def labelled(depth: int, prompts: int) -> list[Labelled]:
    """Answers of coins with their true labels."""
    rng, rows = python_stream(0, "coins"), []
    for n in range(prompts):
        task = coins_task(depth, f"toss {'abcdefghij'[n % 10]}{'abcdefghij'[n // 10]}")
        for _ in range(4):
            text = "".join("1" if rng.random() < 0.75 else "0" for _ in range(depth))
            ids = coins(text)
            ends = step_ends(TOKENIZER, ids)
            values = [truth(ids[: end + 1], depth) for end in ends]
            rows.append(Labelled(task_id=task.id, prompt=task.prompt, ids=ids, ends=ends, values=values,
                                 passed="0" not in text))  # fmt: skip
    return rows


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A step model and an outcome model of coins."""
    root = tmp_path_factory.mktemp("models")
    (root / "labels").mkdir()
    write_rows(root / "labels" / steps.LABELS, labelled(3, 60))
    base = base_artifact(root / "base")
    (root / "labels" / steps.TOKENS).write_text(json.dumps({"tokenizer": Tokenizer.load(base.path).digest}))
    labels = finished(root / "labels", "steps", "labels")
    return {
        target: run_stage(
            root, "post.step_reward", target, [base, labels], target=target, steps=90, lr=1e-2, held=0.2, answers_per_step=16
        )
        for target in ("steps", "outcome")
    }


def test_the_step_model_learns_the_chances(models):
    scorer, prompt = step_reward.load_steps(models["steps"]), prompt_ids(TOKENIZER, coins_task(3, "toss db").prompt)
    for text, chance in {"1": 0.25, "11": 0.5, "111": 1.0, "0": 0.0, "10": 0.0, "110": 0.0}.items():
        assert abs(scorer.values([[*prompt, *coins(text, end=False)]])[0] - chance) < 0.12, text
    summary = models["steps"].summary()
    assert summary["held_loss"] < 0.6 * summary["held_loss_of_mean"] and summary["correlation"] > 0.9
    best = summary["best_of_k"]
    assert best["reward"]["mean"] > best["random"]["mean"] + 0.2
    assert summary["held_answers"] + summary["answers"] == 240


def test_the_outcome_model_reads_the_end_alone(models):
    summary = models["outcome"].summary()
    assert summary["held_loss"] < 0.3 * summary["held_loss_of_mean"]
    assert summary["best_of_k"]["reward"]["mean"] > summary["best_of_k"]["random"]["mean"] + 0.2
    with pytest.raises(InputError, match="knows whole answers only"):
        step_reward.load_steps(models["outcome"])


def test_steps_are_read_at_their_ends_whatever_shares_the_row():
    rows = [step_reward.worked(TOKENIZER, row, "steps") for row in labelled(3, 3)]
    model = RewardModel(toy_model())
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together = model(step_reward.step_batch(rows, 256)).tolist()
        expected = [model.head(model.trunk.hidden(torch.tensor([row.ids]))[0, end]).item() for row in rows for end in row.ends]
        values = [1 / (1 + math.exp(-x)) for x in expected[: len(rows[0].ends)]]
        scorer = step_reward.StepScorer(model, TOKENIZER)
        assert scorer.values([rows[0].ids[: end + 1] for end in rows[0].ends]) == pytest.approx(values, abs=1e-5)
    assert together == pytest.approx(expected, abs=1e-5)


def test_search_finds_what_sampling_does_not():
    depth, tasks = 8, [(coins_task(8, f"toss {letter}"), None) for letter in "abcdefghijklmnop"]
    settings = search.Settings(k=4, simulations=40, max_tokens=64)
    engine = Coins(depth)

    def values(beginnings: Sequence[Sequence[int]]) -> list[float]:
        return [truth(ids, depth) for ids in beginnings]

    trees = search.search(engine, TOKENIZER, tasks, values, "p", settings, 0)
    assert all(tree.found() for tree in trees)
    drawn = engine.drawn / len(tasks)
    assert drawn < 60  # sampling whole answers needs 256 on average
    again = search.search(Coins(depth), TOKENIZER, tasks, values, "p", settings, 0)
    assert [tree.samples for tree in again] == [tree.samples for tree in trees]
    blind = search.search(Coins(depth), TOKENIZER, tasks, lambda b: [0.5] * len(b), "p", settings, 0)
    assert sum(tree.found() for tree in blind) < len(tasks) * 0.8  # the step model is what finds them
    for tree in trees:
        for sample in tree.samples:
            assert sample.finished and len(sample.ids) == 2 * depth + 1 and sample.text.count("\n") == depth


def test_labels_and_search_of_a_real_policy(tmp_path):
    """The stages in a row, with a random model: what they write is what later stages read."""
    base, tasks = base_artifact(tmp_path / "base"), tasks_artifact(tmp_path / "tasks", gold=24, prompts=30, dev=4)
    policy = run_stage(tmp_path, "post.sft", "policy", [base, tasks], steps=30, lr=1e-2, batch_tokens=512, max_tokens=8)
    labels = run_stage(tmp_path, "post.steps", "labels", [policy, tasks], k=2, rollouts=4, max_tokens=8)
    assert labels.summary()["answers"] == 60 and 0 < labels.summary()["passed"] < 60
    model = run_stage(tmp_path, "post.step_reward", "worth", [base, labels], steps=5, least_answers=10)
    samples = run_stage(tmp_path, "post.reject", "samples", [policy, tasks], k=2, max_tokens=8)
    inputs = [policy, tasks, model, samples]
    made = run_stage(tmp_path, "post.search", "search", inputs, k=4, simulations=3, max_tokens=8)
    summary, rows = made.summary(), list(read_rows(made.path / "samples.jsonl", Sample))
    hard = {task.id for task in search.hard_tasks(tasks, [samples])}
    assert 0 < summary["prompts"] == len(hard) < 30 and {row.task_id for row in rows} == hard
    solved = {row.task_id for row in rows if row.scores["verifier"] > 0}
    assert summary["solved"]["mean"] == pytest.approx(len(solved) / len(hard), abs=1e-5)
    accepted = list(read_rows(made.path / "accepted.jsonl", Dialog))
    assert set() < {dialog.provenance.parents[0] for dialog in accepted} <= solved
    assert list(read_rows(made.path / "preferences.jsonl", Preference))
    assert json.loads((made.path / "policy.json").read_text())["policy"] == policy.digest
    learnt = run_stage(tmp_path, "post.sft", "next", [base, tasks, made], steps=2, max_tokens=8)
    assert learnt.summary()["dialogs"]["samples"] == len(accepted)
    scratch = tmp_path / "again" / "search.scratch"
    scratch.mkdir(parents=True)
    (scratch / "samples-0.jsonl").write_text((made.path / "samples.jsonl").read_text())  # what a killed run had finished
    resumed = run_stage(tmp_path / "again", "post.search", "search", inputs, k=4, simulations=3, max_tokens=8)
    assert resumed.digest == made.digest


def test_the_prefix_cache_changes_no_label():
    settings, rows = steps.Settings(k=2, rollouts=3, max_tokens=8), []
    for cached in (True, False):
        engine = Engine(toy_model(), stop_ids=TOKENIZER.stop_ids, prefix_cache=cached)
        rows.append(list(label(engine, TOKENIZER, [coins_task(2)], settings, 3)))
    assert rows[0] == rows[1] and len(rows[0]) == 2


def test_labels_of_another_tokenizer_are_refused(models, tmp_path):
    (tmp_path / "labels").mkdir()
    write_rows(tmp_path / "labels" / steps.LABELS, labelled(3, 4))
    (tmp_path / "labels" / steps.TOKENS).write_text('{"tokenizer": "another"}')
    base, labels = base_artifact(tmp_path / "base"), finished(tmp_path / "labels", "steps", "labels")
    with pytest.raises(InputError, match="another tokenizer"):
        run_stage(tmp_path, "post.step_reward", "steps", [base, labels], steps=1)
