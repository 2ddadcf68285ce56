"""Reward rows: all answers behind one prompt give the scores and gradients of separate documents; what is said of a model."""

from __future__ import annotations

import math

import pytest
import torch
from post_toys import PROVENANCE, base_artifact, run_stage, tasks_artifact, toy_model, toy_tokenizer

from puna.core.rng import python_stream
from puna.post.answer_rows import AnswerRows, answer_rows, row_tokens, shared_tokens, within
from puna.post.examples import encode_preferences
from puna.post.pairs import ABSENT, RankedBatches, answer_logps, ranked_batch
from puna.post.prompts import prompt_key
from puna.post.reward import RankingLoss, RewardModel, RewardScorer, best_weight, is_held, load_reward, start_likelihood
from puna.post.reward_measure import Pair, calibration, length_bias, scored_pairs
from puna.tokenizer.dialog import Candidate, Dialog, MessageRow, Preference, content_id, read_rows, write_rows

TOKENIZER = toy_tokenizer()


def preference(prompt: str, *answers: str, turns: int = 1) -> Preference:
    """Answers to a prompt, best first, after earlier turns."""
    earlier = [MessageRow(role=role, content="hm") for _ in range(turns - 1) for role in ("user", "assistant")]
    context = [*earlier, MessageRow(role="user", content=prompt)]
    candidates = [Candidate(messages=[MessageRow(role="assistant", content=text)], origin="x") for text in answers]
    return Preference(id=content_id([prompt, *answers]), context=context, candidates=candidates,
                      ranking=list(range(len(answers))), provenance=PROVENANCE)  # fmt: skip


PREFERENCES = [
    preference("what is it?", "a fish", "a fish or so"),
    preference("which of these?", "this", "that", "neither of them"),
    preference("and again", "", "x", turns=2),  # an empty answer is left out
    preference("and again", "well, well", "w", turns=3),
    preference("q", "1", "2", "3"),
]
ROWS = encode_preferences(TOKENIZER, PREFERENCES, 128).rows


def reward_model(likelihood: bool = False) -> RewardModel:
    model = RewardModel(toy_model(), likelihood=likelihood)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
    if likelihood:
        torch.nn.init.constant_(model.head.likelihood, 0.25)
    return model


def orders(seed: int) -> list[list[int]]:
    rng = python_stream(seed, "orders")
    return [rng.sample(range(len(row.answers)), len(row.answers)) for row in ROWS]


@pytest.mark.parametrize("likelihood", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_of_blocks_are_those_of_documents(seed: int, likelihood: bool):
    model = reward_model(likelihood)
    alone, together = ranked_batch(ROWS, 128), answer_rows(ROWS, 128, "blocks", orders(seed))
    assert torch.equal(alone.extra["answers_PR"], together.extra["answers_PR"])
    assert together.tokens() == sum(map(row_tokens, ROWS)) < alone.tokens()
    for gradient in (False, True):
        with torch.set_grad_enabled(gradient):
            assert torch.allclose(model(alone), model(together), atol=1e-5)


@pytest.mark.parametrize("likelihood", [False, True])
def test_a_likelihood_adds_the_answers_log_probability(likelihood: bool):
    model, batch = reward_model(likelihood), ranked_batch(ROWS, 128)
    plain = reward_model()
    with torch.no_grad():
        _, logps_N = answer_logps(model.trunk, batch)
        due = plain(batch) + 0.25 * logps_N * likelihood
        assert torch.allclose(model(batch), due, atol=1e-5)


@pytest.mark.parametrize("likelihood", [False, True])
def test_gradients_of_blocks_are_those_of_documents(likelihood: bool):
    gradients = []
    for batch in (ranked_batch(ROWS, 128), answer_rows(ROWS, 128, "blocks", orders(3))):
        model = reward_model(likelihood)
        RankingLoss().sums(model, batch)[0]["ranking"].backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert ("head.likelihood" in gradients[0], "trunk.lm_head.weight" in gradients[0]) == (likelihood, likelihood)
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-5), name


def test_answers_of_the_papers_row_see_those_before_them_and_blocks_do_not():
    row = [ROWS[1]]
    model = reward_model()
    forward, backward = [0, 1, 2], [2, 1, 0]
    with torch.no_grad():
        plain = [model(answer_rows(row, 128, "row", [order])) for order in (forward, backward)]
        blocks = [model(answer_rows(row, 128, "blocks", [order])) for order in (forward, backward)]
        alone = model(ranked_batch(row, 128))
    assert torch.allclose(plain[0][0], alone[0], atol=1e-5)  # the first in the row has only the prompt before it
    assert torch.allclose(plain[1][2], alone[2], atol=1e-5)
    assert (plain[0][1:] - alone[1:]).abs().min() > 1e-4 and (plain[0] - plain[1]).abs().max() > 1e-4
    assert torch.allclose(blocks[0], blocks[1], atol=1e-5)


def test_positions_go_on_where_the_prompt_ends():
    row = ROWS[1]
    prompt, lengths = shared_tokens(row), [len(answer.ids) for answer in row.answers]
    batch = answer_rows([row], 128, "blocks", [[2, 0, 1]])
    expected = [*range(prompt), *(p for i in (2, 0, 1) for p in range(prompt, lengths[i]))]
    assert batch.positions_BT[0, : len(expected)].tolist() == expected
    assert batch.ids_BT[0, batch.extra["ends_N"]].tolist() == [TOKENIZER.eot_id] * 3
    assert prompt == len(row.answers[0].ids) - sum(row.answers[0].loss_mask)
    running = answer_rows([row], 128, "row", [[2, 0, 1]])
    assert running.positions_BT[0, : len(expected)].tolist() == list(range(len(expected)))


def test_batches_are_a_function_of_the_step_and_shuffle_anew():
    batches = AnswerRows(ROWS, 4, 128, 5, form="row", micro=3)
    first, again = batches(7), AnswerRows(ROWS, 4, 128, 5, form="row", micro=3)(7)
    assert [len(batch.extra["answers_PR"]) for batch in first] == [3, 1]
    assert all(torch.equal(a.ids_BT, b.ids_BT) for a, b in zip(first, again, strict=True))
    seen = {tuple(batches._shuffled(draw)) for draw in range(40) if len(batches._shuffled(draw)) == 3}
    assert len(seen) == 6
    documents = RankedBatches(ROWS, 4, 128, 5)
    answers = int((documents(7)[0].extra["answers_PR"] != ABSENT).sum())
    assert sum(int((batch.extra["answers_PR"] != ABSENT).sum()) for batch in first) == answers  # the same rows are drawn


def test_only_the_papers_row_has_to_fit_whole():
    longest = max(map(row_tokens, ROWS))
    assert len(within(ROWS, longest - 1, "row")) == len(ROWS) - 1
    assert len(within(ROWS, 1, "blocks")) == len(ROWS)


@pytest.mark.parametrize("form", ["blocks", "row"])
def test_the_stage_learns_in_every_form(tmp_path, form: str):
    base, tasks = base_artifact(tmp_path / "base"), tasks_artifact(tmp_path / "tasks", gold=4, prompts=4, dev=4)
    rows = [preference(f"{n % 50} or {n}?", "yes" * (1 + n % 3), "no", "never" * (1 + n % 2)) for n in range(60)]
    write_rows(tasks.path / "preferences.jsonl", rows)
    made = run_stage(tmp_path, "post.reward", "reward", [base, tasks], form=form, steps=30, lr=1e-2, held=0.3, least_pairs=10,
                     pairs_per_step=16)  # fmt: skip
    summary = made.summary()
    assert summary["loss"] < 0.4 and summary["pair_accuracy"]["mean"] > 0.9
    assert summary["calibration"]["bins"] and summary["length_bias"]["accuracy_where_better_is"]["shorter"]["mean"] > 0.8
    scorer = load_reward(made.path)
    best, worst = ([*rows[0].context, *rows[0].candidates[i].messages] for i in (0, 2))
    assert scorer.score([best])[0] > scorer.score([worst])[0]


def test_calibration_of_a_model_that_knows_its_own_chances():
    rng, pairs = python_stream(0, "calibration"), []
    for _ in range(8000):
        sure = rng.uniform(0, 4)
        right = rng.random() < 1 / (1 + math.exp(-sure))
        pairs.append(Pair("k", sure if right else -sure, 1, 10))
    found = calibration(pairs)
    assert found["error"] < 0.02 and sum(one["actual"]["n"] for one in found["bins"]) == 8000
    assert [one["from"] for one in found["bins"]] == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert all(abs(one["predicted"] - one["actual"]["mean"]) < 0.04 for one in found["bins"])
    sharper = calibration([Pair("k", 4 * pair.score, 1, 10) for pair in pairs])
    assert sharper["error"] > 0.05
    assert calibration([]) == {"bins": [], "error": None}


def test_bias_to_length_is_seen_where_it_is():
    rng = python_stream(0, "lengths")
    lengths = [(rng.randrange(5, 50), rng.randrange(5, 50)) for _ in range(2000)]
    counts = length_bias([Pair("k", float(a - b), a - b, max(a, b)) for a, b in lengths])  # a model that counts tokens
    groups = counts["accuracy_where_better_is"]
    assert counts["longer_is_preferred"]["mean"] == 1 and counts["correlation"] == 1
    assert groups["longer"]["mean"] == 1 and groups["shorter"]["mean"] == 0
    assert abs(counts["longer_is_better"]["mean"] - 0.5) < 0.05
    fair = length_bias([Pair("k", rng.gauss(1, 1), a - b, max(a, b)) for a, b in lengths])
    assert abs(fair["correlation"]) < 0.06
    assert abs(fair["accuracy_where_better_is"]["longer"]["mean"] - fair["accuracy_where_better_is"]["shorter"]["mean"]) < 0.08


def test_pairs_of_three_ranked_answers_in_order():
    pairs = scored_pairs([ROWS[1]], [3.0, 1.0, 2.0])
    assert [pair.score for pair in pairs] == [2.0, 1.0, -1.0] and [pair.right for pair in pairs] == [1.0, 1.0, 0.0]
    tokens = [sum(answer.loss_mask) for answer in ROWS[1].answers]
    assert [pair.tokens for pair in pairs] == [tokens[0] - tokens[1], tokens[0] - tokens[2], tokens[1] - tokens[2]]


def test_prompts_that_the_trunk_has_seen_answers_to_are_not_measured_on(tmp_path):
    base, tasks = base_artifact(tmp_path / "base"), tasks_artifact(tmp_path / "tasks")
    seen = [dialog.messages[0].content for dialog in read_rows(tasks.path / "train.jsonl", Dialog)]
    asked = [*seen, *(f"new {i}" for i in range(30))]
    write_rows(tasks.path / "preferences.jsonl", [preference(text, "yes", "no way") for text in asked])
    policy = run_stage(tmp_path, "post.sft", "policy", [base, tasks], steps=1, dev=2, max_tokens=2)
    settings = {"steps": 1, "least_pairs": 1, "held": 0.4}
    fresh, tuned = (
        run_stage(tmp_path, "post.reward", f"reward-{model.name}", [model, tasks], **settings).summary()
        for model in (base, policy)
    )
    held = [text for text in asked if is_held(prompt_key([MessageRow(role="user", content=text)]), 0.4)]
    assert fresh["held_pairs"] == len(held) and fresh["pairs"] == tuned["pairs"] == len(asked) - len(held)
    assert 0 < tuned["held_pairs"] == sum(text not in seen for text in held) < len(held)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_likelihood_begins_with_the_weight_that_orders_the_pairs_best(sign: int):
    differences = [sign * value for value in (4.0, 3.0, -1.0, 2.0, -0.5)]
    found = best_weight(differences)
    losses = [sum(math.log1p(math.exp(-w * d)) for d in differences) for w in (found, found + 0.01, max(0.0, found - 0.01))]
    assert losses[0] == min(losses) and (found > 0.1 if sign > 0 else found == 0.0)
    assert best_weight([2.0, 1.0]) == pytest.approx(1.0)


def test_likely_answers_that_are_worse_do_not_count():
    """Short answers are likely; where the longer one is better the score begins without the likelihood."""
    longer, shorter = (
        encode_preferences(TOKENIZER, [preference(f"q{i}", *answers) for i in range(6)], 128).rows
        for answers in (("a long answer with many words", "no"), ("no", "a long answer with many words"))
    )
    scorer = RewardScorer(reward_model(True), TOKENIZER)
    torch.nn.init.zeros_(scorer.model.head.weight)
    assert start_likelihood(scorer, longer) == 0.0 == scorer.model.head.likelihood.item()
    assert start_likelihood(scorer, shorter) > 0.1
