"""Pairs: masks, packing, micro-batches, the cached reference."""

from __future__ import annotations

import math
import tracemalloc

import pytest
import torch
import torch.nn.functional as F
from post_toys import assert_same_step, gradients, toy_model, toy_tokenizer
from pydantic import ValidationError

from puna.core.rng import python_stream
from puna.core.stage import local_context
from puna.post.answer_rows import in_blocks
from puna.post.dpo import PairLoss, Settings, cached_reference
from puna.post.examples import Encoded, Ranked, encode_answer, encode_preferences
from puna.post.logits import LogitLoss
from puna.post.pairs import RankedBatches, answer_logps, content_tokens, learnt_tokens, ranked_batch, reference_logps
from puna.post.reward import RankingLoss, RewardModel
from puna.tokenizer.chat import render
from puna.tokenizer.dialog import Candidate, MessageRow, Preference, Provenance
from puna.train.objectives import CrossEntropy
from puna.train.packing import pack

TOKENIZER = toy_tokenizer()


def said(role: str, text: str) -> MessageRow:
    return MessageRow(role=role, content=text)


def ranked_rows(count: int = 8, ranks: int = 2) -> list[Ranked]:
    """Rows with answers of very unequal lengths."""
    rng = python_stream(3, "ranked")
    rows = []
    for i in range(count):
        context = [said("user", "q" * rng.randint(1, 9))]
        answers = [[said("assistant", "".join(rng.choice("abcd") for _ in range(rng.randint(1, 20))))] for _ in range(ranks)]
        rows.append(Ranked(str(i), str(i), [encode_answer(TOKENIZER, context, answer)[0] for answer in answers]))
    return rows


@pytest.mark.parametrize("ranks", [2, 3])
def test_log_probabilities_behind_one_prompt_are_those_behind_copies(ranks: int):
    model, rows = toy_model(), ranked_rows(ranks=ranks)
    apart, together = ranked_batch(rows, 128), in_blocks(rows, 128)
    assert together.tokens() < apart.tokens()
    for one, other in zip(answer_logps(model, apart), answer_logps(model, together), strict=True):
        assert torch.allclose(one, other, atol=1e-4)
    assert torch.equal(content_tokens(apart), content_tokens(together))
    for answers_P in apart.extra["answers_PR"].T:
        assert learnt_tokens(apart, answers_P) == learnt_tokens(together, answers_P)


@pytest.mark.parametrize("kind", ["sigmoid", "ipo", "simpo"])
def test_dpo_gradient_is_the_same_for_any_micro_batch(kind: str):
    model, rows = toy_model(), ranked_rows()
    reference = None if kind == "simpo" else reference_logps(toy_model(seed=1), RankedBatches(rows, 8, 128, seed=0))
    whole = RankedBatches(rows, 8, 128, seed=0, reference=reference)(0)
    single = RankedBatches(rows, 8, 128, seed=0, reference=reference, micro=1)(0)
    together = RankedBatches(rows, 8, 128, seed=0, reference=reference, lay=in_blocks)(0)
    for one in (whole, together):
        assert_same_step(model, PairLoss(0.1, 0.2, kind, gamma=0.5), one, single)


def test_rows_are_kept_in_six_bytes_a_token():
    ids, learnt = list(range(128_000, 128_000 + 5000)), [0, 1] * 2500
    tracemalloc.start()
    encoded = Encoded(ids, learnt, learnt[::-1])
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (encoded.ids, encoded.loss_mask, encoded.format_mask) == (ids, learnt, learnt[::-1]) and size < 7 * len(ids)


def test_lengths_count_the_content_alone():
    rows = ranked_rows()
    answers = [answer for row in rows for answer in row.answers]
    expected = [sum(m and not f for m, f in zip(a.loss_mask, a.format_mask, strict=True)) for a in answers]
    assert content_tokens(ranked_batch(rows, 128)).tolist() == expected and min(expected) > 0


def test_ipo_without_beta_is_refused():
    with pytest.raises(ValidationError, match="beta must be over 0"):
        Settings(loss="ipo", beta=0)


def test_reward_gradient_is_the_same_for_any_micro_batch():
    model = RewardModel(toy_model())
    torch.nn.init.normal_(model.head.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    rows = [*ranked_rows(5, 3), *ranked_rows(3, 2)]
    whole, single = RankedBatches(rows, 8, 128, seed=0)(0), RankedBatches(rows, 8, 128, seed=0, micro=1)(0)
    assert_same_step(model, RankingLoss(), whole, single)


def test_distillation_gradient_is_the_same_for_any_micro_batch():
    answers = [answer for row in ranked_rows() for answer in row.answers]
    examples = [(answer.ids, answer.loss_mask) for answer in answers]
    whole, single = [pack(examples, None, 128)], [pack([example], None, 128) for example in examples]
    for objective in (LogitLoss(toy_model(seed=1), 8, 0.5), CrossEntropy()):
        assert_same_step(toy_model(), objective, whole, single)


def test_teacher_equal_to_student_gives_no_kl():
    batch = pack([(row.answers[0].ids, row.answers[0].loss_mask) for row in ranked_rows()], None, 128)
    terms, _ = LogitLoss(toy_model(), 8, 0.5).sums(toy_model(), batch)
    assert abs(terms["kl"].item()) < 1e-4
    ce, _ = CrossEntropy().sums(toy_model(), batch)
    assert terms["ce"].item() == pytest.approx(ce["ce"].item(), rel=1e-6)


def test_packed_answers_equal_answers_alone():
    model, rows = toy_model(), ranked_rows()
    packed = answer_logps(model, ranked_batch(rows, 128))
    answers = [answer for row in rows for answer in row.answers]
    for i, answer in enumerate(answers):
        content, whole = answer_logps(model, ranked_batch([Ranked("", "", [answer])], 128))
        assert content.item() == pytest.approx(packed[0][i].item(), abs=1e-4)
        assert whole.item() == pytest.approx(packed[1][i].item(), abs=1e-4)


def test_log_probability_covers_the_answer_alone_and_leaves_format_out():
    """Against a plain loop over the rendered ids: neither prompt nor header, the terminator only with format."""
    model = toy_model()
    context = [said("user", "ab"), said("assistant", "xy"), said("user", "c")]
    encoded, prompt = encode_answer(TOKENIZER, context, [said("assistant", "wvu")])
    ids = render(TOKENIZER, [*context, said("assistant", "wvu")]).ids
    assert encoded.ids == ids and ids[:prompt] == render(TOKENIZER, context, generation_prompt=True).ids
    with torch.no_grad():
        logps = F.log_softmax(model(torch.tensor([ids])), -1)[0]
    steps = [logps[i, ids[i + 1]].item() for i in range(prompt - 1, len(ids) - 1)]
    content, whole = answer_logps(model, ranked_batch([Ranked("", "", [encoded])], 128))
    assert ids[-1] == TOKENIZER.eot_id and len(steps) == 4
    assert content.item() == pytest.approx(sum(steps[:-1]), abs=1e-4)
    assert whole.item() == pytest.approx(sum(steps), abs=1e-4)


def test_first_step_is_log_two_plus_nll(tmp_path):
    model, rows = toy_model(), ranked_rows()
    batches = RankedBatches(rows, 8, 128, seed=0)
    batches.reference = cached_reference(model, batches, "digest", local_context(tmp_path / "dpo"))
    batch, objective = batches(0)[0], PairLoss(0.1, 0.2)
    terms, others = objective.sums(model, batch)
    counts = objective.counts(batch)
    chosen = [row.answers[0] for row in rows]
    nll, _ = CrossEntropy().sums(model, pack([(a.ids, a.loss_mask) for a in chosen], None, 128))
    assert terms["dpo"].item() / counts["dpo"] == pytest.approx(math.log(2), abs=1e-5)
    assert abs(others["margin"].item()) < 1e-4
    assert counts["nll"] == sum(sum(answer.loss_mask) for answer in chosen)
    assert terms["nll"].item() == pytest.approx(nll["ce"].item(), rel=1e-5)


def test_cached_reference_is_the_fresh_one_and_bound_to_what_it_depends_on(tmp_path):
    ctx, rows = local_context(tmp_path / "dpo"), ranked_rows()
    batches = RankedBatches(rows, 4, 128, seed=0)
    first = cached_reference(toy_model(), batches, "policy", ctx)
    torch.testing.assert_close(first, reference_logps(toy_model(), batches))
    again = cached_reference(toy_model(seed=5), batches, "policy", ctx)  # a half-trained model under the same policy
    assert torch.equal(first, again)
    assert len(list(ctx.scratch.glob("reference-*.safetensors"))) == 1
    other = cached_reference(toy_model(seed=5), batches, "another", ctx)
    assert not torch.equal(first, other)
    cached_reference(toy_model(), RankedBatches(rows[:4], 4, 128, seed=0), "policy", ctx)
    assert len(list(ctx.scratch.glob("reference-*.safetensors"))) == 3


def test_nll_keeps_the_chosen_answer_likely():
    """Likelihood displacement: with the NLL term the chosen log-probability does not fall while the pair is learnt."""
    rows = ranked_rows(4)
    model = toy_model()
    batches = RankedBatches(rows, 4, 128, seed=0)
    batches.reference = reference_logps(model, batches)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    objective = PairLoss(0.1, 0.2)
    for step in range(30):
        gradients(model, objective, batches(step))
        optimizer.step()
    _, others = objective.sums(model, batches(0)[0])
    assert others["chosen_shift"].item() / 4 > 0
    assert others["margin"].item() > 0


def test_pairs_that_cannot_be_learnt_are_counted():
    provenance = Provenance(source="toy", licence="CC0-1.0")

    def pair(good: str, bad: str, strength: str = "better") -> Preference:
        candidates = [Candidate(messages=[said("assistant", text)], origin="x") for text in (good, bad)]
        return Preference(id=good + bad + strength, context=[said("user", "q")], candidates=candidates, ranking=[0, 1],
                          strength=strength, provenance=provenance)  # fmt: skip

    found = encode_preferences(TOKENIZER, [pair("a", "b"), pair("a", ""), pair("a", "x" * 99), pair("a", "c", "slightly")], 64)
    assert len(found.rows) == 1
    assert (found.left.empty, found.left.overlong, found.weak) == (1, 1, 1)


def test_three_ranked_answers_keep_their_order():
    provenance = Provenance(source="toy", licence="CC0-1.0")
    candidates = [Candidate(messages=[said("assistant", text)], origin="x") for text in ("b", "d", "a", "c")]
    row = Preference(id="1", context=[said("user", "q")], candidates=candidates, ranking=[2, 0, 3, 1], provenance=provenance)
    three, two = (encode_preferences(TOKENIZER, [row], 64, ranks=ranks).rows[0].answers for ranks in (3, 2))
    word = lambda answer: TOKENIZER.decode(answer.ids[-2:-1])  # noqa: E731
    assert [word(a) for a in three] == ["a", "b", "d"]
    assert [word(a) for a in two] == ["a", "d"]
