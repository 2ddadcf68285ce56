"""Traps of post-training that no neighbouring test catches, against independent references; docs/traps.md lists them all."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from post_toys import PROVENANCE, base_artifact, finished, run_stage, tasks_artifact, toy_model, toy_tokenizer

from puna.core.errors import InputError
from puna.core.rng import python_stream
from puna.core.stage import local_context
from puna.infer.engine import Engine, Request
from puna.model.checkpoint import save_model
from puna.post import dpo, lora
from puna.post.average import averaged
from puna.post.dpo import PairLoss, cached_reference
from puna.post.examples import Ranked, encode_answer, encode_dialog
from puna.post.logits import LogitLoss
from puna.post.lora import Lora
from puna.post.pairs import RankedBatches, ranked_batch, reference_logps
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.dialog import Dialog, MessageRow
from puna.train.loop import train
from puna.train.optim import OptimSettings
from puna.train.packing import IGNORED, PADDING, pack
from puna.train.schedule import Schedule

TOKENIZER = toy_tokenizer()
CALL = '{"name": "add", "parameters": {}}'
TOOLS = '[{"type": "function", "function": {"name": "add"}}]'


def said(role: str, content: str = "", **more: object) -> MessageRow:
    return MessageRow(role=role, content=content, **more)


def pairs(count: int = 6) -> list[Ranked]:
    """Pairs of answers whose lengths differ."""
    rng, rows = python_stream(5, "traps"), []
    for i in range(count):
        context = [said("user", "q" * rng.randint(1, 9))]
        answers = [[said("assistant", "".join(rng.choice("abcd") for _ in range(rng.randint(1, 15))))] for _ in range(2)]
        rows.append(Ranked(str(i), str(i), [encode_answer(TOKENIZER, context, answer)[0] for answer in answers]))
    return rows


# ---- what is learnt -------------------------------------------------------------------------------------------------------

USER, ASSISTANT = "<|start_header_id|>user<|end_header_id|>\n\n", "<|start_header_id|>assistant<|end_header_id|>\n\n"
SYSTEM, TOOL = "<|start_header_id|>system<|end_header_id|>\n\n", "<|start_header_id|>ipython<|end_header_id|>\n\n"
LEARNT = [  # name, messages, the whole text with [what is learnt] in brackets
    ("one turn", [said("user", "a"), said("assistant", "b")], f"{USER}a<|eot_id|>{ASSISTANT}[b<|eot_id|>]"),
    ("system", [said("system", "s"), said("user", "a"), said("assistant", "b")],
     f"{SYSTEM}s<|eot_id|>{USER}a<|eot_id|>{ASSISTANT}[b<|eot_id|>]"),
    ("every turn", [said("user", "a"), said("assistant", "b"), said("user", "c"), said("assistant", "d")],
     f"{USER}a<|eot_id|>{ASSISTANT}[b<|eot_id|>]{USER}c<|eot_id|>{ASSISTANT}[d<|eot_id|>]"),
    ("last turn alone", [said("user", "a"), said("assistant", "b", train=False), said("user", "c"), said("assistant", "d")],
     f"{USER}a<|eot_id|>{ASSISTANT}b<|eot_id|>{USER}c<|eot_id|>{ASSISTANT}[d<|eot_id|>]"),
    ("first turn alone", [said("user", "a"), said("assistant", "b"), said("user", "c"), said("assistant", "d", train=False)],
     f"{USER}a<|eot_id|>{ASSISTANT}[b<|eot_id|>]{USER}c<|eot_id|>{ASSISTANT}d<|eot_id|>"),
    ("a call, its result, the answer",
     [said("user", "a"), said("assistant", tool_calls=CALL), said("ipython", "3"), said("assistant", "b")],
     f"{USER}a<|eot_id|>{ASSISTANT}[<|python_tag|>{CALL}<|eom_id|>]{TOOL}3<|eot_id|>{ASSISTANT}[b<|eot_id|>]"),
    ("a call after words", [said("user", "a"), said("assistant", "b", tool_calls=CALL)],
     f"{USER}a<|eot_id|>{ASSISTANT}[b<|python_tag|>{CALL}<|eom_id|>]"),
    ("an empty answer", [said("user", "a"), said("assistant", "")], f"{USER}a<|eot_id|>{ASSISTANT}[<|eot_id|>]"),
    ("an empty question", [said("user", ""), said("assistant", "b")], f"{USER}<|eot_id|>{ASSISTANT}[b<|eot_id|>]"),
    ("white space stays", [said("user", " a\n"), said("assistant", "\n\n b ")],
     f"{USER} a\n<|eot_id|>{ASSISTANT}[\n\n b <|eot_id|>]"),
    ("names of special tokens in a text", [said("user", "<|eot_id|>"), said("assistant", "<|eot_id|>")],
     f"{USER}<|eot_id|><|eot_id|>{ASSISTANT}[<|eot_id|><|eot_id|>]"),
    ("no answer", [said("user", "a")], f"{USER}a<|eot_id|>"),
]  # fmt: skip


@pytest.mark.parametrize(("messages", "expected"), [row[1:] for row in LEARNT], ids=[row[0] for row in LEARNT])
def test_golden_masks_of_twelve_dialogs(messages: list[MessageRow], expected: str):
    """Headers never, content always, one end per assistant turn, one beginning of text."""
    encoded = encode_dialog(TOKENIZER, Dialog(id="1", messages=messages, provenance=PROVENANCE))
    shown, learning = "", False
    for token, learnt in zip(encoded.ids, encoded.loss_mask, strict=True):
        shown += "[" * (bool(learnt) > learning) + "]" * (learning > bool(learnt)) + TOKENIZER.decode([token])
        learning = bool(learnt)
    assert shown + "]" * learning == "<|begin_of_text|>" + expected
    assert encoded.ids.count(TOKENIZER.bos_id) == 1
    ends = [i for i, mask in zip(encoded.ids, encoded.loss_mask, strict=True) if mask and i in TOKENIZER.stop_ids]
    assert len(ends) == sum(row.role == "assistant" and row.train is not False for row in messages)


def test_a_model_is_asked_with_the_ids_it_was_trained_on():
    """What the server gives the engine for a dialog is where the trained dialog of the same messages begins."""
    pytest.importorskip("httpx")
    from fastapi.testclient import TestClient

    from puna.serve.app import build_app

    asked: list[Request] = []

    class Asked(Engine):
        def add(self, request: Request) -> int:
            asked.append(request)
            return super().add(request)

    model = toy_model(max_seq_len=512)
    turns = [said("system", "s"), said("user", "a"), said("assistant", tool_calls=CALL), said("ipython", "3")]
    wire = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "3"}]  # fmt: skip
    app = build_app(Asked(model, stop_ids=TOKENIZER.stop_ids), TOKENIZER, "toy")
    with TestClient(app, base_url="http://127.0.0.1") as client:
        body = {"model": "toy", "messages": wire, "tools": json.loads(TOOLS), "max_tokens": 1}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    dialog = Dialog(id="1", messages=[*turns, said("assistant", "b")], tools=TOOLS, provenance=PROVENANCE)
    encoded = encode_dialog(TOKENIZER, dialog)
    assert asked[0].prompt_ids == encoded.ids[: len(asked[0].prompt_ids)]
    rest = slice(len(asked[0].prompt_ids), None)
    assert encoded.ids[rest] == [*TOKENIZER.encode("b"), TOKENIZER.eot_id] and encoded.loss_mask[rest] == [1, 1]


# ---- pairs ----------------------------------------------------------------------------------------------------------------


def naive(model: torch.nn.Module, row: Ranked, with_format: bool) -> list[float]:
    """Log-probability of each answer, token by token from its own forward pass."""
    found = []
    for answer in row.answers:
        with torch.no_grad():
            logps = F.log_softmax(model(torch.tensor([answer.ids]))[0].double(), -1)
        counted = [i for i in range(1, len(answer.ids)) if answer.loss_mask[i] and (with_format or not answer.format_mask[i])]
        found.append(sum(logps[i - 1, answer.ids[i]].item() for i in counted))
    return found


def test_loss_and_figures_of_pairs_by_a_naive_function():
    """Nothing swapped, beta once, the prompt in no sum, NLL over the chosen tokens of the step with their terminators."""
    policy, start, rows, beta = toy_model(), toy_model(seed=1), pairs(), 0.3
    batches = RankedBatches(rows, len(rows), 128, seed=0)
    batches.reference = reference_logps(start, batches)
    batch, objective = batches.batch(range(len(rows))), PairLoss(beta, 0.2)
    terms, figures = objective.sums(policy, batch)
    shifts = [[new - old for new, old in zip(naive(policy, row, False), naive(start, row, False), strict=True)] for row in rows]
    margins = [beta * (chosen - rejected) for chosen, rejected in shifts]
    assert terms["dpo"].item() == pytest.approx(sum(math.log1p(math.exp(-margin)) for margin in margins), rel=1e-4)
    assert figures["preference_accuracy"].item() == sum(margin > 0 for margin in margins) not in (0, len(rows))
    assert figures["margin"].item() == pytest.approx(sum(margins), abs=1e-3)
    assert figures["chosen_shift"].item() == pytest.approx(sum(chosen for chosen, _ in shifts), abs=1e-3)
    assert figures["rejected_shift"].item() == pytest.approx(sum(rejected for _, rejected in shifts), abs=1e-3)
    assert terms["nll"].item() == pytest.approx(-sum(naive(policy, row, True)[0] for row in rows), rel=1e-5)
    assert objective.counts(batch)["nll"] == sum(sum(row.answers[0].loss_mask) for row in rows)


def test_terminators_pull_in_the_nll_and_not_in_the_preference():
    model, batch = toy_model(), ranked_batch(pairs(), 128)
    batch.extra["reference_PR"] = torch.zeros(6, 2)
    ends = [int(i) - 1 for i in batch.extra["ends_N"]]  # where the terminator is predicted
    seen: dict[str, torch.Tensor] = {}
    head = model.lm_head.forward
    for term in ("dpo", "nll"):
        states: list[torch.Tensor] = []
        model.lm_head.forward = lambda x, states=states: head(states.append(x) or x.retain_grad() or x)
        PairLoss(0.1, 0.2).sums(model, batch)[0][term].backward()
        seen[term] = states[0].grad.abs().sum(1)
    places = {int(place): row for row, place in enumerate(batch.supervised())}
    at_ends = torch.tensor([places[end] for end in ends])
    assert seen["dpo"][at_ends].max() == 0 < seen["dpo"].max()
    chosen = batch.extra["answers_PR"][:, 0]
    assert seen["nll"][at_ends[chosen]].min() > 0
    assert seen["nll"][at_ends[batch.extra["answers_PR"][:, 1]]].max() == 0


def test_lengths_divide_policy_and_reference_alike():
    """IPO at the reference has no difference whatever the lengths, so each loss is (1 / (2 beta))^2."""
    rows, model = pairs(), toy_model()
    batches = RankedBatches(rows, len(rows), 128, seed=0)
    batches.reference = reference_logps(model, batches)
    terms, _ = PairLoss(0.25, 0.0, "ipo").sums(model, batches(0)[0])
    assert terms["dpo"].item() == pytest.approx(len(rows) * 4.0, rel=1e-5)
    assert len({len(answer.ids) for row in rows for answer in row.answers}) > 4


def test_a_pair_without_its_reference_is_an_error_and_no_zero():
    batch = RankedBatches(pairs(), 6, 128, seed=0)(0)[0]
    with pytest.raises(KeyError, match="reference"):
        PairLoss(0.1, 0.2).sums(toy_model(), batch)


def test_the_key_of_a_cached_reference_names_rows_lengths_types_and_rendering(tmp_path, monkeypatch):
    ctx, rows, model = local_context(tmp_path / "dpo"), pairs(), toy_model()
    cached = lambda: {path.name for path in ctx.scratch.glob("reference-*.safetensors")}  # noqa: E731
    kept: list[set[str]] = []

    def ask(batches: RankedBatches, of: torch.nn.Module = model) -> None:
        cached_reference(of, batches, "policy", ctx)
        kept.append(cached())

    ask(RankedBatches(rows, 6, 128, seed=0))
    ask(RankedBatches(rows, 6, 128, seed=0))
    ask(RankedBatches(rows, 6, 256, seed=0))
    ask(RankedBatches(rows, 6, 128, seed=0, micro=2))
    ask(RankedBatches(rows, 6, 128, seed=0), toy_model().bfloat16())
    monkeypatch.setattr(dpo, "RENDERING", dpo.RENDERING + 1)
    ask(RankedBatches(rows, 6, 128, seed=0))
    assert [len(found) for found in kept] == [1, 1, 2, 3, 4, 5]


def test_the_reference_of_adapters_is_the_model_without_them(tmp_path):
    plain, model, rows = toy_model(), lora.adapted(toy_model(), Lora(rank=2), seed=1), pairs()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(2))
    batches = RankedBatches(rows, 6, 128, seed=0)
    found = cached_reference(model, batches, "policy", local_context(tmp_path / "dpo"))
    torch.testing.assert_close(found, reference_logps(plain, batches), atol=1e-4, rtol=0)
    assert (reference_logps(model, batches) - found).abs().max() > 0.1


def test_another_weight_of_a_term_does_not_go_on_from_the_checkpoint(tmp_path):
    """How terms are summed and divided is part of what a checkpoint was trained with."""
    batches, notes = RankedBatches(pairs(), 6, 128, seed=0, reference=torch.zeros(6, 2)), []
    for nll in (0.2, 0.2, 0.5):
        ctx = local_context(tmp_path / "dpo")
        ctx.report = lambda event: notes.append(event.get("text", ""))
        train(toy_model(), PairLoss(0.1, nll), batches, Schedule(steps=1), OptimSettings(lr=1e-3), ctx)
        assert any("other settings" in note for note in notes) is (nll == 0.5)


# ---- the sampler, the teacher, the mean -------------------------------------------------------------------------------------


def test_the_sampler_and_the_trainer_give_a_token_one_probability():
    model = toy_model(seed=2)
    prompts = [TOKENIZER.encode("q" * n) for n in (3, 9)]
    drawn = Engine(model, stop_ids=TOKENIZER.stop_ids).generate(
        [Request(prompt, n=4, temperature=1.0, max_tokens=20, seed=n) for n, prompt in enumerate(prompts)]
    )
    for prompt, samples in zip(prompts, drawn, strict=True):
        ids = [sample.ids + ([] if sample.stop_id is None else [sample.stop_id]) for sample in samples]
        batch = pack([(prompt + one, [0] * len(prompt) + [1] * len(one)) for one in ids], None, 128)
        learnt = batch.supervised()
        ids, answers = batch.targets_BT.reshape(-1)[learnt], batch.documents_BT.reshape(-1)[learnt]
        batch.extra |= {"answers_PR": torch.arange(4)[:, None], "before_S": learnt, "ids_S": ids, "answer_S": answers}
        batch.extra["form_S"] = torch.zeros_like(learnt, dtype=torch.bool)
        with torch.no_grad():
            trained = dpo.answer_logps(model, batch)[1]
        assert trained.tolist() == pytest.approx([sample.logprob for sample in samples], abs=1e-4)


def test_logits_are_taught_at_the_learnt_positions_and_nowhere_else():
    """Against a loop over dialogs: no shift between teacher and student, no prompt, no padding."""
    student, teacher, k = toy_model(), toy_model(seed=1), TOKENIZER.vocab_size
    examples = [(answer.ids, answer.loss_mask) for row in pairs() for answer in row.answers]
    batch = pack(examples, None, 128)
    assert (batch.documents_BT == PADDING).any() and (batch.targets_BT == IGNORED).any()
    found = LogitLoss(teacher, k, 1.0).sums(student, batch)[0]["kl"]
    expected = 0.0
    for ids, mask in examples:
        with torch.no_grad():
            p, q = (F.log_softmax(model(torch.tensor([ids]))[0].double(), -1) for model in (teacher, student))
        learnt = torch.tensor(mask[1:]).bool()
        expected += float((p.exp() * (p - q)).sum(-1)[:-1][learnt].sum())
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_a_teacher_of_another_tokenizer_is_refused(tmp_path):
    """Of as many ids, so that nothing but the digest tells them apart."""
    words = {bytes([0, byte]): 256 + byte for byte in range(TOKENIZER.base_size - 256)}
    tokenizer = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)} | words)
    assert tokenizer.vocab_size == TOKENIZER.vocab_size
    save_model(toy_model(seed=1), tmp_path / "teacher", tokenizer=tokenizer)
    student, teacher = base_artifact(tmp_path / "student"), finished(tmp_path / "teacher", "model", "teacher")
    with pytest.raises(InputError, match="different tokenizers"):
        run_stage(tmp_path, "post.logits", "small", [student, teacher, tasks_artifact(tmp_path / "tasks")], steps=1)


def test_a_mean_of_rounded_weights_is_not_rounded_again():
    models = [toy_model(seed).bfloat16() for seed in range(3)]
    for mean, *parts in zip(averaged(models).parameters(), *(model.parameters() for model in models), strict=True):
        assert mean.dtype == torch.float32
        expected = torch.stack([part.double() for part in parts]).mean(0)
        torch.testing.assert_close(mean.double(), expected, rtol=1e-7, atol=1e-9)
    assert any((mean.bfloat16().float() != mean).any() for mean in averaged(models).parameters())
