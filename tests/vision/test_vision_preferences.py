"""Preferences about pictures: the reward model that sees, DPO with a reference that follows, and what answers see."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from vision_toys import (
    PRETRAIN,
    TOKENIZER,
    finished,
    model_of,
    pictures,
    preference_row,
    run_stage,
    store,
    summary_of,
    text_model,
    video_row,
)

from puna.core.errors import InputError, Preempted
from puna.core.modules import load_stage
from puna.core.stage import Artifact, local_context
from puna.post.adapters import free
from puna.post.checkpoints import weights_digest
from puna.post.losses import bradley_terry
from puna.post.pairs import RankedBatches, answer_logps
from puna.post.reward import RewardModel
from puna.tokenizer.dialog import MessageRow, write_rows
from puna.train.objectives import states_of
from puna.train.packing import pack
from puna.vision.collate import with_media
from puna.vision.dpo import Followed, FollowedBatches, FollowedPairLoss
from puna.vision.hf import load_vision
from puna.vision.preferences import Shows, laid, shown_rows
from puna.vision.reward import SquaredRanking, load_vision_reward

DPO = {"lr": 2e-3, "warmup": 0, "pairs_per_step": 4, "least_pairs": 1, "evaluate_every": 0, "dev": 8, "log_every": 1,
       "ema_every": 2, "ema_decay": 0.5, "passes": 1.5}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return text_model(tmp_path_factory.mktemp("text") / "base")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return pictures(tmp_path_factory.mktemp("shown") / "pictures")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, base: Artifact, shown: Artifact) -> Artifact:
    return run_stage(tmp_path_factory.mktemp("seen"), "vision.pretrain", "seen", [base, shown], **PRETRAIN)


def rows_of(shown: Artifact) -> list[Shows]:
    return shown_rows([shown], TOKENIZER, 128, "images").rows


def test_answers_in_blocks_are_answers_alone_with_their_picture(shown: Artifact) -> None:
    model, rows, tiles = model_of(), rows_of(shown)[:3], store()
    batch = laid(TOKENIZER, tiles)(rows, 128)
    assert len(batch.extra["row_M"]) == 3 and batch.blocks_BT is not None  # one picture for both answers
    together, _ = answer_logps(model, batch)
    states_BTD = states_of(model, batch)
    at = 0
    for row in rows:
        for answer in row.answers:
            alone = with_media(pack([(answer.ids, answer.loss_mask)], 1, 64), [[tiles(m, row.root) for m in row.media]],
                               TOKENIZER.image_id, tiles.shape)  # fmt: skip
            states_TD = states_of(model, alone)[0]
            logps = model.lm_head(states_TD).log_softmax(-1)
            places = [
                i for i, (learnt, form) in enumerate(zip(answer.loss_mask, answer.format_mask, strict=True)) if learnt > form
            ]
            want = sum(logps[i - 1, answer.ids[i]] for i in places)
            assert together[at].item() == pytest.approx(float(want.detach()), abs=1e-4)
            end = batch.extra["ends_N"][at]
            assert (states_BTD.flatten(0, 1)[end] - states_TD[len(answer.ids) - 1]).abs().max() < 1e-5
            at += 1


def test_rows_that_do_not_fit_are_counted(shown: Artifact, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", train=3).path
    rows = [preference_row(folder, i) for i in range(3)]
    clip = rows[0].model_copy(update={"id": "clip", "context": video_row(folder, 1).messages[:1]})
    picture = rows[1].context[0].media
    drawn = MessageRow(role="assistant", content="red", media=picture)
    inside = rows[1].model_copy(
        update={"id": "inside", "candidates": [rows[1].candidates[0].model_copy(update={"messages": [drawn]})] * 2}
    )
    long = rows[2].model_copy(update={"id": "long", "context": [MessageRow(role="user", content="?" * 300, media=picture)]})
    weak = rows[2].model_copy(update={"id": "weak", "strength": "slightly"})
    write_rows(folder / "preferences.jsonl", [*rows, clip, inside, long, weak])
    artifact = finished(folder, "pictures", "pictures")
    found = shown_rows([artifact, artifact], TOKENIZER, 128, "images")
    assert [row.identity for row in found.rows] == ["q0", "q1", "q2"] and found.rows[0].root == folder
    assert vars(found.left) == {"overlong": 1, "empty": 0, "other": 2} and found.weak == 1


def test_squared_scores_are_added_to_the_ranking_loss(shown: Artifact) -> None:
    rows = rows_of(shown)[:3]
    model, batch = RewardModel(model_of()), laid(TOKENIZER, store())(rows, 128)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
    scores = model(batch)
    objective = SquaredRanking(0.25)
    terms, others = objective.sums(model, batch)
    want, _, correct = bradley_terry(scores.view(3, 2), torch.ones(3, 2, dtype=torch.bool))
    assert objective.weights == {"ranking": 1.0, "square": 0.25}
    assert objective.counts(batch) == {"ranking": 3.0, "pair_accuracy": 3.0, "square": 6.0}
    assert terms["ranking"].item() == pytest.approx(want.item(), rel=1e-6)
    assert terms["square"].item() == pytest.approx(scores.square().sum().item(), rel=1e-6) and others["pair_accuracy"] == correct


def test_reward_model_learns_which_colour_is_there(base: Artifact, seen: Artifact, tmp_path: Path) -> None:
    shown = pictures(tmp_path / "pictures", train=64)
    settings = {"steps": 60, "lr": 1e-2, "pairs_per_step": 16, "least_pairs": 1, "held": 0.3, "square": 0.01, "log_every": 20}
    made = run_stage(tmp_path, "vision.reward", "reward", [seen, shown], **settings)
    found, model = summary_of(made), load_vision_reward(made.path)
    assert found["held_pairs"] >= 10 and found["pair_accuracy"]["low"] > 0.5 and not found["skipped"]  # chance is a half
    assert model is not None and weights_digest(model.trunk.text) == found["frozen_text"]["digest"]
    assert model.head.weight.abs().max() > 0
    few = run_stage(tmp_path, "vision.reward", "few", [seen, shown], **{**settings, "least_pairs": 1000})
    assert summary_of(few)["skipped"] and load_vision_reward(few.path) is None


def test_reward_model_stands_around_the_text_of_the_language_reward_model(
    seen: Artifact, shown: Artifact, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    from puna.model.checkpoint import save_model
    from puna.model.config import ModelConfig
    from puna.model.llama import Llama
    from puna.post.reward import HEAD_FILE, STATE_FILE

    sizes = {"dim": 16, "layers": 2, "heads": 2, "kv_heads": 1, "ffn_dim": 32, "max_seq_len": 128}
    trunk, folder = Llama(ModelConfig(vocab_size=TOKENIZER.vocab_size, **sizes), seed=9), tmp_path / "language"
    save_model(trunk, folder, tokenizer=TOKENIZER)
    weight = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    save_file({"weight": weight, "bias": torch.zeros(1), "likelihood": torch.tensor([0.5])}, folder / HEAD_FILE)
    (folder / STATE_FILE).write_text(json.dumps({"skipped": False}))
    language = finished(folder, "reward", "language")
    settings = {"steps": 1, "lr": 0.0, "pairs_per_step": 4, "least_pairs": 1, "weight_decay": 0.0}
    model = load_vision_reward(run_stage(tmp_path, "vision.reward", "reward", [seen, language, shown], **settings).path)
    assert model is not None and weights_digest(model.trunk.text) == weights_digest(trunk)
    assert torch.equal(model.head.weight, weight) and float(model.head.likelihood.detach()) == 0.5
    (folder / STATE_FILE).write_text(json.dumps({"skipped": True}))
    with pytest.raises(InputError, match="was not trained"):
        run_stage(tmp_path, "vision.reward", "none", [seen, language, shown], **settings)


def test_rows_about_one_picture_are_held_out_together(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", train=12).path
    rows = [preference_row(folder, i) for i in range(12)]
    asked = [row.model_copy(update={"id": f"{row.id}b", "context": [row.context[0].model_copy(update={"content": "Which?"})]})
             for row in rows]  # fmt: skip
    write_rows(folder / "preferences.jsonl", [*rows, *asked])
    found = rows_of(finished(folder, "pictures", "pictures"))
    keys = {row.identity: row.key for row in found}
    assert len(set(keys.values())) == 12 and all(keys[row.id] == keys[f"{row.id}b"] for row in rows)


def followed() -> Followed:
    policy = model_of()
    free(policy, ("encoder", "adapter"))
    return Followed(policy)


def test_reference_follows_every_so_many_steps(shown: Artifact) -> None:
    model = followed()
    name = "adapter.projector.weight"
    weight = dict(model.policy.named_parameters())[name]
    first = weight.detach().clone()
    batches = FollowedBatches(RankedBatches(rows_of(shown), 2, 128, 3, lay=laid(TOKENIZER, store())), model, 2, 0.75)

    def reference() -> torch.Tensor:
        return dict(model.reference.named_parameters())[name]

    with torch.no_grad():
        weight += 1.0
    batches(0), batches(1)
    assert torch.equal(reference(), first)
    batches(2)
    assert torch.allclose(reference(), first + 0.25)
    batches(3), batches(4)
    assert torch.allclose(reference(), first + 0.25 + 0.25 * 0.75)
    assert model.reference.text is model.policy.text
    held = {key for key in model.state_dict() if key.startswith("reference ")}
    assert "reference " + name.replace(".", " ") in held and not any("text" in key for key in held)


def test_loss_begins_at_ln_2_and_its_gradient_leaves_reference_and_text_alone(shown: Artifact) -> None:
    model = followed()
    batch = laid(TOKENIZER, store())(rows_of(shown)[:4], 128)
    objective = FollowedPairLoss(0.1, 0.0)
    terms, others = objective.sums(model, batch)
    assert terms["dpo"].item() / objective.counts(batch)["dpo"] == pytest.approx(0.6931472, rel=1e-5)
    assert float(others["margin"]) == pytest.approx(0.0, abs=1e-5)
    terms["dpo"].backward()
    grads = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.abs().max() > 0}
    assert grads and all(name.startswith(("policy.encoder.", "policy.adapter.")) for name in grads)
    assert all(weight.grad is None for weight in model.reference.parameters())


def dpo(out: Path, inputs: list[Artifact], stopping: Any = None, **settings: Any) -> dict[str, Any]:
    stage = load_stage("vision.dpo")
    ctx = local_context(out, name="dpo", inputs=inputs, seed=7)
    return stage.run(stage.Settings(**{**DPO, **settings}), ctx if stopping is None else replace(ctx, stopping=stopping))


def test_dpo_resumes_with_the_reference_it_had(seen: Artifact, shown: Artifact, tmp_path: Path) -> None:
    whole = dpo(tmp_path / "whole", [seen, shown])
    assert whole["steps"] == 6 and whole["dev"]["measure"] == "accuracy"
    for stop in (3, 4):  # before and at a move of the reference
        out, calls = tmp_path / f"stopped-{stop}", iter(range(100))
        with pytest.raises(Preempted):
            dpo(out, [seen, shown], lambda calls=calls, stop=stop: next(calls) >= stop)
        (out / "metrics.jsonl").unlink()
        assert dpo(out, [seen, shown]) == whole
        assert (out / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
        assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_reference_that_follows_gives_another_loss_than_a_fixed_one(seen: Artifact, shown: Artifact, tmp_path: Path) -> None:
    losses = {}
    for decay in (1.0, 0.0):
        dpo(tmp_path / f"{decay}", [seen, shown], ema_decay=decay, lr=1e-2)
        rows = [json.loads(line) for line in (tmp_path / f"{decay}" / "metrics.jsonl").open()]
        losses[decay] = [row["dpo"] for row in rows if "dpo" in row]
    assert losses[0.0][:2] == losses[1.0][:2] and losses[0.0][2] == pytest.approx(0.693147, rel=1e-4) != losses[1.0][2]


def test_too_few_pairs_hand_the_policy_on(seen: Artifact, shown: Artifact, tmp_path: Path) -> None:
    found = dpo(tmp_path / "few", [seen, shown], least_pairs=100)
    assert "only 16 preference pairs" in found["skipped"]
    before, after = load_vision(seen.path).state_dict(), load_vision(tmp_path / "few").state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
