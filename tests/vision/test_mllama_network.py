"""The network against transformers' `MllamaForConditionalGeneration` on random weights, and what composition promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from mllama_cases import CASES, PLACES, TEXT, media_batch, model_of, one_canvas, their_inputs, theirs, with_images
from torch import Tensor

from puna.model.config import RopeScaling
from puna.train.objectives import CrossEntropy
from puna.train.packing import Batch, batch_from
from puna.vision.config import VideoConfig, VisionConfig, cross_places, ratios, video_places
from puna.vision.model import VisionLlama
from puna.vision.seen import Place, attach_seen, see
from puna.vision.sight import Media, sight_spans


@pytest.mark.parametrize("images", CASES.values(), ids=CASES)
@pytest.mark.parametrize("scaling", [None, RopeScaling(8.0, 1.0, 4.0, 16)], ids=["plain", "llama3"])
def test_logits_loss_and_gradients_of_transformers(images: list[tuple[int, int, int]], scaling: RopeScaling | None) -> None:
    model = model_of(text=replace(TEXT, rope_scaling=scaling))
    peer = theirs(model)
    batch = media_batch(with_images(images), images)
    with torch.no_grad():
        ours = model(batch.ids_BT, attached=model.attach(batch))
    labels_BT = batch.ids_BT.masked_fill(batch.ids_BT >= TEXT.vocab_size, -100)
    want = peer(**their_inputs(batch, images), labels=labels_BT)
    assert (ours - want.logits).abs().max() <= 1e-5
    batch.targets_BT = F.pad(labels_BT[:, 1:], (0, 1), value=-100)
    sums, _ = CrossEntropy().sums(model, batch)
    loss = sums["ce"] / CrossEntropy().counts(batch)["ce"]
    assert abs(loss.item() - want.loss.item()) <= 1e-5
    loss.backward()
    want.loss.backward()
    named = dict(peer.named_parameters())
    pairs = [(weight.grad, named[f"model.vision_model.{name}"].grad) for name, weight in model.encoder.named_parameters()]
    crossed = [place + i for i, place in enumerate(PLACES)]
    for i, layer in zip(crossed, model.adapter.layers, strict=True):
        pairs += [(w.grad, named[f"model.language_model.layers.{i}.{name}"].grad) for name, w in layer.named_parameters()]
    pairs += [
        (w.grad, named[f"model.multi_modal_projector.{name}"].grad) for name, w in model.adapter.projector.named_parameters()
    ]
    embedding = named["model.language_model.embed_tokens.weight"].grad
    assert embedding is not None
    pairs.append((model.adapter.embedding.grad, embedding[TEXT.vocab_size :]))
    for mine, other in pairs:
        assert mine is not None and other is not None
        assert (mine - other).abs().max() <= 1e-5 * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize("images", CASES.values(), ids=CASES)
@torch.no_grad()
def test_padding_that_is_the_same_is_computed_once(images: list[tuple[int, int, int]]) -> None:
    """As in released weights, whose tables hold nothing for padding tiles; the numbers stay those of transformers."""
    model, lengths = one_canvas(model_of()), []
    batch = media_batch(with_images(images), images)
    model.encoder.transformer.layers[0].register_forward_pre_hook(lambda layer, given: lengths.append(given[0].shape[1]))
    ours = model(batch.ids_BT, attached=model.attach(batch))
    assert (ours - theirs(model)(**their_inputs(batch, images)).logits).abs().max() <= 1e-5
    tiles = sorted({high * wide for high, wide in (ratios(4)[ratio - 1] for _, _, ratio in images)})
    assert lengths[: len(tiles)] == [min(count + 1, 4) * 18 for count in tiles]  # 17 tokens and one that fills up


def test_gradients_tell_paddings_apart_that_are_the_same() -> None:
    """Released tables hold nothing for padding tiles; the gradient there is that of each tile, as in transformers."""
    images = CASES["ragged"]
    model, batch = one_canvas(model_of()), media_batch(with_images(images), images)
    peer = theirs(model)
    model(batch.ids_BT, attached=model.attach(batch)).square().mean().backward()
    peer(**their_inputs(batch, images)).logits.square().mean().backward()
    found = dict(peer.named_parameters())
    for name, weight in model.encoder.named_parameters():
        want = found[f"model.vision_model.{name}"].grad
        assert weight.grad is not None and want is not None
        assert (weight.grad - want).abs().max() <= 1e-5 * max(1.0, float(want.abs().max()))


def test_text_alone_is_the_text_model() -> None:
    model = model_of()
    ids_BT = torch.arange(12, 40).view(2, 14)
    plain = batch_from(*(ids_BT.numpy() for _ in range(4)))
    assert model.attach(plain) is None
    assert torch.equal(model(ids_BT), model.text(ids_BT))
    assert torch.equal(theirs(model)(input_ids=ids_BT).logits.sub(model(ids_BT)).abs().max() <= 1e-5, torch.tensor(True))


def test_rows_without_pictures_are_bit_identical_beside_others() -> None:
    model = model_of(leak=False)
    ids_BT = torch.arange(12, 40).view(2, 14)
    batch = media_batch(ids_BT, [(1, 2, 6)])
    logits = model(ids_BT, attached=model.attach(batch))
    assert torch.equal(logits[0], model.text(ids_BT)[0])
    assert torch.equal(logits[1, :2], model.text(ids_BT)[1, :2])  # before its picture
    assert not torch.equal(logits[1, 2:], model.text(ids_BT)[1, 2:])


@pytest.mark.parametrize("attend_padding", [False, True])
def test_tiles_of_one_batch_equal_images_alone(attend_padding: bool) -> None:
    config = VisionConfig(
        dim=32, layers=3, global_layers=1, heads=4, mlp_dim=64, tile=28, patch=7, taps=(1,), attend_padding=attend_padding
    )
    encoder = model_of(config, leak=False).encoder
    tiles_I, ratio_I = torch.tensor([4, 1, 2, 1]), torch.tensor([6, 1, 2, 1])
    tiles_N3SS = torch.randn(8, 3, 28, 28, generator=torch.Generator().manual_seed(5))
    together, at = encoder(tiles_N3SS, tiles_I, ratio_I), 0
    for i, tiles in enumerate(tiles_I.tolist()):
        alone = encoder(tiles_N3SS[at : at + tiles], tiles_I[i : i + 1], ratio_I[i : i + 1])
        assert (together[at : at + tiles] - alone).abs().max() <= 1e-5
        at += tiles


def test_taps_lie_channel_by_channel_after_the_last_state() -> None:
    encoder = model_of(leak=False).encoder
    tiles = torch.randn(1, 3, 28, 28)
    features = encoder(tiles, torch.tensor([1]), torch.tensor([1]))
    assert features.shape == (1, 17, 32 * 4)
    states: list[Tensor] = []
    hooks = [encoder.transformer.layers[i].register_forward_hook(lambda m, a, out: states.append(out)) for i in (1, 3, 4)]
    encoder(tiles, torch.tensor([1]), torch.tensor([1]))
    for hook in hooks:
        hook.remove()
    assert torch.equal(features[0, :, 32::3], states[0][0, :17])


def places_of(model: VisionLlama, batch: Batch, end: int) -> list[list[Place]]:
    """What each row of a batch sees, looked at once; what sees to the end of the row sees up to `end`."""
    media, at = Media.of(batch), 0
    rows: list[list[Place]] = [[] for _ in batch.ids_BT]
    if media is None:
        return rows
    for m, tiles in enumerate(media.tiles_I.tolist()):
        seen = see(model, media.tiles_N3SS[at : at + tiles], media.tiles_I[m : m + 1], media.ratio_I[m : m + 1])
        until = int(media.end_M[m])
        rows[int(media.row_M[m])].append((seen, int(media.start_M[m]), end if until == batch.ids_BT.shape[1] else until))
        at += tiles
    return rows


def test_keys_seen_once_give_the_logits_of_training() -> None:
    model = model_of(leak=False, video=VideoConfig(video_places(PLACES), factor=4, dim=32, layers=2, heads=4))
    batch = media_batch(torch.arange(12, 40).view(2, 14), [(0, 1, 6), (0, 5, 3), (1, 4, 1)])
    want = model(batch.ids_BT, attached=model.attach(batch))
    got = model(batch.ids_BT, attached=attach_seen(model, places_of(model, batch, 14), batch.positions_BT))
    assert (got - want).abs().max() <= 1e-5


class GrowingCache:
    """The simplest cache that keeps the contract: everything seen so far, in order."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, layer: int, k_BKTE: Tensor, v_BKTE: Tensor) -> tuple[Tensor, Tensor]:
        old = self.kept.get(layer)
        new = (k_BKTE, v_BKTE) if old is None else (torch.cat((old[0], k_BKTE), 2), torch.cat((old[1], v_BKTE), 2))
        self.kept[layer] = new
        return new


def tiles_of_row(batch: Batch, row: int) -> Tensor:
    """Which tiles of a batch without videos are those of a row."""
    return (batch.extra["row_M"] == row).repeat_interleave(batch.extra["tiles_I"])


PROMPTS = {  # images of each row: first and later, none to three, side by side
    "ragged": [(0, 0, 6), (1, 3, 2), (1, 7, 1), (3, 1, 1), (3, 2, 2), (3, 9, 5)],
    "all first": [(0, 0, 1), (1, 0, 5), (2, 0, 8), (3, 0, 3)],
}


@pytest.mark.parametrize("images", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("scaling", [None, RopeScaling(8.0, 1.0, 4.0, 16)], ids=["plain", "llama3"])
@torch.no_grad()
def test_greedy_generation_with_a_cache_equals_transformers(
    images: list[tuple[int, int, int]], scaling: RopeScaling | None
) -> None:
    """Our rows go together; transformers' one by one, since there a row's text before its picture depends on its neighbours."""
    model = model_of(text=replace(TEXT, rope_scaling=scaling))
    peer = theirs(model)
    prompts_BT, steps = with_images(images, rows=4), 12
    batch = media_batch(prompts_BT, images)
    rows, cache, ids_BT = places_of(model, batch, 10_000), GrowingCache(), prompts_BT
    logits = model(ids_BT, cache=cache, attached=attach_seen(model, rows, batch.positions_BT))
    scores = [logits[:, -1]]
    while len(scores) < steps:
        ids_BT = torch.cat((ids_BT, scores[-1].argmax(-1)[:, None]), 1)
        at_BT = torch.full((4, 1), ids_BT.shape[1] - 1)
        logits = model(ids_BT[:, -1:], positions_BT=at_BT, cache=cache, attached=attach_seen(model, rows, at_BT))
        scores.append(logits[:, 0])
    ids_BT = torch.cat((ids_BT, scores[-1].argmax(-1)[:, None]), 1)
    for row in range(4):
        own = [(0, at, ratio) for other, at, ratio in images if other == row]
        alone = media_batch(prompts_BT[row : row + 1], own)
        alone.extra["tiles_N3SS"] = batch.extra["tiles_N3SS"][tiles_of_row(batch, row)]
        given = their_inputs(alone, own) if own else {"input_ids": alone.ids_BT}
        found = peer.generate(
            **given, max_new_tokens=steps, do_sample=False, eos_token_id=None, pad_token_id=0, output_scores=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        assert found.sequences[0].tolist() == ids_BT[row].tolist()
        assert (torch.cat(found.scores) - torch.stack(scores, 1)[row]).abs().max() <= 1e-5


def test_frames_merge_and_their_order_matters() -> None:
    video = VideoConfig(video_places(PLACES), factor=4, dim=32, layers=2, heads=4)
    model = model_of(leak=False, video=video)
    assert model.video is not None
    features = model.encoder(torch.randn(8, 3, 28, 28), torch.ones(8, dtype=torch.int64), torch.ones(8, dtype=torch.int64))
    tokens = model.video(features, 8, 1)
    assert tokens.shape == (2 * 17, 48)  # 8 frames become 2
    turned = model.video(features.flip(0), 8, 1)
    assert (tokens - turned).abs().max() > 1e-3


def test_spans_of_sight() -> None:
    assert sight_spans([], 9) == []
    assert sight_spans([2], 9) == [(2, 9)]
    assert sight_spans([1, 2, 6], 9) == [(1, 6), (2, 6), (6, 9)]


def test_places_of_the_released_models() -> None:
    assert cross_places(32, 8) == tuple(range(3, 32, 4))
    assert cross_places(80, 20) == tuple(range(3, 80, 4))
    assert video_places(cross_places(32, 8)) == (15, 31) and len(video_places(cross_places(80, 20))) == 5
    assert ratios(4) == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)]
