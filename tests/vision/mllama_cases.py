"""Tiny vision models with random weights, the same in transformers, and batches with pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.train.packing import Batch, batch_from
from puna.vision.config import AdapterConfig, VideoConfig, VisionConfig, cross_places, ratios
from puna.vision.meta import TABLES
from puna.vision.meta_tables import rows_of, table_of
from puna.vision.model import VisionLlama
from puna.vision.sight import sight_spans

VISION = VisionConfig(dim=32, layers=6, global_layers=2, heads=4, mlp_dim=64, tile=28, patch=7, taps=(1, 3, 4), taps_at="after")
TEXT = ModelConfig(vocab_size=128, dim=48, layers=8, heads=4, kv_heads=2, ffn_dim=96, max_seq_len=512)
PLACES = cross_places(8, 2)


def model_of(
    vision: VisionConfig = VISION, *, leak: bool = True, video: VideoConfig | None = None, text: ModelConfig = TEXT
) -> VisionLlama:
    """A model whose every weight is random, gates included."""
    model = VisionLlama(Llama(text), vision, AdapterConfig(PLACES, leak=leak, image_id=11), video)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "gate" in name and weight.numel() == 1:
                weight.fill_(0.5)
            else:
                norm = "norm" in name and name.endswith("weight")
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1 + norm)
    return model.eval()


def one_canvas(model: VisionLlama) -> VisionLlama:
    """The model with tables of tiles that come from one table of the canvas each, as in released weights."""
    config = model.encoder.config
    for name in TABLES:
        rows = model.encoder.get_parameter(name)
        rows.data = rows_of(table_of(rows.data, config.max_tiles, config.dim))
    return model


def theirs(model: VisionLlama) -> torch.nn.Module:
    """The same weights in transformers."""
    from transformers import MllamaConfig, MllamaForConditionalGeneration

    v, t = model.encoder.config, model.config
    rope = t.rope_scaling.to_hf() if t.rope_scaling else {"rope_type": "default"}
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
        "rope_parameters": {**rope, "rope_theta": t.rope_theta},
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


def with_images(images: list[tuple[int, int, int]], length: int = 13, rows: int = 2) -> Tensor:
    """Random ids [B,T] of text, with transformers' image token where an image stands."""
    ids_BT = torch.randint(12, TEXT.vocab_size, (rows, length), generator=torch.Generator().manual_seed(1))
    for row, at, _ in images:
        ids_BT[row, at] = TEXT.vocab_size
    return ids_BT
