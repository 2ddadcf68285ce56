"""Pictures with captions as documents, and where small encoders and video adapters begin."""

from __future__ import annotations

import json

import pytest
import torch
from vision_toys import ENCODER, FIT, caption_row, picture_row, pictures, run_stage, summary_of, text_model, toy_tokenizer

from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.vision.config import AdapterConfig, VideoConfig
from puna.vision.encoder_files import EncoderShape
from puna.vision.model import VisionLlama
from puna.vision.picture_rows import encode_pair

TOKENIZER = toy_tokenizer()


def test_a_pair_is_the_picture_and_its_caption_all_learnt(tmp_path):
    (tmp_path / "media").mkdir()
    pair = encode_pair(TOKENIZER, caption_row(tmp_path, 1))
    answer = TOKENIZER.encode("white")
    assert pair.ids == [TOKENIZER.bos_id, TOKENIZER.image_id, *answer, TOKENIZER.eos_id]
    assert list(pair.loss_mask) == [0, 0, *[1] * len(answer), 1]


def test_a_question_is_no_caption(tmp_path):
    (tmp_path / "media").mkdir()
    assert not any(encode_pair(TOKENIZER, picture_row(tmp_path, 1)).loss_mask)


def test_pre_training_on_pairs_reads_captions_alone(tmp_path):
    base, shown = text_model(tmp_path / "base"), pictures(tmp_path / "shown", train=12, dev=4, captions=20)
    seer = run_stage(tmp_path, "vision.pretrain", "seer", [base, shown], encoder=ENCODER, cross_layers=2, gate=0.5, form="pairs",
                     **FIT | {"steps": 24, "optimizer": "muon", "lr": 0.02})  # fmt: skip
    told = summary_of(seer)
    assert told["left"]["empty"] == 12 and told["rows"] == 32 and told["dev"]["n"] == 4
    losses = [row["loss"] for row in map(json.loads, (seer.path / "metrics.jsonl").open()) if "loss" in row]
    assert losses[-1] < losses[0] / 2


def model(frames: int = 4) -> VisionLlama:
    text = Llama(ModelConfig(vocab_size=64, dim=16, layers=2, heads=2, kv_heads=1, ffn_dim=32, max_seq_len=32), seed=0)
    shape = EncoderShape(**{**ENCODER, "dim": 64, "max_tiles": 1}).config()
    video = VideoConfig((1,), factor=4, dim=32, layers=1, heads=2, frames=frames)
    return VisionLlama(text, shape, AdapterConfig((1,)), video, seed=0)


def test_positions_are_drawn_as_large_as_patches():
    encoder = model().encoder
    tiles = torch.randn(32, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    patches = encoder.patch_embedding(tiles).std().item()
    assert encoder.gated_positional_embedding.embedding.std().item() == pytest.approx(patches, rel=0.2)


def test_new_video_layers_ask_as_those_of_images_do_behind_gates_of_their_own():
    seer = model()
    seer.add_video(seer.video.config, seed=3, gate=0.25)
    video, image = seer.video.layers[0].state_dict(), seer.adapter.layers[0].state_dict()
    same = {name for name in video if torch.equal(video[name], image[name])}
    assert video.keys() - same == {"cross_attn_attn_gate", "cross_attn_mlp_gate"}
    assert video["cross_attn_attn_gate"].item() == 0.25 and image["cross_attn_attn_gate"].item() == 0


def test_a_merged_frame_begins_with_the_order_of_what_its_place_shows():
    seer = model()
    video, shape = seer.video, seer.encoder.config
    features = torch.randn(4, shape.tokens, shape.features, generator=torch.Generator().manual_seed(0))
    video.resampler.layers = torch.nn.ModuleList()  # what the latents begin with
    there, back = video(features, 4, 1), video(features.flip(0), 4, 1)
    assert (there - back).abs().mean() > 0.3 * there.std()
    moved = features.clone()
    moved[2, 0] += 1
    changed = (video(moved, 4, 1) - there).abs().sum(-1) > 1e-6
    assert changed.tolist() == [True] + [False] * (len(there) - 1)
