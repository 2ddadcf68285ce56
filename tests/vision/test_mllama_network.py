"""The network against transformers' `MllamaForConditionalGeneration` on random weights, and what composition promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.train.packing import Batch, batch_from
from puna.vision.config import AdapterConfig, VideoConfig, VisionConfig, cross_places, ratios, video_places
from puna.vision.model import VisionLlama
from puna.vision.seen import attach_seen, see
from puna.vision.sight import Media, sight_spans

VISION = VisionConfig(dim=32, layers=6, global_layers=2, heads=4, mlp_dim=64, tile=28, patch=7, taps=(1, 3, 4), taps_at="after")
TEXT = ModelConfig(vocab_size=128, dim=48, layers=8, heads=4, kv_heads=2, ffn_dim=96, max_seq_len=512)
PLACES = cross_places(8, 2)


def model_of(vision: VisionConfig = VISION, *, leak: bool = True, video: VideoConfig | None = None) -> VisionLlama:
    """A model whose every weight is random, gates included."""
    model = VisionLlama(Llama(TEXT), vision, AdapterConfig(PLACES, leak=leak, image_id=11), video)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "gate" in name and weight.numel() == 1:
                weight.fill_(0.5)
            else:
                norm = "norm" in name and name.endswith("weight")
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1 + norm)
    return model.eval()


def theirs(model: VisionLlama) -> torch.nn.Module:
    """The same weights in transformers."""
    from transformers import MllamaConfig, MllamaForConditionalGeneration

    v, t = model.encoder.config, model.config
    crossed = [place + i for i, place in enumerate(PLACES)]
    vision = {
        "hidden_size": v.dim, "attention_heads": v.heads, "num_hidden_layers": v.layers, "num_global_layers": v.global_layers,
        "intermediate_size": v.mlp_dim, "image_size": v.tile, "patch_size": v.patch, "max_num_tiles": v.max_tiles,
        "intermediate_layers_indices": list(v.taps), "vision_output_dim": v.features, "norm_eps": v.norm_eps,
        "supported_aspect_ratios": [list(pair) for pair in ratios(v.max_tiles)],
    }  # fmt: skip
    text = {
        "vocab_size": t.vocab_size, "hidden_size": t.dim, "num_hidden_layers": t.layers + len(crossed),
        "num_attention_heads": t.heads, "num_key_value_heads": t.kv_heads, "intermediate_size": t.ffn_dim,
        "rms_norm_eps": t.norm_eps, "max_position_embeddings": 512, "cross_attention_layers": crossed,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": t.rope_theta},
    }  # fmt: skip
    config = MllamaConfig(vision_config=vision, text_config=text, image_token_index=t.vocab_size)
    config._attn_implementation = "sdpa"
    peer = MllamaForConditionalGeneration(config).eval().float()
    state = {"lm_head.weight": model.text.lm_head.weight}
    state["model.language_model.norm.weight"] = model.text.model.norm.weight
    state["model.language_model.embed_tokens.weight"] = torch.cat((model.text.model.embed_tokens.weight, model.adapter.embedding))
    numbers = [i for i in range(t.layers + len(crossed)) if i not in crossed]
    for layers, at in ((model.text.model.layers, numbers), (model.adapter.layers, crossed)):
        for i, layer in zip(at, layers, strict=True):
            state |= {f"model.language_model.layers.{i}.{name}": weight for name, weight in layer.state_dict().items()}
    state |= {f"model.vision_model.{name}": weight for name, weight in model.encoder.state_dict().items()}
    state |= {f"model.multi_modal_projector.{name}": w for name, w in model.adapter.projector.state_dict().items()}
    found = peer.load_state_dict(state, strict=False)
    assert not found.unexpected_keys and not [name for name in found.missing_keys if "inv_freq" not in name]
    return peer


def media_batch(ids_BT: Tensor, images: list[tuple[int, int, int]], seed: int = 0) -> Batch:
    """A batch of one document a row; images are (row, position, ratio id)."""
    generator = torch.Generator().manual_seed(seed)
    rows, length = ids_BT.shape
    tiles = torch.tensor([high * wide for high, wide in (ratios(4)[ratio - 1] for _, _, ratio in images)])
    spans = []
    for row in range(rows):
        spans += sight_spans([at for r, at, _ in images if r == row], length)
    batch = batch_from(
        ids_BT.numpy(), ids_BT.roll(-1, 1).numpy(), torch.arange(length).expand(rows, -1).numpy(),
        torch.arange(rows)[:, None].expand(-1, length).numpy(),
    )  # fmt: skip
    batch.extra = {
        "tiles_N3SS": torch.randn(int(tiles.sum()), 3, 28, 28, generator=generator), "tiles_I": tiles,
        "ratio_I": torch.tensor([ratio for _, _, ratio in images]), "images_M": torch.ones(len(images), dtype=torch.int64),
        "video_M": torch.zeros(len(images), dtype=torch.bool), "row_M": torch.tensor([row for row, _, _ in images]),
        "start_M": torch.tensor([start for start, _ in spans]), "end_M": torch.tensor([end for _, end in spans]),
    }  # fmt: skip
    return batch


def their_inputs(batch: Batch, images: list[tuple[int, int, int]]) -> dict[str, Tensor]:
    """The batch as transformers takes it: padded to the most images of a row and to four tiles."""
    rows, length = batch.ids_BT.shape
    most = max(sum(r == row for r, _, _ in images) for row in range(rows))
    pixels, ids = torch.zeros(rows, most, 4, 3, 28, 28), torch.zeros(rows, most, dtype=torch.int64)
    mask, seen = torch.zeros(rows, most, 4, dtype=torch.int64), torch.zeros(rows, length, most, 4, dtype=torch.int64)
    mask[..., 0] = 1
    at, counts = 0, [0] * rows
    for m, (row, _, ratio) in enumerate(images):
        tiles, n = int(batch.extra["tiles_I"][m]), counts[row]
        pixels[row, n, :tiles] = batch.extra["tiles_N3SS"][at : at + tiles]
        ids[row, n], mask[row, n, :tiles] = ratio, 1
        seen[row, batch.extra["start_M"][m] : batch.extra["end_M"][m], n, :tiles] = 1
        at, counts[row] = at + tiles, n + 1
    return {
        "input_ids": batch.ids_BT, "pixel_values": pixels, "aspect_ratio_ids": ids, "aspect_ratio_mask": mask,
        "cross_attention_mask": seen,
    }  # fmt: skip


CASES = {
    "first": [(0, 0, 6), (1, 0, 1)],
    "after text": [(0, 3, 2), (1, 5, 8)],
    "ragged": [(0, 1, 6), (0, 5, 3), (1, 4, 1)],
    "three side by side": [(0, 0, 1), (0, 1, 2), (0, 2, 5), (1, 2, 4)],
    "a row without": [(1, 2, 7)],
}


@pytest.mark.parametrize("images", CASES.values(), ids=CASES)
@pytest.mark.parametrize("taps_at", ["after"])
def test_logits_and_gradients_of_transformers(images: list[tuple[int, int, int]], taps_at: str) -> None:
    model = model_of()
    peer = theirs(model)
    generator = torch.Generator().manual_seed(1)
    ids_BT = torch.randint(12, 128, (2, 13), generator=generator)
    for row, at, _ in images:
        ids_BT[row, at] = model.config.vocab_size
    batch = media_batch(ids_BT, images)
    ours = model(batch.ids_BT, attached=model.attach(batch))
    want = peer(**their_inputs(batch, images)).logits
    assert (ours - want).abs().max() <= 1e-5
    for logits in (ours, want):
        logits.square().mean().backward()
    named = dict(peer.named_parameters())
    pairs = [(weight.grad, named[f"model.vision_model.{name}"].grad) for name, weight in model.encoder.named_parameters()]
    crossed = [place + i for i, place in enumerate(PLACES)]
    for i, layer in zip(crossed, model.adapter.layers, strict=True):
        pairs += [(w.grad, named[f"model.language_model.layers.{i}.{name}"].grad) for name, w in layer.named_parameters()]
    for mine, other in pairs:
        assert mine is not None and other is not None
        assert (mine - other).abs().max() <= 1e-5 * max(1.0, float(other.abs().max()))


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


def test_keys_seen_once_give_the_logits_of_training() -> None:
    model = model_of(leak=False, video=VideoConfig(video_places(PLACES), factor=4, dim=32, layers=2, heads=4))
    ids_BT = torch.arange(12, 40).view(2, 14)
    batch = media_batch(ids_BT, [(0, 1, 6), (0, 5, 3), (1, 4, 1)])
    want = model(ids_BT, attached=model.attach(batch))
    media, rows, at = Media.of(batch), [[], []], 0
    assert media is not None
    for m, tiles in enumerate(media.tiles_I.tolist()):
        seen = see(model, media.tiles_N3SS[at : at + tiles], media.tiles_I[m : m + 1], media.ratio_I[m : m + 1])
        rows[int(media.row_M[m])].append((seen, int(media.start_M[m]), int(media.end_M[m])))
        at += tiles
    got = model(ids_BT, attached=attach_seen(model, rows, batch.positions_BT))
    assert (got - want).abs().max() <= 1e-5
    last = model(ids_BT[:, -1:], positions_BT=torch.full((2, 1), 13), attached=None)
    assert last.shape == (2, 1, 128)


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
