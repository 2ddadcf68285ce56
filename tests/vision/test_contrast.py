"""Contrastive pre-training: the loss against a plain one, what it learns, and the scorer of pictures and captions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from vision_ranks import LENGTH, SIZES, tiles
from vision_toys import ENCODER, FIT, caption_row, draw, finished, pictures, run_stage, summary_of, text_model, toy_tokenizer

from puna.core.errors import InputError
from puna.model.config import ModelConfig
from puna.tokenizer.dialog import media_of, write_rows
from puna.train.packing import Batch
from puna.vision.contrast import InfoNCE
from puna.vision.encoder import ImageEncoder
from puna.vision.encoder_files import EncoderShape, load_encoder
from puna.vision.hf import load_vision
from puna.vision.two_towers import TwoTowers, caption_ids, load_scorer, load_towers, pair_batch

CONTRAST = {"encoder": {**ENCODER, "global_layers": 0}, "text_dim": 16, "text_heads": 2, "text_layers": 1, "width": 8,
            "steps": 80, "pairs_per_step": 8, "lr": 1e-2, "longest": 32, "log_every": 20}  # fmt: skip


def towers() -> TwoTowers:
    text = ModelConfig(vocab_size=toy_tokenizer().vocab_size, **SIZES, tied=True)
    return TwoTowers(ImageEncoder(EncoderShape(**ENCODER).config()), text, 8, seed=2)


def batch_of(root: Path, captions: list[str]) -> Batch:
    (root / "media").mkdir()
    rows = [caption_row(root, i) for i in range(len(captions))]
    shown = [tiles()(media_of(row.messages)[0], root) for row in rows]
    return pair_batch([caption_ids(toy_tokenizer(), caption) for caption in captions], shown, LENGTH, tiles().shape)


def test_loss_is_cross_entropy_both_ways(tmp_path: Path) -> None:
    model, batch = towers(), batch_of(tmp_path, ["red", "a green one", "blue", "white?"])
    images, texts = model(batch)
    assert images.shape == texts.shape == (4, 8)
    assert torch.allclose(images.norm(dim=1), torch.ones(4)) and torch.allclose(texts.norm(dim=1), torch.ones(4))
    logits = images @ texts.T / 0.07
    right = torch.arange(4)
    want = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
    terms, others = InfoNCE().sums(model, batch)
    assert terms["infonce"].item() / InfoNCE().counts(batch)["infonce"] == pytest.approx(want.item(), rel=1e-5)
    assert int(others["accuracy"]) == int((logits.argmax(1) == right).sum())


def test_equal_captions_are_no_negatives_of_each_other(tmp_path: Path) -> None:
    model = towers()
    batch = batch_of(tmp_path, ["red", "red", "red"])
    terms, _ = InfoNCE().sums(model, batch)
    assert terms["infonce"].item() == pytest.approx(0.0, abs=1e-6)
    assert len(set(batch.extra["caption_P"].tolist())) == 1


def test_vectors_do_not_depend_on_the_company(tmp_path: Path) -> None:
    model = towers()
    captions = ["red", "a green one", "blue", "white?"]
    together = model(batch_of(tmp_path, captions))
    (tmp_path / "alone").mkdir()
    alone = model(batch_of(tmp_path / "alone", captions[:1]))
    assert all((a[:1] - b).abs().max() < 1e-5 for a, b in zip(together, alone, strict=True))


def test_stage_learns_and_the_adapter_takes_its_encoder(tmp_path: Path) -> None:
    base, shown = text_model(tmp_path / "base"), pictures(tmp_path / "shown", train=4, captions=32)
    encoder = run_stage(tmp_path, "vision.contrast", "encoder", [base, shown], **CONTRAST)
    found = summary_of(encoder)
    assert found["pairs"] == 32 and found["retrieval_n"] == 4 and found["retrieval"] >= 0.75  # chance is a quarter
    model, tokenizer = load_towers(encoder.path)
    assert tokenizer.digest == toy_tokenizer().digest and not model.training

    files = [shown.path / draw(shown.path / "media" / f"new-{name}.png", name) for name in ("red", "blue")]
    scores = load_scorer(encoder.path)([*files, *files], ["red", "blue", "blue", "red"])
    assert scores.dtype.name == "float32" and min(scores[:2]) > max(scores[2:])

    settings = {**FIT, "encoder": {**ENCODER, "tile": 24}, "cross_layers": 2, "steps": 1, "encoder_lr": 0.0}
    seen = run_stage(tmp_path, "vision.pretrain", "seen", [base, encoder, shown], **settings)
    mine, theirs = load_vision(seen.path).encoder, load_encoder(encoder.path)
    assert mine.config.global_layers == 1 and theirs.config.global_layers == 0
    assert torch.equal(mine.transformer.layers[0].mlp.fc1.weight, theirs.transformer.layers[0].mlp.fc1.weight)
    assert mine.gated_positional_embedding.embedding.shape[0] == 10  # resized from 5
    with pytest.raises(InputError, match="another shape"):
        run_stage(tmp_path, "vision.pretrain", "wide", [base, encoder, shown], **{**settings, "encoder": {**ENCODER, "dim": 32}})


def test_what_cannot_be_contrasted_is_refused(tmp_path: Path) -> None:
    base, shown = text_model(tmp_path / "base"), pictures(tmp_path / "shown", train=4)
    with pytest.raises(InputError, match="not one picture with a caption"):
        run_stage(tmp_path, "vision.contrast", "none", [base, shown], **CONTRAST)
    with pytest.raises(InputError, match="cannot share 8 pairs"):
        run_stage(tmp_path, "vision.contrast", "three", [base, shown], **CONTRAST, parallel={"dp": 3})
    long = caption_row(shown.path, 1)
    long.messages[-1].content = "red " * 40
    write_rows(shown.path / "train.jsonl", [caption_row(shown.path, i) for i in range(8)] + [long])
    encoder = run_stage(tmp_path, "vision.contrast", "kept", [base, finished(shown.path, "pictures", "shown")],
                        **{**CONTRAST, "steps": 1})  # fmt: skip
    assert (summary_of(encoder)["pairs"], summary_of(encoder)["overlong"]) == (8, 1)
    assert summary_of(encoder)["retrieval"] is None
