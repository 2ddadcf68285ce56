"""`config.json` of a vision model: the shapes of Llama 3.2 Vision as transformers describes them, and what only Puna knows.

transformers 4.45 to 5 read what is written: RoPE as the older pair `rope_theta` and `rope_scaling`, every number spelled out,
where they leave out what equals their defaults. Layers are numbered there with cross-attention among them: the layer before text
layer p, with r such layers before it, is number p + r. What the two code bases disagree about (docs/vision.md) stands under
the key `puna`; a file without that key is a released checkpoint, and is computed as Meta's code computes it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from puna.core.errors import InputError
from puna.model.config import COPY_CONFIG, ModelConfig
from puna.vision.config import MOST_LAYERS, AdapterConfig, VideoConfig, VisionConfig, are_places, ratios

MODEL_TYPE, ARCHITECTURE, PUNA = "mllama", "MllamaForConditionalGeneration", "puna"
TEXT_DEFAULTS = {  # of transformers' MllamaTextConfig, which its files leave out
    "vocab_size": 128_256, "hidden_size": 4096, "num_hidden_layers": 40, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 14_336, "rms_norm_eps": 1e-5, "max_position_embeddings": 131_072, "rope_theta": 500_000.0,
    "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
}  # fmt: skip
VISION_DEFAULTS = {  # of its MllamaVisionConfig
    "hidden_size": 1280, "num_hidden_layers": 32, "num_global_layers": 8, "attention_heads": 16, "intermediate_size": 5120,
    "image_size": 448, "patch_size": 14, "max_num_tiles": 4, "intermediate_layers_indices": [3, 7, 15, 23, 30], "norm_eps": 1e-5,
}  # fmt: skip
TEXT_KEYS = (  # of a Llama's config.json that a text_config has too
    *("vocab_size", "hidden_size", "hidden_act", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
    *("rms_norm_eps", "max_position_embeddings", "rope_theta", "initializer_range", "use_cache"),
)
FLAGS: dict[str, tuple[type, ...]] = {
    "taps_at": (str,), "attend_padding": (bool,), "leak": (bool,), "image_id": (int, type(None)), "tied": (bool,),
    "video": (dict, type(None)), "tokenizer": (str, type(None)), "text_digest": (str,),
}  # fmt: skip


@dataclass(frozen=True)
class Shapes:
    """Shapes of all parts of a vision model.

    Attributes:
        tokenizer: digest of the tokenizer it was trained with. text_digest: of its text weights (`weights_digest`).
    """

    text: ModelConfig
    vision: VisionConfig
    adapter: AdapterConfig
    video: VideoConfig | None = None
    tokenizer: str | None = None
    text_digest: str | None = None

    def with_image(self, image_id: int) -> Shapes:
        """The same with the id of the tokenizer's image token."""
        return replace(self, adapter=replace(self.adapter, image_id=image_id))


def text_number(layer: int, places: tuple[int, ...]) -> int:
    """The number of a text layer among all layers."""
    return layer + bisect_right(places, layer)


# ---- writing


def to_mllama(shapes: Shapes, token_ids: Mapping[str, Any]) -> dict[str, Any]:
    """`config.json` for these shapes; `token_ids` are those of BOS, stop and pad tokens, empty where no tokenizer is known."""
    hf, places = shapes.text.to_hf(), shapes.adapter.places
    text = {key: hf[key] for key in TEXT_KEYS} | {"pad_token_id": None, "eos_token_id": None, **token_ids}
    text |= {
        "model_type": "mllama_text_model", "num_hidden_layers": shapes.text.layers + len(places), "tie_word_embeddings": False,
        "cross_attention_layers": [place + rank for rank, place in enumerate(places)],
        "rope_scaling": hf["rope_scaling"] or {"rope_type": "default"},  # transformers 4 reads no null here
    }  # fmt: skip
    v = shapes.vision
    vision = {
        "model_type": "mllama_vision_model", "hidden_act": "gelu", "num_channels": 3, "hidden_size": v.dim,
        "num_hidden_layers": v.layers, "num_global_layers": v.global_layers, "attention_heads": v.heads,
        "intermediate_size": v.mlp_dim, "image_size": v.tile, "patch_size": v.patch, "max_num_tiles": v.max_tiles,
        "intermediate_layers_indices": list(v.taps), "vision_output_dim": v.features, "norm_eps": v.norm_eps,
        "supported_aspect_ratios": [list(pair) for pair in ratios(v.max_tiles)],
    }  # fmt: skip
    return {
        "architectures": [ARCHITECTURE], "model_type": MODEL_TYPE, "image_token_index": shapes.text.vocab_size,
        "tie_word_embeddings": False, "text_config": text, "vision_config": vision, PUNA: flags_of(shapes),
    }  # fmt: skip


def flags_of(shapes: Shapes) -> dict[str, Any]:
    """What no other tool knows of a model: the entry `puna`, JSON."""
    flags: dict[str, Any] = {
        "taps_at": shapes.vision.taps_at, "attend_padding": shapes.vision.attend_padding, "leak": shapes.adapter.leak,
        "image_id": shapes.adapter.image_id, "tied": shapes.text.tied, "tokenizer": shapes.tokenizer,
        "video": None if shapes.video is None else {**asdict(shapes.video), "places": list(shapes.video.places)},
    }  # fmt: skip
    return flags if shapes.text_digest is None else {**flags, "text_digest": shapes.text_digest}


# ---- reading


def from_mllama(hf: Mapping[str, Any], where: str) -> Shapes:
    """Shapes in a `config.json` of any transformers release; InputError for what this network does not compute.

    Without the entry `puna`, `image_id` is None: only a tokenizer tells it.
    """
    _check_kind(hf, where)
    text, vision = {**TEXT_DEFAULTS, **_part(hf, "text_config", where)}, {**VISION_DEFAULTS, **_part(hf, "vision_config", where)}
    crossed = _whole_numbers(text["cross_attention_layers"], "cross_attention_layers", where)
    places = tuple(number - rank for rank, number in enumerate(crossed))
    layers = _one_number(text["num_hidden_layers"], "text_config.num_hidden_layers", where, most=MOST_LAYERS) - len(crossed)
    if not are_places(list(places), layers):
        raise InputError(f"cross_attention_layers = {list(crossed)} do not each stand before a text layer of their own",
                         where=where, fix=COPY_CONFIG)  # fmt: skip
    config = ModelConfig.from_hf(
        {**text, "model_type": "llama", "num_hidden_layers": layers, "head_dim": None, "tie_word_embeddings": False}, where=where
    )
    image_token = hf.get("image_token_index", hf.get("image_token_id", TEXT_DEFAULTS["vocab_size"]))
    if image_token != config.vocab_size:
        raise InputError(f"image_token_index = {image_token!r}, and the first id after the vocabulary is {config.vocab_size}",
                         where=where, fix=COPY_CONFIG)  # fmt: skip
    return with_flags(Shapes(config, _encoder(vision, where), AdapterConfig(places)), hf.get(PUNA, {}), where)


def with_flags(shapes: Shapes, flags: Any, where: str) -> Shapes:
    """The shapes with what an entry as of `flags_of` says; InputError for unknown keys and values of a wrong type."""
    if not isinstance(flags, dict):
        raise InputError(f"'{PUNA}' is no object", where=where, fix=COPY_CONFIG)
    for key, value in flags.items():
        if key not in FLAGS or type(value) not in FLAGS[key] or (key == "taps_at" and value not in ("before", "after")):
            raise InputError(f"{PUNA}.{key} = {value!r} is unknown or of a wrong type", where=where, fix=COPY_CONFIG)
    vision = {key: flags[key] for key in ("taps_at", "attend_padding") if key in flags}
    adapter = {key: flags[key] for key in ("leak", "image_id") if key in flags}
    known = {key: flags[key] for key in ("tokenizer", "text_digest") if key in flags}
    video = _video(flags["video"], shapes.text.layers, where) if flags.get("video") else None
    return Shapes(
        replace(shapes.text, tied=flags.get("tied", shapes.text.tied)), replace(shapes.vision, **vision),
        replace(shapes.adapter, **adapter), video, **known,
    )  # fmt: skip


def _video(given: dict[str, Any], layers: int, where: str) -> VideoConfig:
    due = {field.name for field in fields(VideoConfig)}
    if given.keys() != due or not all(type(value) is int and value > 0 for key, value in given.items() if key != "places"):
        raise InputError(f"{PUNA}.video does not hold {', '.join(sorted(due))}", where=where, fix=COPY_CONFIG)
    if not are_places(given["places"], layers):
        raise InputError(f"{PUNA}.video.places = {given['places']!r} are no text layers", where=where, fix=COPY_CONFIG)
    return VideoConfig(**{**given, "places": tuple(given["places"])})


def _check_kind(hf: Mapping[str, Any], where: str) -> None:
    kind = hf.get("model_type")
    if kind == "llama":
        raise InputError("this is a text model, and a vision model is wanted here", where=where,
                         fix="give a vision model: one that vision.pretrain made, or Llama 3.2 Vision")  # fmt: skip
    if kind != MODEL_TYPE:
        raise InputError(f"model_type = {kind!r} is no vision model of the Llama family (expected '{MODEL_TYPE}')", where=where,
                         fix="use a checkpoint of Llama 3.2 Vision")  # fmt: skip


def _part(hf: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    part = hf.get(key, {})
    if not isinstance(part, dict):
        raise InputError(f"{key} is no object", where=where, fix=COPY_CONFIG)
    return {name: value for name, value in part.items() if value is not None}


def _encoder(vision: dict[str, Any], where: str) -> VisionConfig:
    least = {"num_global_layers": 0}
    numbers = {
        key: _one_number(vision[key], f"vision_config.{key}", where, least=least.get(key, 1))
        for key, default in VISION_DEFAULTS.items()
        if type(default) is int
    }
    eps = vision["norm_eps"]
    if type(eps) not in (int, float) or not 0 < eps < 1:
        raise InputError(f"vision_config.norm_eps = {eps!r} is no small number", where=where, fix=COPY_CONFIG)
    config = VisionConfig(
        dim=numbers["hidden_size"], layers=numbers["num_hidden_layers"], global_layers=numbers["num_global_layers"],
        heads=numbers["attention_heads"], mlp_dim=numbers["intermediate_size"], tile=numbers["image_size"],
        patch=numbers["patch_size"], max_tiles=numbers["max_num_tiles"], norm_eps=float(eps),
        taps=_whole_numbers(vision["intermediate_layers_indices"], "intermediate_layers_indices", where),
    )  # fmt: skip
    due = {
        "hidden_act": "gelu", "num_channels": 3, "vision_output_dim": config.features,
        "supported_aspect_ratios": [list(pair) for pair in ratios(config.max_tiles)],
    }  # fmt: skip
    for key, value in due.items():
        found = vision.get(key, value)
        if found != value:
            raise InputError(f"vision_config.{key} = {found!r}, and this network computes {value!r}", where=where,
                             fix="use a checkpoint of Llama 3.2 Vision")  # fmt: skip
    return config


def _one_number(value: Any, key: str, where: str, *, least: int = 1, most: int | None = None) -> int:
    """A size, also written as [size, size]."""
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if type(value) is not int or value < least or (most is not None and value > most):
        raise InputError(f"{key} = {value!r} is no size", where=where, fix=COPY_CONFIG)
    return value


def _whole_numbers(value: Any, key: str, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(number) is int for number in value):
        raise InputError(f"{key} = {value!r} is no list of layers", where=where, fix=COPY_CONFIG)
    return tuple(value)
