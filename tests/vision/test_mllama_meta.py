"""Meta's layout of Llama 3.2 Vision: there and back to the bit, and computed as Meta's code computes it (`meta_reference`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from meta_reference import Shape, logits
from mllama_cases import CASES, PLACES, TEXT, VISION, media_batch, model_of, one_canvas, with_images
from torch import Tensor

from puna.core.errors import InputError
from puna.model.config import RopeScaling
from puna.model.meta_layout import load_meta
from puna.tokenizer.bpe import Tokenizer
from puna.vision.config import VideoConfig, VisionConfig, ratios, video_places
from puna.vision.hf import load_vision, save_vision
from puna.vision.meta import is_meta_vision, load_meta_vision, save_meta_vision
from puna.vision.meta_tables import resized_canvas, rows_of, table_of
from puna.vision.model import VisionLlama

OWN = replace(VISION, taps_at="before")
VIDEO = VideoConfig(video_places(PLACES), factor=4, dim=32, layers=2, heads=4)
TOKENIZER = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})


def metas(**change: Any) -> VisionLlama:
    """A model of Meta's numerics whose tables of tiles come from one table of the canvas, as in released weights."""
    return one_canvas(model_of(change.pop("vision", OWN), leak=False, **change))


def same(a: VisionLlama, b: VisionLlama) -> bool:
    ours, other = a.state_dict(), b.state_dict()
    return ours.keys() == other.keys() and all(torch.equal(ours[n], other[n]) and ours[n].dtype == other[n].dtype for n in ours)


def stored(directory: Path) -> dict[str, Tensor]:
    return torch.load(directory / "consolidated.00.pth", weights_only=True)


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("case", ["first", "after text", "ragged", "three side by side"])
@torch.no_grad()
def test_logits_are_those_of_metas_code(tmp_path: Path, case: str) -> None:
    save_meta_vision(metas(), tmp_path)
    model, weights = load_meta_vision(tmp_path).eval(), stored(tmp_path)
    images, config = CASES[case], model.encoder.config
    batch = media_batch(with_images(images), images)
    found = model(batch.ids_BT, attached=model.attach(batch))
    tiles = batch.extra["tiles_N3SS"].split(batch.extra["tiles_I"].tolist())
    shape = Shape(config.patch, config.heads, config.max_tiles, config.taps, TEXT.heads, TEXT.kv_heads, PLACES)
    position = torch.arange(batch.ids_BT.shape[1])
    for row in range(2):
        own = [m for m, (other, _, _) in enumerate(images) if other == row]
        sees = torch.stack([(position >= batch.extra["start_M"][m]) & (position < batch.extra["end_M"][m]) for m in own], 1)
        given = [(tiles[m], *ratios(4)[images[m][2] - 1]) for m in own]
        assert (logits(weights, batch.ids_BT[row], given, sees, shape) - found[row]).abs().max() <= 1e-5


def test_names_and_shapes_are_the_published_ones(tmp_path: Path) -> None:
    save_meta_vision(metas(), tmp_path)
    weights, encoder = stored(tmp_path), "vision_model.vision_encoder."
    shapes = {
        encoder + "conv1._linear.weight": (32, 3 * 7 * 7), encoder + "class_embedding": (32,),
        encoder + "positional_embedding": (17, 32), encoder + "gated_positional_embedding": (4, 4, 17, 32),
        encoder + "gated_positional_embedding_gate": (1,), encoder + "pre_tile_pos_embed.embedding": (4, 4, 1, 32),
        encoder + "post_tile_pos_embed.gate": (1,), encoder + "ln_pre.bias": (32,), encoder + "ln_post.weight": (32,),
        encoder + "transformer.resblocks.5.attn.wq.weight": (32, 32), encoder + "transformer.resblocks.0.ln_1.bias": (32,),
        encoder + "global_transformer.resblocks.1.mlp.c_proj.weight": (32, 64),
        encoder + "global_transformer.resblocks.0.gate_ffn": (1,),
        "vision_model.vision_projection.weight": (48, 128), "vision_model.vision_projection.bias": (48,),
        "text_model.learnable_embedding.weight": (8, 48), "text_model.tok_embeddings.weight": (128, 48),
        "text_model.cross_attention_layers.1.gate_ffwd": (1,),
        "text_model.cross_attention_layers.0.attention.k_norm.weight": (12,),
        "text_model.cross_attention_layers.0.feed_forward.w2.weight": (48, 96), "text_model.layers.7.ffn_norm.weight": (48,),
    }  # fmt: skip
    assert {name: tuple(weights[name].shape) for name in shapes} == shapes
    params = json.loads((tmp_path / "params.json").read_text())
    assert (params["vision_chunk_size"], params["vision_max_num_chunks"], params["vision_num_cross_attention_layers"]) == (
        28,
        4,
        2,
    )
    model = metas()
    ours, theirs = model.text.model.layers[0].self_attn.q_proj.weight, weights["text_model.layers.0.attention.wq.weight"]
    assert torch.equal(theirs[:4:2], ours[:2]) and torch.equal(theirs[1:4:2], ours[6:8])  # pairs (i, i + 6) lie side by side
    crossed = model.adapter.layers[0].cross_attn.q_proj.weight  # type: ignore[union-attr]
    assert torch.equal(weights["text_model.cross_attention_layers.0.attention.wq.weight"], crossed)  # no RoPE, no other order


@pytest.mark.parametrize("tables", ["of one canvas", "free"])
@pytest.mark.parametrize("kind", ["plain", "video", "mixed", "other numerics", "leak", "other tiles"])
def test_there_and_back_is_the_identity(tmp_path: Path, tables: str, kind: str) -> None:
    text = replace(TEXT, vocab_size=TOKENIZER.vocab_size, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192), max_seq_len=777)
    vision = replace(OWN, taps_at="after", attend_padding=False) if kind == "other numerics" else OWN
    vision = replace(OWN, tile=32, patch=8) if kind == "other tiles" else vision  # no whole number of patches of 14
    make = metas if tables == "of one canvas" else partial(model_of, leak=False)
    model = make(vision=vision, text=text, video=VIDEO if kind == "video" else None)
    model.adapter.config = replace(model.adapter.config, leak=kind == "leak", image_id=TOKENIZER.image_id)
    if kind == "mixed":
        model.text.to(torch.bfloat16)
    save_vision(model, tmp_path / "hf", tokenizer=TOKENIZER)
    first = load_vision(tmp_path / "hf", dtype=None)
    notes = save_meta_vision(first, tmp_path / "meta", tokenizer=TOKENIZER, generation={"temperature": 0.5})
    assert is_meta_vision(tmp_path / "meta") and any("tile_rows" in note for note in notes) == (tables == "free")
    again = load_meta_vision(tmp_path / "meta", dtype=None)
    save_vision(again, tmp_path / "again", tokenizer=TOKENIZER)
    assert same(model, again) and again.config == model.config
    assert (again.encoder.config, again.adapter.config) == (model.encoder.config, model.adapter.config)
    for path in (tmp_path / "hf").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_without_our_file_it_is_a_released_model(tmp_path: Path) -> None:
    shape = VisionConfig(dim=32, layers=31, global_layers=1, heads=16, mlp_dim=64, tile=28, patch=14)
    save_meta_vision(metas(vision=shape), tmp_path)
    (tmp_path / "puna.json").unlink()
    with pytest.raises(InputError, match=r"tensors are missing: vision_model.*global_transformer"):
        load_meta_vision(tmp_path)  # Meta's code has 8 global layers, and ours took its constants


CUT = {"wo": 1, "w2": 1, "c_proj.weight": 1}
WHOLE = ("norm", "ln_", "gate", "embedding", "c_proj.bias")


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_model_parallelism_are_joined(tmp_path: Path, parts: int) -> None:
    model = metas()
    save_meta_vision(model, tmp_path)
    weights = stored(tmp_path)
    shards: list[dict[str, Tensor]] = [{} for _ in range(parts)]
    for name, weight in weights.items():
        rows = name in ("text_model.tok_embeddings.weight", "text_model.learnable_embedding.weight")
        whole = any(part in name for part in WHOLE) and not rows
        columns = any(f".{part}" in name for part in CUT) and not whole
        pieces = [weight] * parts if whole else list(weight.chunk(parts, int(columns)))
        if name.endswith((".wk.weight", ".wv.weight")) and name.startswith("text_model") and parts > TEXT.kv_heads:
            pieces = [piece for piece in weight.chunk(TEXT.kv_heads) for _ in range(parts // TEXT.kv_heads)]
        for shard, piece in zip(shards, pieces, strict=True):
            shard[name] = piece.clone()
    for number, shard in enumerate(shards):
        torch.save(shard | {"text_model.rope.freqs": torch.ones(6)}, tmp_path / f"consolidated.{number:02d}.pth")
    assert same(load_meta_vision(tmp_path), model)
    shards[1].pop("vision_model.vision_encoder.class_embedding")
    torch.save(shards[1], tmp_path / "consolidated.01.pth")
    with pytest.raises(InputError, match=r"the files disagree about .*class_embedding"):
        load_meta_vision(tmp_path)


def test_other_forms_of_the_same_file(tmp_path: Path) -> None:
    model = metas()
    save_meta_vision(model, tmp_path)
    weights = stored(tmp_path)
    weights["text_model.cross_attention_layers.0.gate_attn"] = weights["text_model.cross_attention_layers.0.gate_attn"].repeat(48)
    weights["text_model.cross_attention_layers.1.gate_ffwd"] = weights["text_model.cross_attention_layers.1.gate_ffwd"].view(
        1, 1, 1
    )
    torch.save(weights, tmp_path / "consolidated.pth")  # the name of a single file
    (tmp_path / "consolidated.00.pth").unlink()
    assert same(load_meta_vision(tmp_path), model)


def test_tables_are_stretched_to_another_tile(tmp_path: Path) -> None:
    model = metas()
    save_meta_vision(model, tmp_path)
    edit(tmp_path / "params.json", lambda params: params.update(vision_chunk_size=42))
    again, local = load_meta_vision(tmp_path), stored(tmp_path)["vision_model.vision_encoder.positional_embedding"]
    assert again.encoder.config.tile == 42 and again.encoder.config.tokens == 37
    grid = local[1:].view(4, 4, 32).permute(2, 0, 1)[None]
    want = F.interpolate(grid, (6, 6), mode="bilinear", align_corners=True)[0].permute(1, 2, 0).reshape(36, 32)
    got = again.encoder.gated_positional_embedding.embedding
    assert torch.equal(got[0], local[0]) and torch.allclose(got[1:], want, atol=1e-6)
    rows = again.encoder.gated_positional_embedding.tile_embedding.weight.view(9, 4, 37, 32)
    table = stored(tmp_path)["vision_model.vision_encoder.gated_positional_embedding"]
    assert torch.allclose(rows[1, 0, 1], table[0, 0, 1]) and torch.equal(rows[6, 3, 0], table[1, 1, 0])  # a corner; a class token
    assert torch.allclose(rows[6, 0, 36], rows[5, 0, 36]) and not rows[1, 1:].any()


def test_a_stretched_canvas_is_one_picture() -> None:
    """A table that rises linearly over the whole canvas still does after stretching."""
    side, wider = 3, 5
    ramp = torch.linspace(0, 1, 4 * side)
    table = torch.zeros(4, 4, 1 + side * side, 1)
    table[:, :, 1:, 0] = (ramp[:, None] + 10 * ramp).view(4, side, 4, side).transpose(1, 2).flatten(2)
    grown = resized_canvas(table, wider)
    due = torch.linspace(0, 1, 4 * wider)
    want = (due[:, None] + 10 * due).view(4, wider, 4, wider).transpose(1, 2).flatten(2)
    assert torch.allclose(grown[:, :, 1:, 0], want, atol=1e-5) and not grown[:, :, 0].any()


def test_rows_of_a_table() -> None:
    table = torch.arange(16.0).view(4, 4, 1, 1)
    rows = rows_of(table)
    assert rows.tolist()[6] == [0, 1, 4, 5] and rows.tolist()[4] == [0, 1, 2, 3] and rows.tolist()[8] == [0, 4, 8, 12]
    assert rows.tolist()[0] == [0, 0, 0, 0] and rows.tolist()[7] == [0, 4, 8, 0]
    assert torch.equal(rows_of(table_of(rows, 4, 1)), rows)
    rows[6, 1] = 7.0  # place (0, 1) is read by four ratios, here as 1, 1, 1 and 7
    assert table_of(rows, 4, 1)[0, 1] == pytest.approx((1 * 3 + 7) / 4)


def test_text_and_vision_models_are_told_apart(tmp_path: Path) -> None:
    save_meta_vision(metas(), tmp_path)
    with pytest.raises(InputError, match="this is a vision model") as error:
        load_meta(tmp_path)
    assert "--to text" in str(error.value.fix)


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], Callable[[dict[str, Any]], Any], str]] = {
    "chunk size": (lambda p: p.update(vision_chunk_size=0.5), lambda s: None, "vision_chunk_size = 0.5"),
    "cross layers": (
        lambda p: p.update(vision_num_cross_attention_layers=4), lambda s: s["vision"].pop("places"), "26 tensors are missing"
    ),
    "places": (lambda p: None, lambda s: s["vision"].update(places=[9]), "shape of the encoder in puna.json is wrong"),
    "encoder": (lambda p: None, lambda s: s["vision"]["encoder"].update(dim="x"), "shape of the encoder in puna.json is wrong"),
    "flag": (lambda p: None, lambda s: s["vision"].update(leak="yes"), "puna.leak = 'yes'"),
}  # fmt: skip


@pytest.mark.parametrize(("params", "side", "said"), BROKEN.values(), ids=BROKEN)
def test_wrong_descriptions_are_refused(tmp_path: Path, params: Any, side: Any, said: str) -> None:
    save_meta_vision(metas(), tmp_path)
    edit(tmp_path / "params.json", params)
    edit(tmp_path / "puna.json", side)
    with pytest.raises(InputError, match=said):
        load_meta_vision(tmp_path)
