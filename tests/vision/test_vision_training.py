"""Training on pictures: what a batch holds, that its parts do not see each other, and that runs repeat to the bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from vision_toys import (
    FIT,
    PRETRAIN,
    SHAPE,
    TOKENIZER,
    dialog,
    draw,
    finished,
    model_of,
    picture_row,
    pictures,
    run_stage,
    store,
    summary_of,
    text_model,
)

from puna.core.errors import InputError, Preempted, RunError
from puna.core.modules import load_stage
from puna.core.stage import Artifact, local_context
from puna.model.checkpoint import load_model
from puna.post import adapters
from puna.post.adapters import UNJUDGED
from puna.post.checkpoints import weights_digest
from puna.post.examples import encode_dialog
from puna.post.frozen import FrozenText
from puna.tokenizer.chat import Medium
from puna.tokenizer.dialog import Dialog, MessageRow, media_of, write_rows
from puna.train.objectives import CrossEntropy, states_of
from puna.train.packing import Batch, pack
from puna.vision import fit
from puna.vision.average import built
from puna.vision.collate import with_media
from puna.vision.fetch import MediaRules
from puna.vision.fit import Learner
from puna.vision.hf import load_vision
from puna.vision.media import load
from puna.vision.model import VisionLlama
from puna.vision.resize import resized
from puna.vision.rows import MediaBatches, MediaRows
from puna.vision.tile_store import Shown, normalised


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return text_model(tmp_path_factory.mktemp("text") / "base")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return pictures(tmp_path_factory.mktemp("shown") / "pictures", videos=6, text=3)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, base: Artifact, shown: Artifact) -> Artifact:
    return run_stage(tmp_path_factory.mktemp("seen"), "vision.pretrain", "seen", [base, shown], **PRETRAIN)


def rows_of(artifact: Artifact, scratch: Path, sees: str = "images", limit: int = 64) -> MediaRows:
    return MediaRows(TOKENIZER, [artifact], "train", limit, scratch, tiles=store(), sees=sees)


def batch_of(rows: list[Dialog], root: Path, length: int = 64) -> Batch:
    encoded = [encode_dialog(TOKENIZER, row) for row in rows]
    tiles = store()
    found = [[tiles(medium, root) for medium in media_of(row.messages)] for row in rows]
    packed = pack([(one.ids, one.loss_mask) for one in encoded], None, length)
    return with_media(packed, found, TOKENIZER.image_id, SHAPE)


def test_kept_bytes_are_the_pixels_that_were_decoded(tmp_path: Path) -> None:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (21, 37, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    medium = Medium(at=0, kind="image", url="noise.png")
    loaded = load(medium, tmp_path, MediaRules(), SHAPE)
    found = store()(medium, tmp_path)
    assert found.tiles_N3SS.dtype == torch.uint8 and found.ratio_I == (loaded.images[0].ratio,)
    assert torch.equal(normalised(found.tiles_N3SS, SHAPE), torch.from_numpy(loaded.images[0].pixels))


def test_tiles_are_decoded_once_within_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("puna.vision.tile_store.load", lambda medium, *others: asked.append(medium.url) or load(medium, *others))
    (tmp_path / "media").mkdir()
    media = [Medium(at=0, kind="image", url=draw(tmp_path / "media" / f"{i}.png", "red")) for i in range(3)]
    tiles = store(limit=2 * 3 * 16 * 16)  # two tiles
    first = [tiles(medium, tmp_path) for medium in media]
    again = [tiles(medium, tmp_path) for medium in media]
    assert tiles.bytes == tiles.limit
    assert asked == ["media/0.png", "media/1.png", "media/2.png", "media/2.png"]
    assert all(torch.equal(a.tiles_N3SS, b.tiles_N3SS) for a, b in zip(first, again, strict=True))


def test_packed_rows_are_blind_to_each_others_pictures(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    rows = [picture_row(tmp_path, i) for i in range(4)]
    two = [Medium(at=0, kind="image", url=rows[0].messages[0].media[0].url), Medium(at=2, kind="image", url="media/1.png")]
    rows.append(
        Dialog(
            id="two",
            messages=[MessageRow(role="user", content="ab", media=tuple(two)), MessageRow(role="assistant", content="red")],
            provenance=rows[0].provenance,
        )
    )
    model = model_of()
    together = batch_of(rows, tmp_path, 128)
    assert len(together.ids_BT) == 1 and together.extra["row_M"].tolist() == [0] * 6
    states = states_of(model, together)[0]
    for i, row in enumerate(rows):
        alone = batch_of([row], tmp_path)
        want = states_of(model, alone)[0, : int((alone.documents_BT == 0).sum())]
        assert (states[together.documents_BT[0] == i] - want).abs().max() < 1e-5
    changed = replace(together, extra={**together.extra, "tiles_N3SS": together.extra["tiles_N3SS"].clone()})
    changed.extra["tiles_N3SS"][:2] = 0.0  # the first row's picture
    difference = (states_of(model, changed)[0] - states).abs().amax(-1)
    assert difference[together.documents_BT[0] == 0].max() > 1e-4
    assert difference[together.documents_BT[0] != 0].max() == 0


def test_a_medium_is_seen_until_the_next_or_the_end_of_its_document(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    draw(tmp_path / "media" / "a.png", "red")
    pictured = MessageRow(
        role="user", content="a", media=tuple(Medium(at=at, kind="image", url="media/a.png") for at in (0, 0, 1))
    )
    row = Dialog(
        id="a", messages=[pictured, MessageRow(role="assistant", content="b")], provenance=picture_row(tmp_path, 0).provenance
    )
    other = picture_row(tmp_path, 1)
    batch = batch_of([row, other], tmp_path)
    places = (batch.ids_BT[0] == TOKENIZER.image_id).nonzero()[:, 0].tolist()
    ends = [int((batch.documents_BT[0] == i).nonzero()[-1]) + 1 for i in (0, 1)]
    spans = list(zip(batch.extra["start_M"].tolist(), batch.extra["end_M"].tolist(), strict=True))
    first, second, third, fourth = places
    assert second == first + 1 and spans == [(first, third), (second, third), (third, ends[0]), (fourth, ends[1])]


def test_media_and_their_tokens_must_agree(tmp_path: Path) -> None:
    batch = pack([([1, TOKENIZER.image_id, 2], [0, 0, 1])], 1, 8)
    with pytest.raises(ValueError, match="as many"):
        with_media(batch, [[]], TOKENIZER.image_id, SHAPE)
    red = Shown(False, torch.zeros(1, 3, 16, 16, dtype=torch.uint8), (1,), (1,))
    with pytest.raises(ValueError, match="as many"):
        with_media(batch, [[red, red]], TOKENIZER.image_id, SHAPE)


def test_rows_are_left_out_whole_and_counted(tmp_path: Path) -> None:
    artifact = pictures(tmp_path / "pictures", train=4, videos=3, text=2)
    rows = [picture_row(artifact.path, i) for i in range(4)]
    rows.append(dialog("long", rows[0].messages[0].media[0].url, "image", "Hue" * 40, "red", "colour"))
    write_rows(artifact.path / "train.jsonl", [*rows, *[picture_row(artifact.path, 9)]])
    found = rows_of(artifact, tmp_path / "scratch")
    assert [bool(found.length(i)) for i in range(len(found))] == [True] * 4 + [False, True]
    assert vars(found.left()) == {"overlong": 1, "empty": 0, "other": 0}
    mixed = pictures(tmp_path / "mixed", train=4, videos=3, text=2)
    kinds = {sees: [bool(rows_of(mixed, tmp_path / sees, sees).length(i)) for i in range(9)] for sees in ("images", "videos")}
    assert kinds == {"images": [True] * 4 + [False] * 3 + [True] * 2, "videos": [False] * 4 + [True] * 3 + [False] * 2}


def test_rows_of_a_stopped_run_are_counted_again(tmp_path: Path) -> None:
    artifact = pictures(tmp_path / "pictures", train=4, videos=3)
    rows = rows_of(artifact, tmp_path / "scratch")
    assert sum(rows.length(i) > 0 for i in range(7)) == 4 and rows.left().other == 3
    assert rows_of(artifact, tmp_path / "scratch").left().other == 3  # before any row is drawn


def test_batches_are_a_function_of_the_step_and_the_rank(shown: Artifact, tmp_path: Path) -> None:
    def at(step: int, **share: int) -> list[Batch]:
        rows = rows_of(shown, tmp_path / f"{step}{share}")
        batches = MediaBatches(rows, 64, 256, 11, **share)
        if step:
            batches(0)
        return batches(step)

    (whole,) = at(2)
    assert torch.equal(whole.ids_BT, at(2)[0].ids_BT) and torch.equal(whole.extra["tiles_N3SS"], at(2)[0].extra["tiles_N3SS"])
    parts = [at(2, rank=rank, world=2)[0] for rank in (0, 1)]
    for rank, part in enumerate(parts):
        assert torch.equal(part.ids_BT, whole.ids_BT[rank::2])
        mine = torch.isin(whole.extra["row_M"], torch.arange(len(whole.ids_BT))[rank::2])
        assert torch.equal(part.extra["start_M"], whole.extra["start_M"][mine])
    assert sum(len(part.extra["tiles_N3SS"]) for part in parts) == len(whole.extra["tiles_N3SS"])


def gradients(model: VisionLlama, batches: list[Batch]) -> dict[str, torch.Tensor]:
    objective = CrossEntropy()
    count = sum(objective.counts(batch)["ce"] for batch in batches)
    model.zero_grad()
    for batch in batches:
        loss = objective.sums(model, batch)[0]["ce"] / count
        if loss.requires_grad:
            loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def test_micro_batches_give_the_gradient_of_one(shown: Artifact, tmp_path: Path) -> None:
    model, rows = model_of(), rows_of(shown, tmp_path / "rows")
    together = MediaBatches(rows, 64, 512, 11)(0)
    apart = MediaBatches(rows, 64, 512, 11, micro_rows=1)(0)
    assert (len(together), len(apart)) == (1, 8)
    one, eight = gradients(model, together), gradients(model, apart)
    assert set(one) == set(eight) and not any(name.startswith("text.") for name in one)
    for name, gradient in one.items():
        assert (gradient - eight[name]).norm() <= 1e-5 * gradient.norm().clamp(min=1e-3), name


def test_gradients_stay_float32_under_bf16_products(base: Artifact, shown: Artifact, tmp_path: Path) -> None:
    dtypes: set[torch.dtype] = set()
    learner = Learner(model_of(), TOKENIZER, FrozenText("", "", ()), [])
    for weight in [w for part in (learner.model.encoder, learner.model.adapter) for w in part.parameters()]:
        weight.register_post_accumulate_grad_hook(lambda w: dtypes.add(w.grad.dtype))
    rows, ctx = rows_of(shown, tmp_path / "rows"), local_context(tmp_path / "out")
    settings = fit.Settings(steps=1, precision="bf16", log_every=1)
    before = {name: w.detach().clone() for name, w in learner.model.named_parameters()}
    batches = MediaBatches(rows, 64, 256, 11, micro_rows=1)
    with_products = adapters.optimise(learner.model, CrossEntropy(), batches, 1, settings, ctx)
    assert with_products.products == "bf16" and dtypes == {torch.float32}
    after = dict(learner.model.named_parameters())
    assert all(w.dtype == torch.float32 for w in after.values())
    assert not torch.equal(before["encoder.patch_embedding.weight"], after["encoder.patch_embedding.weight"])
    assert all(torch.equal(before[name], w) for name, w in after.items() if name.startswith("text."))


def test_a_stage_leaves_a_model_that_sees_around_the_same_text(base: Artifact, shown: Artifact, seen: Artifact) -> None:
    text, found, model = load_model(base.path), summary_of(seen), load_vision(seen.path)
    assert weights_digest(model.text) == weights_digest(text) == found["frozen_text"]["digest"]
    ids = torch.arange(20)[None]
    assert torch.equal(model.eval()(ids), text.eval()(ids))
    assert found["frozen_text"]["prompts"] == 16 and found["left"] == {"overlong": 0, "empty": 0, "other": 6}
    metrics = [json.loads(line) for line in (seen.path / "metrics.jsonl").open()]
    assert [row["step"] for row in metrics] == [1, 2, 3] and all(row["gate/0.attn"] > 0.4 for row in metrics)
    assert metrics[0]["gate/1.mlp"] == pytest.approx(np.tanh(0.5), rel=1e-5)
    assert json.loads((seen.path / "ancestors.json").read_text()) == [base.digest]


def test_training_learns_colours_that_text_cannot_know(base: Artifact, tmp_path: Path) -> None:
    artifact = pictures(tmp_path / "pictures", train=48, dev=16)
    settings = {**PRETRAIN, "steps": 60, "lr": 1e-2, "log_every": 60, "dev": 16}
    found = summary_of(run_stage(tmp_path, "vision.pretrain", "learnt", [base, artifact], **settings))
    assert found["dev"]["value"] > 0.5 and found["dev"]["families"] == {"colour": found["dev"]["value"]}  # chance is a quarter


def test_a_resumed_run_repeats_the_uninterrupted_one(base: Artifact, shown: Artifact, seen: Artifact, tmp_path: Path) -> None:
    stage, calls = load_stage("vision.pretrain"), iter(range(100))
    ctx = local_context(tmp_path / "seen", name="seen", inputs=[base, shown], seed=7)
    with pytest.raises(Preempted):
        stage.run(stage.Settings(**PRETRAIN), replace(ctx, stopping=lambda: next(calls) >= 2))
    (ctx.out / "metrics.jsonl").unlink()
    stage.run(stage.Settings(**PRETRAIN), ctx)
    for name in ("metrics.jsonl", "model.safetensors", "dev.json"):
        assert (ctx.out / name).read_bytes() == (seen.path / name).read_bytes(), name


def test_fine_tuning_puts_the_chat_model_in(seen: Artifact, shown: Artifact, tmp_path: Path) -> None:
    chat = text_model(tmp_path / "chat", seed=1)
    tuned = run_stage(tmp_path, "vision.sft", "tuned", [seen, chat, shown], **FIT)
    model, before = load_vision(tuned.path), load_vision(seen.path)
    assert weights_digest(model.text) == weights_digest(load_model(chat.path)) != weights_digest(before.text)
    assert not torch.equal(model.adapter.projector.weight, before.adapter.projector.weight)
    with pytest.raises(InputError, match="another shape"):
        run_stage(tmp_path, "vision.sft", "wide", [seen, text_model(tmp_path / "wider", ffn_dim=48), shown], **FIT)


def test_annealing_at_another_resolution(seen: Artifact, shown: Artifact, tmp_path: Path) -> None:
    sharp = run_stage(tmp_path, "vision.anneal", "sharp", [seen, shown], tile=32, **FIT)
    model = load_vision(sharp.path)
    assert model.encoder.config.tile == 32 and model.encoder.gated_positional_embedding.embedding.shape == (17, 16)
    assert (summary_of(sharp)["tile_before"], summary_of(sharp)["tile"]) == (16, 32)


def test_position_tables_are_interpolated_with_their_corners_kept() -> None:
    encoder = model_of().encoder
    table = encoder.gated_positional_embedding.embedding.data  # class token and 2 x 2 patches
    larger = resized(encoder, 24).gated_positional_embedding.embedding.data  # 3 x 3
    assert torch.equal(larger[0], table[0])
    assert torch.allclose(larger[[1, 3, 7, 9]], table[[1, 2, 3, 4]], atol=1e-6)
    assert torch.allclose(larger[5], table[1:].mean(0), atol=1e-6)
    assert resized(encoder, 16) is encoder
    with pytest.raises(InputError, match="whole patches"):
        resized(encoder, 20)


def test_video_training_touches_the_video_adapter_alone(seen: Artifact, shown: Artifact, tmp_path: Path) -> None:
    settings = {**FIT, "dim": 16, "layers": 1, "heads": 2, "factor": 3, "gate": 0.5}
    watched = run_stage(tmp_path, "vision.clips", "watched", [seen, shown], **settings)
    before, after = load_vision(seen.path).state_dict(), load_vision(watched.path)
    assert after.video is not None and after.video.config.factor == 3 and after.video.config.places == (1,)
    state = after.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in before.items())
    again = run_stage(tmp_path, "vision.clips", "again", [watched, shown], **{**settings, "factor": 2, "steps": 1})
    found = load_vision(again.path)
    assert found.video is not None and found.video.config.factor == 2
    assert not torch.equal(found.state_dict()["video.projector.weight"], state["video.projector.weight"])
    assert summary_of(watched)["dev"]["families"].keys() == {"order"}


def test_a_changed_text_model_ends_the_stage(tmp_path: Path) -> None:
    model, ctx = model_of(), local_context(tmp_path / "out")
    proof = FrozenText.of(model.text, [[1, 2, 3]])
    assert proof.check(model.text, model, ctx)["prompts"] == 1
    with torch.no_grad():
        model.text.model.norm.weight[0] += 1e-6
    with pytest.raises(RunError, match="a weight of the frozen text model"):
        proof.check(model.text, model, ctx)


def test_the_proof_is_asked_where_the_fingerprint_was_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    check = FrozenText.check
    monkeypatch.setattr(VisionLlama, "cpu", lambda self: steps.append("cpu") or self)
    monkeypatch.setattr(FrozenText, "check", lambda *given: steps.append("check") or check(*given))
    model = model_of()
    learner = Learner(model, TOKENIZER, FrozenText.of(model.text, [[1, 2, 3]]), [])
    assert fit.finish(learner, UNJUDGED, local_context(tmp_path / "out"))["frozen_text"]["prompts"] == 1
    assert steps[:2] == ["cpu", "check"]


def test_models_of_equal_shapes_at_other_places_are_not_averaged() -> None:
    one, other = (model_of(video=True) for _ in range(2))
    assert built(one) == built(other)
    assert other.video is not None
    other.video.config = replace(other.video.config, factor=4)
    assert built(one) != built(other)


def test_encoder_rate_of_its_own(shown: Artifact, tmp_path: Path) -> None:
    moved = {}
    for rate in (None, 5e-4):
        model, rows = model_of(), rows_of(shown, tmp_path / f"rows{rate}")
        adapters.free(model, ("encoder", "adapter"))
        before = {name: w.detach().clone() for name, w in model.named_parameters()}
        settings = fit.Settings(lr=5e-3, encoder_lr=rate, warmup=0, curve="constant", weight_decay=0.0)
        adapters.optimise(
            model, CrossEntropy(), MediaBatches(rows, 64, 256, 11), 1, settings, local_context(tmp_path / f"{rate}")
        )
        names = ("encoder.patch_embedding.weight", "adapter.projector.weight")
        after = {name: w.detach() for name, w in model.named_parameters()}
        moved[rate] = [float((after[name] - before[name]).abs().max()) for name in names]
    assert moved[None] == pytest.approx([5e-3, 5e-3], rel=1e-2)  # the first step of Adam is the rate
    assert moved[5e-4] == pytest.approx([5e-4, 5e-3], rel=1e-2)


def test_a_picture_that_cannot_be_read_is_named(base: Artifact, tmp_path: Path) -> None:
    artifact = pictures(tmp_path / "pictures", train=4)
    (artifact.path / "media" / "2.png").write_bytes(b"no picture")
    with pytest.raises(InputError) as error:
        run_stage(tmp_path, "vision.pretrain", "seen", [base, finished(artifact.path, "pictures", "pictures")], **PRETRAIN)
    assert "media/2.png" in str(error.value)


def test_the_best_number_of_models_is_averaged(seen: Artifact, shown: Artifact, tmp_path: Path) -> None:
    chat = text_model(tmp_path / "chat", seed=1)
    sweep = [
        run_stage(tmp_path, "vision.sft", f"tuned-{i}", [seen, chat, shown], **{**FIT, "seed_offset": i, "steps": steps})
        for i, steps in enumerate((1, 25, 25))
    ]
    made = run_stage(tmp_path, "vision.average", "average", [*sweep, shown])
    found = summary_of(made)
    assert sorted(found["models"]) == ["tuned-0", "tuned-1", "tuned-2"] and set(found["averages"]) == {"1", "2", "3"}
    values = [found["averages"][k]["value"] for k in ("1", "2", "3")]
    assert found["averages"]["1"] == found["models"][found["order"][0]] and found["dev"]["value"] == max(values)
    assert found["kept"] == 1 + values.index(max(values))
    kept = [load_vision(one.path).state_dict() for name in found["order"][: found["kept"]] for one in sweep if one.name == name]
    state = load_vision(made.path).state_dict()
    name = "encoder.patch_embedding.weight"
    assert torch.allclose(state[name], torch.stack([one[name] for one in kept]).mean(0), atol=1e-6)
    other = run_stage(tmp_path, "vision.sft", "other", [seen, text_model(tmp_path / "other-text", seed=2), shown], **FIT)
    with pytest.raises(InputError, match="another text model"):
        run_stage(tmp_path, "vision.average", "mixed", [sweep[0], other, shown])


def test_a_text_model_whose_adapters_could_not_be_written_is_refused_at_once(shown: Artifact, tmp_path: Path) -> None:
    narrow = text_model(tmp_path / "narrow", head_dim=4)
    with pytest.raises(InputError, match="do not fill"):
        run_stage(tmp_path, "vision.pretrain", "seen", [narrow, shown], **PRETRAIN)
    assert not (tmp_path / "seen" / "metrics.jsonl").exists()
