"""Losses and gradients against those of TRL's trainers, from the same messages, on one tiny Llama exported to transformers.

TRL renders with the exported template, batches with its own collators and computes with its own `compute_loss`; nothing of it is
copied here. Its masks cover terminators, ours of DPO leave them out: that one difference is switched off.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from post_toys import toy_model, toy_tokenizer

from puna.core.rng import python_stream
from puna.model.checkpoint import save_model
from puna.post.answer_rows import in_blocks
from puna.post.dpo import PairLoss
from puna.post.examples import Ranked, encode_answer
from puna.post.losses import dense_kl
from puna.post.online import DivergenceLoss
from puna.post.pairs import RankedBatches, answer_logps, ranked_batch, reference_logps
from puna.post.reward import RankingLoss, RewardModel
from puna.tokenizer.dialog import MessageRow
from puna.train.objectives import CrossEntropy
from puna.train.packing import pack

trl = pytest.importorskip("trl", reason="trl is not installed")
datasets = pytest.importorskip("datasets", reason="datasets is not installed")

TOKENIZER = toy_tokenizer()
BETA, NLL, GAMMA = 0.2, 0.3, 0.4
TOLERANCE = 1e-5


def conversations(count: int = 6) -> list[tuple[list[dict], str, str]]:
    """(context, good answer, bad answer) of unequal lengths, some with a system prompt, some with earlier turns."""
    rng = python_stream(11, "conversations")
    text = lambda most: "".join(rng.choice("abcde") for _ in range(rng.randint(1, most)))  # noqa: E731
    found = []
    for i in range(count):
        turns = [("system", text(9))] * (i % 2) + [("user", text(9)), ("assistant", text(9))] * (i % 3 == 2) + [("user", text(9))]
        found.append(([{"role": role, "content": content} for role, content in turns], text(15), text(15)))
    return found


def said(answer: str) -> list[dict]:
    return [{"role": "assistant", "content": answer}]


def ranked() -> list[Ranked]:
    rows = []
    for i, (context, *answers) in enumerate(conversations()):
        before = [MessageRow(**turn) for turn in context]
        encoded = [encode_answer(TOKENIZER, before, [MessageRow(role="assistant", content=text)])[0] for text in answers]
        rows.append(Ranked(str(i), str(i), encoded))
    return rows


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Directories of two models, `policy` and `reference`, and transformers' tokenizer of them."""
    from transformers import AutoTokenizer

    root = tmp_path_factory.mktemp("exported")
    for name, seed in (("policy", 0), ("reference", 1)):
        save_model(toy_model(seed), root / name, tokenizer=TOKENIZER)
    return root, AutoTokenizer.from_pretrained(root / "policy")


def arguments(kind: type, root, **more) -> object:
    return kind(output_dir=str(root / "out"), use_cpu=True, report_to="none", bf16=False, gradient_checkpointing=False,
                max_length=None, per_device_train_batch_size=8, **more)  # fmt: skip


def theirs(trainer) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients by name of TRL's trainer over its whole training set as one batch."""
    rows = [{key: row[key] for key in row if key.endswith("ids") or key == "labels"} for row in trainer.train_dataset]
    trainer.model.train()
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


def ours(model: torch.nn.Module, objective, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The same of our objective, as the training loop forms them."""
    counts = objective.counts(batch)
    model.zero_grad()
    terms, _ = objective.sums(model, batch)
    loss = sum(weight * terms[term] / counts[term] for term, weight in objective.weights.items())
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal(mine: tuple, reference: tuple) -> None:
    """Losses to 1e-5; gradients to 1e-5 of the largest, and to 1e-3 of their weight's (some are what cancelling leaves)."""
    assert mine[0].item() == pytest.approx(reference[0].item(), rel=TOLERANCE)
    assert mine[1].keys() == reference[1].keys() and len(mine[1]) > 10
    largest = max(gradient.abs().max() for gradient in reference[1].values())
    for name, gradient in reference[1].items():
        error, own = (mine[1][name] - gradient).abs().max(), gradient.abs().max()
        assert error <= TOLERANCE * largest and error <= 1e-3 * own and own > 0, name


def test_sft(exported):
    from transformers import LlamaForCausalLM

    root, tokenizer = exported
    rows = [{"prompt": context, "completion": said(good)} for context, good, _ in conversations()]
    trainer = trl.SFTTrainer(LlamaForCausalLM.from_pretrained(root / "policy"), arguments(trl.SFTConfig, root),
                             train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer)  # fmt: skip
    answers = [row.answers[0] for row in ranked()]
    assert sorted(trainer.train_dataset["input_ids"]) == sorted(answer.ids for answer in answers)
    batch = pack([(answer.ids, answer.loss_mask) for answer in answers], None, 128)
    assert_equal(ours(toy_model(), CrossEntropy(), batch), theirs(trainer))


@pytest.fixture(scope="module")
def dpo_trainer(exported):
    from transformers import LlamaForCausalLM

    root, tokenizer = exported
    rows = [{"prompt": context, "chosen": said(good), "rejected": said(bad)} for context, good, bad in conversations()]
    policy, reference = (LlamaForCausalLM.from_pretrained(root / name) for name in ("policy", "reference"))
    return trl.DPOTrainer(policy, reference, arguments(trl.DPOConfig, root, beta=BETA), processing_class=tokenizer,
                          train_dataset=datasets.Dataset.from_list(rows))  # fmt: skip


def pairs(reference: bool = True, lay=ranked_batch):
    """Our batch of all pairs, terminators in the sums as TRL has them."""
    batch, rows = lay(ranked(), 128), ranked()
    batch.extra["form_S"] = torch.zeros_like(batch.extra["form_S"])
    if reference:
        with torch.no_grad():
            batch.extra["reference_PR"] = answer_logps(toy_model(1), batch)[0][batch.extra["answers_PR"]]
        masked = reference_logps(toy_model(1), RankedBatches(rows, len(rows), 128, seed=0))
        assert not torch.allclose(masked, batch.extra["reference_PR"])  # the terminators do make a difference
    return batch


@pytest.mark.parametrize("lay", [ranked_batch, in_blocks])
@pytest.mark.parametrize(("kind", "nll"), [("sigmoid", 0.0), ("sigmoid", NLL), ("ipo", 0.0), ("ipo", NLL)])
def test_dpo(dpo_trainer, kind, nll, lay):
    dpo_trainer.loss_types, dpo_trainer.loss_weights = [kind, "sft"], [1.0, nll]
    assert_equal(ours(toy_model(), PairLoss(BETA, nll, kind), pairs(lay=lay)), theirs(dpo_trainer))


def test_simpo(exported):
    """TRL has it in its CPO trainer, whose loss takes mean log-probabilities; its own function forms these too."""
    from transformers import LlamaForCausalLM
    from trl.experimental.cpo import CPOTrainer

    root, _ = exported
    model = LlamaForCausalLM.from_pretrained(root / "policy")
    means = []
    for side in (0, 1):
        answers = [row.answers[side] for row in ranked()]
        width = max(len(answer.ids) for answer in answers)
        ids = torch.tensor([answer.ids + [0] * (width - len(answer.ids)) for answer in answers])
        learnt = torch.tensor([answer.loss_mask + [0] * (width - len(answer.ids)) for answer in answers])
        labels = ids.masked_fill(learnt == 0, -100)
        means.append(CPOTrainer.get_batch_logps(model(ids).logits, labels, average_log_prob=True))
    trainer = SimpleNamespace(loss_type="simpo", beta=BETA, simpo_gamma=GAMMA, label_smoothing=0.0, alpha=0.0,
                              accelerator=SimpleNamespace(device="cpu"))  # fmt: skip
    loss = CPOTrainer.cpo_loss(trainer, *means)[0].mean()
    loss.backward()
    reference = loss.detach(), {name: p.grad for name, p in model.named_parameters()}
    assert_equal(ours(toy_model(), PairLoss(BETA, 0.0, "simpo", GAMMA), pairs(reference=False)), reference)


def test_reward(exported):
    from transformers import LlamaForSequenceClassification

    root, tokenizer = exported
    model = RewardModel(toy_model())
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(2))
    scorer = LlamaForSequenceClassification.from_pretrained(root / "policy", num_labels=1)
    with torch.no_grad():
        scorer.score.weight.copy_(model.head.weight)
    rows = [{"prompt": context, "chosen": said(good), "rejected": said(bad)} for context, good, bad in conversations()]
    trainer = trl.RewardTrainer(scorer, arguments(trl.RewardConfig, root), processing_class=tokenizer,
                                train_dataset=datasets.Dataset.from_list(rows))  # fmt: skip
    loss, gradients = ours(model, RankingLoss(), ranked_batch(ranked(), 128))
    del gradients["head.bias"]  # theirs has none; it cancels in every pair
    names = {name: name.replace("head.", "score.").removeprefix("trunk.") for name in gradients}
    assert_equal((loss, {names[name]: gradient for name, gradient in gradients.items()}), theirs(trainer))


@pytest.mark.parametrize(("kind", "weight", "beta"), [("forward", 0.5, 0.0), ("reverse", 0.5, 1.0), ("jensen-shannon", 0.3, 0.3)])
def test_dense_kl(kind, weight, beta):
    from trl.experimental.gkd import GKDTrainer

    teacher, student = 2 * torch.randn(2, 7, 13, generator=torch.Generator().manual_seed(3))
    student.requires_grad_()
    mine = torch.autograd.grad(dense_kl(student, teacher, kind, weight)[0], student)[0]
    loss = GKDTrainer.generalized_jsd_loss(student[None], teacher[None], beta=beta, reduction="sum")
    assert dense_kl(student, teacher, kind, weight)[0].item() == pytest.approx(loss.item(), rel=TOLERANCE)
    torch.testing.assert_close(mine, torch.autograd.grad(loss, student)[0], rtol=TOLERANCE, atol=TOLERANCE)
    assert F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="sum") > 1


@pytest.mark.parametrize(
    ("kind", "mixture", "beta"), [("forward", 0.5, 0.0), ("reverse", 0.5, 1.0), ("jensen-shannon", 0.3, 0.3)]
)
def test_distillation_of_answers(exported, kind, mixture, beta):
    """Over whole models and padded rows, prompts not learnt. Theirs lacks the square of the temperature, which is put beside."""
    from transformers import LlamaForCausalLM
    from trl.experimental.gkd import GKDTrainer

    root, _ = exported
    student, teacher = (LlamaForCausalLM.from_pretrained(root / name) for name in ("policy", "reference"))
    answers = [row.answers[0] for row in ranked()]
    width = max(len(answer.ids) for answer in answers)
    pad = lambda values, fill: torch.tensor([one + [fill] * (width - len(one)) for one in values])  # noqa: E731
    ids, learnt = pad([answer.ids for answer in answers], 0), pad([answer.loss_mask for answer in answers], 0)
    with torch.no_grad():
        taught = teacher(ids).logits
    loss = 1.5**2 * GKDTrainer.generalized_jsd_loss(
        student(ids).logits[:, :-1], taught[:, :-1], labels=ids.masked_fill(learnt == 0, -100)[:, 1:], beta=beta, temperature=1.5
    )
    loss.backward()
    reference = loss.detach(), {name: p.grad for name, p in student.named_parameters()}
    objective = DivergenceLoss(toy_model(1), kind, mixture, 1.5, 1.0, own=False)
    batch = pack([(answer.ids, answer.loss_mask) for answer in answers], None, 128)
    assert_equal(ours(toy_model(), objective, batch), reference)
