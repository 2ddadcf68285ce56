"""Vision models on disk: Hugging Face's Mllama directory, as Llama 3.2 Vision is published (section 7).

Weights lie under the key names of transformers before 4.52, which every release reads; those of later releases are read too. The
embeddings of media tokens, the adapter's, are the eight rows after the text's. transformers has no place for a video adapter: it
lies beside in `video_adapter.safetensors`. The text part comes out as it went in, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from puna.core.errors import InputError
from puna.model.checkpoint import (
    CONFIG,
    COPY_AGAIN,
    GENERATION,
    MAX_SHARD_BYTES,
    check_state,
    check_vocabulary,
    fill,
    load_state,
    read_config,
    read_json,
    read_weights,
    token_ids,
    write_json,
    write_weights,
)
from puna.model.fp8_linear import ACTIVATION_BOUND, Fp8Linear
from puna.model.llama import Llama
from puna.post.checkpoints import weights_digest
from puna.tokenizer.special import IMAGE
from puna.vision.config import EXTRA_ROWS
from puna.vision.mllama import ARCHITECTURE, PUNA, Shapes, from_mllama, text_number, to_mllama
from puna.vision.model import VisionLlama
from puna.vision.tiles import ImageShape

if TYPE_CHECKING:
    from puna.tokenizer.bpe import Tokenizer

VIDEO_FILE, PREPROCESSOR, TEMPLATE = "video_adapter.safetensors", "preprocessor_config.json", "chat_template.json"

EMBEDDING = "language_model.model.embed_tokens.weight"
NEW_PREFIXES = {  # of transformers from 4.52 on, and what was there before; the first that fits counts
    "model.language_model.": "language_model.model.", "model.vision_model.": "vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.", "lm_head.": "language_model.lm_head.",
}  # fmt: skip


def save_vision(
    model: VisionLlama,
    directory: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    generation: dict[str, Any] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    image_shape: ImageShape | None = None,
) -> None:
    """Write a vision model as a Mllama directory, every tensor in the precision it has; an earlier save there is replaced.

    Args:
        tokenizer: its files are written beside; in `tokenizer.json`, `<|image|>` is the first id after the vocabulary.
        generation: entries of `generation_config.json`; ids of BOS, stop and pad tokens are added.
        image_shape: how pictures are normalised, for `preprocessor_config.json`; None is CLIP's mean and deviation.

    InputError for another vocabulary than the tokenizer's, another image token, FP8 layers, and heads that are not
    `dim / heads` wide, which the format cannot say.
    """
    directory = Path(directory)
    _check_sayable(model, directory, tokenizer)
    ids = token_ids(tokenizer) if tokenizer else {}
    write_weights(mllama_state(model), directory, max_shard_bytes)
    write_video(model, directory)
    shapes = shapes_of(model, tokenizer)
    dtype = str(model.text.model.norm.weight.dtype).removeprefix("torch.")
    write_json(directory / CONFIG, {**to_mllama(shapes, ids), "torch_dtype": dtype})
    write_json(directory / GENERATION, {**ids, **(generation or {})})
    write_json(directory / PREPROCESSOR, preprocessor(model, image_shape or ImageShape()))
    if tokenizer is not None:
        _write_tokenizer(tokenizer, directory)


def load_vision(
    directory: str | Path, *, dtype: torch.dtype | None = torch.float32, device: str | torch.device = "cpu"
) -> VisionLlama:
    """The vision model of a Mllama directory, its text part frozen.

    Args:
        dtype: what weights are cast to; None keeps what is stored, which may differ from part to part.

    Raises InputError for a text model, for a wrong tokenizer, for damaged files and for tensors that are missing, surplus or of
    another shape.
    """
    directory = Path(directory)
    shapes = read_shapes(directory)
    state = {}
    for name, tensor in load_state(directory).items():
        old = old_name(name)
        if old in state:
            raise InputError(f"{old} is there in both layouts", where=str(directory), fix="keep the files of one save")
        state[old] = tensor
    model = empty_vision(shapes)
    return assemble(model, _our_state(model, shapes, state, directory), directory, dtype=dtype, device=device)


def read_shapes(directory: Path) -> Shapes:
    """What `config.json` says, checked against the tokenizer beside it; errors as of `load_vision`."""
    where = str(directory / CONFIG)
    hf = read_config(directory)
    shapes = from_mllama(hf, where)
    tokenizer = tokenizer_beside(directory)
    if tokenizer is None:
        return shapes
    check_vocabulary(shapes.text, tokenizer.vocab_size, str(directory))
    if shapes.tokenizer not in (None, tokenizer.digest):
        raise InputError(f"these weights were trained with tokenizer {shapes.tokenizer[:12]} and {tokenizer.digest[:12]} lies"
                         " beside them", where=str(directory), fix="put the original tokenizer files back")  # fmt: skip
    if "image_id" not in hf.get(PUNA, {}):
        return shapes.with_image(tokenizer.image_id)
    check_image_token(shapes.adapter.image_id, tokenizer, str(directory))
    return shapes


def _our_state(model: VisionLlama, shapes: Shapes, state: dict[str, Tensor], directory: Path) -> dict[str, Tensor]:
    """Tensors under published names by ours, each checked; without those of a video adapter."""
    names = mllama_names(model)
    expected = {theirs: model.state_dict()[ours] for ours, theirs in names.items()}
    expected[EMBEDDING] = torch.empty(shapes.text.vocab_size + EXTRA_ROWS, shapes.text.dim, device="meta")
    check_state(expected, state, directory, ARCHITECTURE)
    ours = {name: state[theirs] for name, theirs in names.items()} | _split_embedding(state, shapes)
    if shapes.text.tied and not torch.equal(ours["text.lm_head.weight"], ours["text.model.embed_tokens.weight"]):
        raise InputError("config.json ties the output matrix to the embedding and the weights hold two different ones",
                         where=str(directory), fix=f"set {PUNA}.tied to false in config.json")  # fmt: skip
    return ours


def assemble(
    model: VisionLlama,
    state: dict[str, Tensor],
    directory: Path,
    *,
    dtype: torch.dtype | None,
    device: str | torch.device = "cpu",
) -> VisionLlama:
    """A network on `meta` filled with tensors by our names; those of a video adapter are read from `directory`."""
    fill(model, state | _read_video(model, directory), directory, dtype=dtype, device=device, activation_bound=ACTIVATION_BOUND)
    if model.config.tied:
        model.text.tie()
    model.swap(model.text)
    return model


def empty_vision(shapes: Shapes) -> VisionLlama:
    """The network on `meta`: shapes without memory."""
    with torch.device("meta"):
        return VisionLlama(Llama(shapes.text, seed=None), shapes.vision, shapes.adapter, shapes.video, seed=None)


def adapter_parameters(shapes: Shapes) -> int:
    """Parameters of the image encoder and of all adapters."""
    return sum(weight.numel() for name, weight in empty_vision(shapes).named_parameters() if not name.startswith("text."))


def shapes_of(model: VisionLlama, tokenizer: Tokenizer | None = None) -> Shapes:
    """Shapes of a network, and what it is known by."""
    return Shapes(
        model.config, model.encoder.config, model.adapter.config, None if model.video is None else model.video.config,
        tokenizer.digest if tokenizer else None, weights_digest(model.text),
    )  # fmt: skip


# ---- names


def mllama_names(model: VisionLlama) -> dict[str, str]:
    """Our name of every tensor to the published one, in the order they are written; embeddings and video adapter left out."""
    places = model.adapter.config.places
    names = {}
    for name in model.state_dict():
        part, _, rest = name.partition(".")
        if part == "encoder":
            names[name] = f"vision_model.{rest}"
        elif name.startswith("adapter.projector."):
            names[name] = "multi_modal_" + name.removeprefix("adapter.")
        elif name.startswith("adapter.layers."):
            rank, _, weight = name.removeprefix("adapter.layers.").partition(".")
            names[name] = f"language_model.model.layers.{places[int(rank)] + int(rank)}.{weight}"
        elif name.startswith("text.model.layers."):
            layer, _, weight = name.removeprefix("text.model.layers.").partition(".")
            names[name] = f"language_model.model.layers.{text_number(int(layer), places)}.{weight}"
        elif part == "text" and name != "text.model.embed_tokens.weight":
            names[name] = f"language_model.{rest}"
    return names


def old_name(name: str) -> str:
    """The name of a tensor as transformers wrote it before 4.52, from any release's."""
    for new, old in NEW_PREFIXES.items():
        if name.startswith(new):
            return old + name.removeprefix(new)
    return name


def mllama_state(model: VisionLlama) -> dict[str, Tensor]:
    """Tensors under their published names; both tables of embeddings in one, in a type that holds both exactly."""
    ours = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    state = {EMBEDDING: torch.cat((ours["text.model.embed_tokens.weight"], ours["adapter.embedding"]))}
    return state | {theirs: ours[name] for name, theirs in mllama_names(model).items()}


def _split_embedding(state: Mapping[str, Tensor], shapes: Shapes) -> dict[str, Tensor]:
    """The two tables; each in the type of the part it belongs to, where that loses nothing."""
    rows, vocabulary = state[EMBEDDING], shapes.text.vocab_size
    parts = {
        "text.model.embed_tokens.weight": (rows[:vocabulary], state["language_model.lm_head.weight"].dtype),
        "adapter.embedding": (rows[vocabulary:], state["multi_modal_projector.weight"].dtype),
    }
    return {name: narrow if torch.equal((narrow := part.to(dtype)).to(part.dtype), part) else part
            for name, (part, dtype) in parts.items()}  # fmt: skip


# ---- the video adapter


def write_video(model: VisionLlama, directory: Path) -> None:
    """Write the video adapter, or remove that of an earlier save."""
    (directory / VIDEO_FILE).unlink(missing_ok=True)
    if model.video is not None:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.video.state_dict().items()}
        save_file(state, directory / VIDEO_FILE, metadata={"format": "pt"})


def _read_video(model: VisionLlama, directory: Path) -> dict[str, Tensor]:
    if (model.video is not None) != (directory / VIDEO_FILE).is_file():
        there = "is there" if model.video is None else "is missing"
        raise InputError(f"{VIDEO_FILE} {there}, and config.json says otherwise", where=str(directory), fix=COPY_AGAIN)
    if model.video is None:
        return {}
    state = read_weights(directory / VIDEO_FILE)
    check_state(model.video.state_dict(), state, directory, "this video adapter")
    return {f"video.{name}": tensor for name, tensor in state.items()}


# ---- files beside


def preprocessor(model: VisionLlama, shape: ImageShape) -> dict[str, Any]:
    """`preprocessor_config.json` of transformers' `MllamaImageProcessor` for the encoder's tiles."""
    config = model.encoder.config
    return {
        "image_processor_type": "MllamaImageProcessor", "do_convert_rgb": True, "do_resize": True, "do_pad": True,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": list(shape.mean),
        "image_std": list(shape.std), "resample": 2, "max_image_tiles": config.max_tiles,
        "size": {"height": config.tile, "width": config.tile},
    }  # fmt: skip


def image_shape_of(model: VisionLlama, directory: str | Path | None = None) -> ImageShape:
    """How pictures are cut for a model; mean and deviation from the `preprocessor_config.json` of its directory, else CLIP's."""
    config, given = model.encoder.config, dict[str, Any]()
    path = None if directory is None else Path(directory) / PREPROCESSOR
    if path is not None and path.is_file():
        given = {ours: read_json(path).get(theirs) for ours, theirs in (("mean", "image_mean"), ("std", "image_std"))}
        for key, value in given.items():
            if not isinstance(value, list) or len(value) != 3 or not all(_is_level(number, key == "std") for number in value):
                raise InputError(f"image_{key} is not three numbers of pixels between 0 and 1", where=str(path), fix=COPY_AGAIN)
    triples = {key: (float(value[0]), float(value[1]), float(value[2])) for key, value in given.items()}
    return ImageShape(config.tile, config.max_tiles, **triples)


def _is_level(value: Any, positive: bool) -> bool:
    """Whether this is a mean of normalised pixels, or a deviation (`positive`)."""
    return type(value) in (int, float) and math.isfinite(value) and (value > 0 or not positive)


def tokenizer_beside(directory: Path) -> Tokenizer | None:
    """The tokenizer in a directory; None where there is none."""
    from puna.tokenizer.bpe import MODEL_FILE, Tokenizer

    return Tokenizer.load(directory) if any((directory / name).is_file() for name in (MODEL_FILE, "tokenizer.json")) else None


def _write_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Its files as published with Llama 3.2 Vision: slot 11, Meta's image token, is one more reserved token there."""
    from puna.tokenizer.chat import jinja_template
    from puna.tokenizer.hf import tokenizer_config, tokenizer_json

    tokenizer.save(directory)
    described, slot = tokenizer_json(tokenizer), tokenizer.image_id
    added = [dict(token) for token in described["added_tokens"]]
    for token in added:
        if token["id"] >= slot:
            token["content"] = f"<|reserved_special_token_{2 + token['id'] - slot}|>"
    described["added_tokens"] = [*added, {**added[-1], "id": tokenizer.vocab_size, "content": IMAGE}]
    write_json(directory / "tokenizer.json", described)
    write_json(directory / "tokenizer_config.json", {**tokenizer_config(), "processor_class": "MllamaProcessor"})
    write_json(directory / TEMPLATE, {"chat_template": jinja_template()})


def _check_sayable(model: VisionLlama, directory: Path, tokenizer: Tokenizer | None) -> None:
    config, where = model.config, str(directory)
    if any(isinstance(module, Fp8Linear) for module in model.modules()):
        raise InputError("a vision model with FP8 layers cannot be written", where=where, fix="widen its text part first")
    if config.head_size * config.heads != config.dim:
        raise InputError(f"{config.heads} heads of {config.head_size} do not fill {config.dim}, and a Mllama config.json cannot"
                         " say so", where=where, fix="give adapters to a text model whose heads fill its width")  # fmt: skip
    if tokenizer is None:
        return
    check_vocabulary(config, tokenizer.vocab_size, where)
    check_image_token(model.adapter.config.image_id, tokenizer, where)


def check_image_token(image_id: int | None, tokenizer: Tokenizer, where: str) -> None:
    """InputError for an adapter whose image token is another than the tokenizer's."""
    if image_id not in (None, tokenizer.image_id):
        raise InputError(f"the adapter's image token is {image_id} and the tokenizer's {tokenizer.image_id}",
                         where=where, fix="use the tokenizer the model was trained with")  # fmt: skip
