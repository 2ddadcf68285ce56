"""Vision models as Hugging Face directories: transformers reads ours, we read theirs, and nothing broken or mismatched loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mllama_cases import CASES, PLACES, TEXT, VISION, media_batch, model_of, their_inputs, theirs, with_images
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from puna.core.errors import InputError
from puna.model.checkpoint import load_model, save_model
from puna.model.config import RopeScaling
from puna.model.llama import Llama
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Medium, Message, render
from puna.vision.config import VideoConfig, video_places
from puna.vision.hf import image_shape_of, load_vision, old_name, save_vision
from puna.vision.model import VisionLlama
from puna.vision.tiles import ImageShape, tiles_of

TOKENIZER = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})
WIDE = replace(TEXT, vocab_size=TOKENIZER.vocab_size, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 16))
VIDEO = VideoConfig(video_places(PLACES), factor=4, dim=32, layers=2, heads=4)
IMAGES = CASES["ragged"]


def own(**change: Any) -> VisionLlama:
    """A model of our numerics with our tokenizer's image token."""
    model = model_of(replace(VISION, taps_at="before"), leak=False, text=change.pop("text", WIDE), **change)
    model.adapter.config = replace(model.adapter.config, image_id=TOKENIZER.image_id)
    return model


def same(a: VisionLlama, b: VisionLlama) -> bool:
    ours, other = a.state_dict(), b.state_dict()
    return ours.keys() == other.keys() and all(torch.equal(ours[n], other[n]) and ours[n].dtype == other[n].dtype for n in ours)


def edit(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((directory / "config.json").read_text())
    change(config)
    (directory / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("scaling", [None, RopeScaling(8.0, 1.0, 4.0, 16)], ids=["plain", "llama3"])
def test_transformers_reads_ours(tmp_path: Path, scaling: RopeScaling | None) -> None:
    from transformers import MllamaForConditionalGeneration

    model = model_of(text=replace(TEXT, rope_scaling=scaling))
    save_vision(model, tmp_path, max_shard_bytes=100_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    peer, info = MllamaForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    batch = media_batch(with_images(IMAGES), IMAGES)
    with torch.no_grad():
        want = peer(**their_inputs(batch, IMAGES)).logits
        assert (model(batch.ids_BT, attached=model.attach(batch)) - want).abs().max() <= 1e-5


@pytest.mark.parametrize("layout", ["old", "new"])
def test_theirs_is_read_in_both_layouts(tmp_path: Path, layout: str) -> None:
    model = model_of()
    peer = theirs(model)
    peer.save_pretrained(tmp_path)
    if layout == "new":
        state = {name: weight.clone() for name, weight in peer.state_dict().items()}
        assert {"lm_head.weight", "model.vision_model.class_embedding"} <= state.keys()
        save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    edit(tmp_path, lambda config: config.update(puna={"taps_at": "after", "leak": True}))
    ours = load_vision(tmp_path).eval()
    batch = media_batch(with_images(IMAGES), IMAGES)
    with torch.no_grad():
        want = peer(**their_inputs(batch, IMAGES)).logits
        assert (ours(batch.ids_BT, attached=ours.attach(batch)) - want).abs().max() <= 1e-5
    assert not any(weight.requires_grad for weight in ours.text.parameters())
    assert all(weight.requires_grad for weight in ours.encoder.parameters())


def test_a_released_config_means_metas_numerics(tmp_path: Path) -> None:
    theirs(model_of()).save_pretrained(tmp_path)
    model = load_vision(tmp_path)
    assert model.encoder.config.taps_at == "before" and model.encoder.config.attend_padding
    assert not model.adapter.config.leak and model.adapter.config.image_id is None and model.adapter.config.places == PLACES
    edit(tmp_path, lambda config: config["text_config"].pop("rms_norm_eps"))  # transformers leaves defaults out
    assert load_vision(tmp_path).config.norm_eps == 1e-5


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    model = own(video=VIDEO)
    save_vision(model, tmp_path, tokenizer=TOKENIZER, generation={"temperature": 0.5})
    again = load_vision(tmp_path, dtype=None)
    assert same(model, again)
    assert again.encoder.config == model.encoder.config and again.adapter.config == model.adapter.config
    assert again.video is not None and again.video.config == VIDEO and again.config == model.config
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert "language_model.model.layers.8.cross_attn.q_proj.weight" in names and all(old_name(name) == name for name in names)
    assert json.loads((tmp_path / "generation_config.json").read_text())["temperature"] == 0.5
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    save_vision(model, tmp_path, tokenizer=TOKENIZER, generation={"temperature": 0.5})
    assert first == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    save_vision(own(), tmp_path, tokenizer=TOKENIZER)
    assert not (tmp_path / "video_adapter.safetensors").exists() and load_vision(tmp_path).video is None


@pytest.mark.parametrize(
    "parts", [("bfloat16", "float32"), ("float32", "bfloat16"), ("bfloat16", "float16"), ("float16", "float16")]
)
def test_each_part_keeps_its_precision(tmp_path: Path, parts: tuple[str, str]) -> None:
    model = own()
    model.text.to(getattr(torch, parts[0]))
    model.encoder.to(getattr(torch, parts[1]))
    model.adapter.to(getattr(torch, parts[1]))
    save_vision(model, tmp_path)
    assert same(model, load_vision(tmp_path, dtype=None))
    assert {weight.dtype for weight in load_vision(tmp_path, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_a_tied_text_model_stays_tied(tmp_path: Path) -> None:
    model = own(text=replace(WIDE, tied=True))
    model.text.tie()
    save_vision(model, tmp_path)
    again = load_vision(tmp_path)
    assert again.text.lm_head.weight is again.text.model.embed_tokens.weight and same(model, again)
    state = load_file(tmp_path / "model.safetensors")
    state["language_model.lm_head.weight"][0, 0] += 1
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="two different ones"):
        load_vision(tmp_path)


def test_the_processor_of_transformers_gives_our_ids_and_tiles(tmp_path: Path) -> None:
    from transformers import AutoTokenizer
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
    from transformers.models.mllama.processing_mllama import MllamaProcessor

    model = own()
    save_vision(model, tmp_path, tokenizer=TOKENIZER)
    processor = MllamaProcessor(
        MllamaImageProcessorPil.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path),
        chat_template=json.loads((tmp_path / "chat_template.json").read_text())["chat_template"],
    )  # fmt: skip
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 80, 3), dtype=np.uint8))
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True)
    found = processor(images=image, text=text, add_special_tokens=False, return_tensors="pt")
    dialog = [Message("user", "What is this?", media=(Medium(0, "image", "a.png"),))]
    rendered = render(TOKENIZER, dialog, generation_prompt=True)
    ids = [TOKENIZER.vocab_size if token == TOKENIZER.image_id else token for token in rendered.ids]
    assert found["input_ids"][0].tolist() == ids and processor.image_token_id == TOKENIZER.vocab_size
    tiled = tiles_of(image, image_shape_of(model, tmp_path))
    assert found["aspect_ratio_ids"][0, 0] == tiled.ratio
    assert np.array_equal(found["pixel_values"][0, 0, : len(tiled.pixels)].numpy(), tiled.pixels)
    assert Tokenizer.load(tmp_path / "tokenizer.json").ranks == TOKENIZER.ranks


def test_both_ids_of_the_image_token_mean_the_same(tmp_path: Path) -> None:
    save_vision(own(), tmp_path, tokenizer=TOKENIZER)
    edit(tmp_path, lambda config: config.pop("puna"))  # as released: the tokenizer beside tells Meta's id
    model = load_vision(tmp_path).eval()
    assert model.adapter.config.image_id == TOKENIZER.image_id
    ids_BT = with_images([])
    logits = []
    for token in (TOKENIZER.image_id, TOKENIZER.vocab_size):
        ids_BT[0, 3] = token
        batch = media_batch(ids_BT, [(0, 3, 2)])
        with torch.no_grad():
            logits.append(model(ids_BT, attached=model.attach(batch)))
    assert torch.equal(*logits)


def test_mean_and_deviation_travel(tmp_path: Path) -> None:
    model, shape = own(), ImageShape(28, 4, (0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    save_vision(model, tmp_path, image_shape=shape)
    assert image_shape_of(model, tmp_path) == shape
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [1]}')
    with pytest.raises(InputError, match="image_mean is not three numbers"):
        image_shape_of(model, tmp_path)
    for wrong in ("[0, 1, 1]", "[NaN, 1, 1]", "[true, 1, 1]"):
        (tmp_path / "preprocessor_config.json").write_text(f'{{"image_mean": [0, 0, 0], "image_std": {wrong}}}')
        with pytest.raises(InputError, match="image_std is not three numbers"):
            image_shape_of(model, tmp_path)


def test_a_model_without_global_layers(tmp_path: Path) -> None:
    model = model_of(replace(VISION, global_layers=0), leak=False, text=WIDE)
    save_vision(model, tmp_path)
    assert load_vision(tmp_path).encoder.config == model.encoder.config


def test_text_and_vision_models_are_told_apart(tmp_path: Path) -> None:
    save_model(Llama(TEXT), tmp_path / "text")
    save_vision(own(), tmp_path / "vision")
    with pytest.raises(InputError, match="this is a text model"):
        load_vision(tmp_path / "text")
    with pytest.raises(InputError, match="this is a vision model") as error:
        load_model(tmp_path / "vision")
    assert "--to text" in str(error.value.fix)


def _drop(name: str) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda state: state.pop(name)


BROKEN_WEIGHTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (_drop("vision_model.class_embedding"), "1 tensors are missing: vision_model.class_embedding"),
    "surplus": (lambda state: state.update(extra=torch.ones(1)), "1 tensors do not belong to this network: extra"),
    "shape": (
        lambda state: state.update({"multi_modal_projector.bias": torch.ones(3)}),
        r"multi_modal_projector.bias has shape \(3,\) and config.json asks for \(48,\)",
    ),
    "whole numbers": (
        lambda state: state.update({"vision_model.class_embedding": torch.ones(32, dtype=torch.int64)}),
        "holds int64 and no weights",
    ),
    "no extra rows": (
        lambda state: state.update({k: v[:-8] for k, v in state.items() if "embed_tokens" in k}), "embed_tokens.weight has shape"
    ),
    "both layouts": (
        lambda state: state.update({"lm_head.weight": state["language_model.lm_head.weight"].clone()}), "in both layouts"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), BROKEN_WEIGHTS.values(), ids=BROKEN_WEIGHTS)
def test_other_tensors_are_named(tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any], said: str) -> None:
    save_vision(own(), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    change(state)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=said):
        load_vision(tmp_path)


BROKEN_CONFIGS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another family": (lambda c: c.update(model_type="llava"), "'llava' is no vision model"),
    "image token": (lambda c: c.update(image_token_index=5), "image_token_index = 5"),
    "cross layers": (lambda c: c["text_config"].update(cross_attention_layers=[3, 4]), "do not each stand"),
    "cross at the end": (lambda c: c["text_config"].update(cross_attention_layers=[3, 9]), "do not each stand"),
    "aspect ratios": (lambda c: c["vision_config"]["supported_aspect_ratios"].reverse(), "supported_aspect_ratios"),
    "activation": (lambda c: c["vision_config"].update(hidden_act="quick_gelu"), "'quick_gelu'"),
    "eps": (lambda c: c["vision_config"].update(norm_eps="small"), "norm_eps = 'small'"),
    "no eps": (lambda c: c["vision_config"].update(norm_eps=float("nan")), "norm_eps = nan"),
    "too many tiles": (lambda c: c["vision_config"].update(max_num_tiles=10**7), "1 to 64 tiles"),
    "too many layers": (lambda c: c["vision_config"].update(num_hidden_layers=10**8), "1 to 1024 layers"),
    "text layers": (lambda c: c["text_config"].update(num_hidden_layers="ten"), "num_hidden_layers = 'ten'"),
    "too much text": (lambda c: c["text_config"].update(num_hidden_layers=10**8), "num_hidden_layers = 100000000"),
    "image id": (lambda c: c["puna"].update(image_id=7), "image token is 7"),
    "features": (lambda c: c["vision_config"].update(vision_output_dim=1), "vision_output_dim = 1"),
    "size": (lambda c: c["vision_config"].update(image_size=[28, 56]), r"image_size = \[28, 56\]"),
    "flag": (lambda c: c["puna"].update(taps_at="middle"), "puna.taps_at = 'middle'"),
    "unknown flag": (lambda c: c["puna"].update(sees=True), "puna.sees = True"),
    "video": (lambda c: c["puna"].update(video={"factor": 2}), "puna.video does not hold"),
    "video places": (
        lambda c: c["puna"].update(video={"places": [70], "factor": 2, "dim": 32, "layers": 1, "heads": 4, "frames": 4}),
        r"places = \[70\] are no text layers",
    ),
    "video heads": (
        lambda c: c["puna"].update(video={"places": [7], "factor": 2, "dim": 32, "layers": 1, "heads": 5, "frames": 4}),
        "multiple of `heads`",
    ),
    "no video file": (
        lambda c: c["puna"].update(video={"places": [7], "factor": 2, "dim": 32, "layers": 1, "heads": 4, "frames": 4}),
        "video_adapter.safetensors is missing",
    ),
    "tokenizer": (lambda c: c["puna"].update(tokenizer="0" * 64), "trained with tokenizer 000000000000"),
    "vocabulary": (
        lambda c: (c.update(image_token_index=500), c["text_config"].update(vocab_size=500)), "512 ids and the model 500"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), BROKEN_CONFIGS.values(), ids=BROKEN_CONFIGS)
def test_other_networks_are_refused(tmp_path: Path, change: Callable[[dict[str, Any]], Any], said: str) -> None:
    save_vision(own(), tmp_path, tokenizer=TOKENIZER)
    edit(tmp_path, change)
    with pytest.raises(InputError, match=said):
        load_vision(tmp_path)


def test_what_the_format_cannot_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="do not fill"):
        save_vision(own(text=replace(WIDE, head_dim=16)), tmp_path)
    with pytest.raises(InputError, match="512 ids and the model 128"):
        save_vision(own(text=TEXT), tmp_path, tokenizer=TOKENIZER)
    model = own()
    model.adapter.config = replace(model.adapter.config, image_id=3)
    with pytest.raises(InputError, match="image token is 3"):
        save_vision(model, tmp_path, tokenizer=TOKENIZER)
    assert not list(tmp_path.iterdir())
