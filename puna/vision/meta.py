"""Vision models in Meta's layout: `params.json` with its `vision_` keys, `consolidated.NN.pth`, as Llama 3.2 Vision is published.

Names and shapes are those of github.com/meta-llama/llama-models (`models/llama3/multimodal`): the encoder under
`vision_model.vision_encoder`, adapters under `text_model.cross_attention_layers`, self-attention with RoPE on adjacent rows, one
table for a canvas instead of a row for each aspect ratio. Meta's code fixes most of the encoder's shape; where a model has
another, and for what only Puna knows, `puna.json` lies beside. Rows that no table can hold lie in `tile_rows.safetensors`, so
that nothing is lost on the way there and back. Files are read as those of text models: plain tensors, mapped, and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from puna.core.errors import InputError
from puna.model.checkpoint import COPY_AGAIN, TOKENIZER_DIGEST, check_state, check_tokenizer, read_json, read_weights, write_json
from puna.model.meta_layout import (
    PARAMS,
    SHARD,
    SIDE,
    alone,
    has_vision,
    is_meta,
    join_parts,
    read_shard,
    read_side,
    shard_files,
    text_config,
    text_params,
    text_state,
    text_tensors,
    tie,
    write_beside,
)
from puna.vision.config import AdapterConfig, VisionConfig, are_places, cross_places
from puna.vision.hf import VIDEO_FILE, assemble, empty_vision, shapes_of, tokenizer_beside, write_video
from puna.vision.meta_tables import resized_canvas, resized_positions, rows_of, table_of
from puna.vision.mllama import FLAGS, Shapes, flags_of, with_flags
from puna.vision.model import VisionLlama

if TYPE_CHECKING:
    from puna.tokenizer.bpe import Tokenizer

ENCODER, TEXT, CROSS = "vision_model.vision_encoder.", "text_model.", "text_model.cross_attention_layers."
ROWS_FILE = "tile_rows.safetensors"
DIMS = (1, 2, 3, 4)  # of tensors in these files
OUTER = {  # of the encoder; ours: Meta's
    "patch_embedding.weight": "conv1._linear.weight", "class_embedding": "class_embedding",
    "gated_positional_embedding.gate": "gated_positional_embedding_gate",
    "gated_positional_embedding.embedding": "positional_embedding",
    "gated_positional_embedding.tile_embedding.weight": "gated_positional_embedding",
    "pre_tile_positional_embedding.embedding.weight": "pre_tile_pos_embed.embedding",
    "pre_tile_positional_embedding.gate": "pre_tile_pos_embed.gate",
    "post_tile_positional_embedding.embedding.weight": "post_tile_pos_embed.embedding",
    "post_tile_positional_embedding.gate": "post_tile_pos_embed.gate",
    "layernorm_pre.weight": "ln_pre.weight", "layernorm_pre.bias": "ln_pre.bias",
    "layernorm_post.weight": "ln_post.weight", "layernorm_post.bias": "ln_post.bias",
}  # fmt: skip
TABLES = tuple(name for name in OUTER if name.endswith("embedding.weight") and name != "patch_embedding.weight")
INNER = {  # of an encoder layer
    "self_attn.q_proj": "attn.wq", "self_attn.k_proj": "attn.wk", "self_attn.v_proj": "attn.wv", "self_attn.o_proj": "attn.wo",
    "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "input_layernorm": "ln_1", "post_attention_layernorm": "ln_2",
    "gate_attn": "gate_attn", "gate_ffn": "gate_ffn",
}  # fmt: skip
CROSSED = {  # of a cross-attention layer
    "cross_attn.q_proj": "attention.wq", "cross_attn.k_proj": "attention.wk", "cross_attn.v_proj": "attention.wv",
    "cross_attn.o_proj": "attention.wo", "cross_attn.q_norm": "attention.q_norm", "cross_attn.k_norm": "attention.k_norm",
    "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2", "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm", "cross_attn_attn_gate": "gate_attn",
    "cross_attn_mlp_gate": "gate_ffwd",
}  # fmt: skip
CUT_BY_ROWS = ("wq", "wk", "wv", "w1", "w3", "c_fc", "_linear", "vision_projection", "learnable_embedding")
CUT_BY_COLUMNS = ("wo", "w2", "c_proj")


def is_meta_vision(directory: str | Path) -> bool:
    """Whether a directory is a vision model in Meta's layout."""
    return is_meta(directory) and has_vision(read_json(Path(directory) / PARAMS))


def meta_names(model: VisionLlama) -> dict[str, str]:
    """Our name of every tensor of encoder and image adapter to Meta's, in the order of the network."""
    names = {f"encoder.{ours}": ENCODER + theirs for ours, theirs in OUTER.items()}
    for name in model.state_dict():
        part, _, rest = name.partition(".")
        stack, _, inner = rest.partition(".layers.")
        if part == "encoder" and name not in names:
            number, _, weight = inner.partition(".")
            names[name] = f"{ENCODER}{stack}.resblocks.{number}.{_renamed(weight, INNER)}"
        elif name.startswith("adapter.layers."):
            number, _, weight = rest.removeprefix("layers.").partition(".")
            names[name] = f"{CROSS}{number}.{_renamed(weight, CROSSED)}"
        elif name.startswith("adapter.projector."):
            names[name] = "vision_model.vision_projection." + rest.removeprefix("projector.")
    return names | {"adapter.embedding": f"{TEXT}learnable_embedding.weight"}


def _renamed(name: str, table: dict[str, str]) -> str:
    if name in table:
        return table[name]
    module, _, kind = name.rpartition(".")
    return f"{table[module]}.{kind}"


# ---- reading


def load_meta_vision(directory: str | Path, *, dtype: torch.dtype | None = torch.float32) -> VisionLlama:
    """The vision model of a directory in Meta's layout, its text part frozen.

    Args:
        dtype: what weights are cast to; None keeps what is stored.

    Without `puna.json` it is a released model: Meta's numerics, the encoder's shape as its code has it. Where `vision_chunk_size`
    is not the size of the tiles that the tables were made for, they are stretched to it, as Meta's code does. InputError as of
    `puna.model.meta_layout.load_meta`.
    """
    directory = Path(directory)
    params, side = read_json(directory / PARAMS), read_side(directory)
    shards = [read_shard(path, DIMS) for path in shard_files(directory)]
    texts = [{n.removeprefix(TEXT): t for n, t in shard.items() if _is_text(n)} for shard in shards]
    seeing = [{n: t for n, t in shard.items() if not _is_text(n)} for shard in shards]
    shapes = _shapes(params, side, texts, directory)
    check_tokenizer(directory, shapes.tokenizer, shapes.text)
    text = text_state(texts, shapes.text, directory)
    model = empty_vision(replace(shapes, text=replace(shapes.text, tied=tie(text, side, directory))))
    state = _our_state(seeing, model, directory) | {f"text.{name}": tensor for name, tensor in text.items()}
    return assemble(model, state, directory, dtype=dtype)


def _is_text(name: str) -> bool:
    """Whether a tensor belongs to the text network."""
    return name.startswith(TEXT) and not name.startswith((CROSS, f"{TEXT}learnable_embedding."))


def _shapes(params: dict[str, Any], side: dict[str, Any], texts: list[dict[str, Tensor]], directory: Path) -> Shapes:
    where, known = str(directory / SIDE), dict(side.get("vision", {}))
    text = text_config(params, side, texts, directory)
    sizes = {key: params.get(f"vision_{key}", -1) for key in ("chunk_size", "max_num_chunks", "num_cross_attention_layers")}
    for key, value in sizes.items():
        if type(value) is not int or value < 1:
            raise InputError(f"vision_{key} = {value!r} in params.json is no size", where=str(directory / PARAMS), fix=COPY_AGAIN)
    given, places = known.pop("encoder", {}), known.pop("places", None)
    if not _is_shape(given) or not (places is None or are_places(places, text.layers)):
        raise InputError("the shape of the encoder in puna.json is wrong", where=where, fix=COPY_AGAIN)
    taps = {"taps": tuple(given["taps"])} if "taps" in given else {}
    vision = VisionConfig(**{**given, **taps, "tile": sizes["chunk_size"], "max_tiles": sizes["max_num_chunks"]})
    places = tuple(places) if places else cross_places(text.layers, sizes["num_cross_attention_layers"])
    tokenizer = None
    if not known:
        beside = tokenizer_beside(directory)
        tokenizer = None if beside is None else beside.image_id
    shapes = Shapes(text, vision, AdapterConfig(places, image_id=tokenizer), tokenizer=side.get(TOKENIZER_DIGEST))
    return with_flags(shapes, known, where)


def _is_shape(given: Any) -> bool:
    """Whether this is the shape of an encoder as `_side` writes it."""
    kinds: dict[str, type] = {
        field.name: int for field in fields(VisionConfig) if field.name not in ("tile", "max_tiles", *FLAGS)
    }
    kinds |= {"norm_eps": float, "taps": list}
    right = isinstance(given, dict) and all(type(value) is kinds.get(key) for key, value in given.items())
    return right and all(type(tap) is int for tap in given.get("taps", ()))


def _our_state(shards: list[dict[str, Tensor]], model: VisionLlama, directory: Path) -> dict[str, Tensor]:
    """Tensors of encoder and image adapter by our names, each checked."""
    names, own, config = meta_names(model), model.state_dict(), model.encoder.config
    uneven = [name for shard in shards[1:] for name in shard.keys() ^ shards[0].keys()]
    if uneven:
        raise InputError(f"the files disagree about {min(uneven)}", where=str(directory), fix="copy all files of one model")
    expected = {theirs: own[ours].new_empty(_meta_shape(ours, own[ours].shape, config)) for ours, theirs in names.items()}
    state = {}
    for name in shards[0]:
        tensor = _joined(name, [shard[name] for shard in shards], model, directory)
        gate = name in expected and expected[name].shape == (1,)
        state[name] = tensor.flatten()[:1] if gate else tensor  # older files hold it once for each channel, all the same
    _stretch(state, config)
    check_state(expected, state, directory, "Llama 3.2 Vision in Meta's layout")
    found = {}
    for ours, theirs in names.items():
        table = ours.removeprefix("encoder.") in TABLES
        found[ours] = rows_of(state[theirs]) if table else state[theirs].reshape(own[ours].shape)
    return found | _read_rows(own, directory)


def _meta_shape(name: str, shape: torch.Size, config: VisionConfig) -> tuple[int, ...]:
    """The shape of a tensor of ours in Meta's files."""
    name = name.removeprefix("encoder.")
    if name in TABLES:
        return (config.max_tiles, config.max_tiles, shape[1] // (config.max_tiles * config.dim), config.dim)
    return (shape[0], shape[1:].numel()) if name == "patch_embedding.weight" else tuple(shape)


def _joined(name: str, parts: list[Tensor], model: VisionLlama, directory: Path) -> Tensor:
    """The parts of model parallelism as one tensor: cut by rows, by columns, or not at all."""
    kind = name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]
    by_columns = kind in CUT_BY_COLUMNS and parts[0].dim() == 2
    copies = 1 if by_columns or kind in CUT_BY_ROWS else len(parts)
    if name.startswith(CROSS) and kind in ("wk", "wv"):
        copies = max(1, len(parts) // model.config.kv_heads)
    return join_parts(name, parts, copies, by_columns, directory)


def _stretch(state: dict[str, Tensor], config: VisionConfig) -> None:
    """Make tables of positions fit the size of the tiles."""
    side = config.tile // config.patch
    local, canvas = (ENCODER + OUTER[f"gated_positional_embedding.{name}"] for name in ("embedding", "tile_embedding.weight"))
    for name, stretched, dims in ((local, resized_positions, 2), (canvas, resized_canvas, 4)):
        table = state.get(name)
        if table is not None and table.dim() == dims and _is_grid(table.shape[-2]) and table.shape[-2] != config.tokens:
            state[name] = stretched(table, side)


def _is_grid(tokens: int) -> bool:
    """Whether so many tokens are a class token and a square of patches."""
    return tokens > 1 and math.isqrt(tokens - 1) ** 2 == tokens - 1


def _read_rows(own: dict[str, Tensor], directory: Path) -> dict[str, Tensor]:
    """Rows that no table holds, by our names, in place of what the tables say."""
    if not (directory / ROWS_FILE).is_file():
        return {}
    rows = read_weights(directory / ROWS_FILE)
    due = {name: own[name] for name in rows if name.removeprefix("encoder.") in TABLES}
    check_state(due, rows, directory, "this vision model")
    return rows


# ---- writing


def save_meta_vision(
    model: VisionLlama,
    directory: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    generation: dict[str, Any] | None = None,
) -> list[str]:
    """Write a vision model in Meta's layout, in one file and every tensor in the precision it has.

    Returns notes for the user: what Meta's own code would compute otherwise. Arguments and errors as of `meta_layout.save_meta`.
    """
    directory, vision = Path(directory), model.encoder.config
    tensors = {TEXT + name: tensor for name, tensor in text_tensors(model.text, str(directory)).items()}
    own = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    rows = dict[str, Tensor]()
    for ours, theirs in meta_names(model).items():
        weight = alone(own[ours])
        if ours.removeprefix("encoder.") in TABLES:
            table = table_of(weight, vision.max_tiles, vision.dim)
            rows |= {} if torch.equal(rows_of(table), weight) else {ours: weight}
            weight = table
        tensors[theirs] = weight.view(_meta_shape(ours, own[ours].shape, vision))
    directory.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, directory / SHARD.format(0))
    write_json(directory / PARAMS, text_params(model.config) | {
        "vision_chunk_size": vision.tile, "vision_max_num_chunks": vision.max_tiles,
        "vision_num_cross_attention_layers": len(model.adapter.layers),
    })  # fmt: skip
    (directory / ROWS_FILE).unlink(missing_ok=True)
    if rows:
        save_file(rows, directory / ROWS_FILE, metadata={"format": "pt"})
    write_video(model, directory)
    side = _side(model)
    notes = write_beside(model.config, directory, tokenizer=tokenizer, generation=generation, vision=side)
    return notes + _notes(model, bool(rows))


def _side(model: VisionLlama) -> dict[str, Any]:
    """What `puna.json` says of a vision model."""
    flags = {key: value for key, value in flags_of(shapes_of(model)).items() if key not in ("tied", "tokenizer")}
    encoder = {key: value for key, value in asdict(model.encoder.config).items() if key not in ("tile", "max_tiles", *flags)}
    return {**flags, "places": list(model.adapter.config.places), "encoder": {**encoder, "taps": list(encoder["taps"])}}


def _notes(model: VisionLlama, rows: bool) -> list[str]:
    """Where only Puna computes what this model is."""
    vision, adapter, layers = model.encoder.config, model.adapter.config, model.config.layers
    released = VisionConfig(tile=vision.tile, max_tiles=vision.max_tiles)
    notes = []
    if vision != released or adapter.leak:
        notes.append(
            "Meta's code knows one encoder and one way to compute it (docs/vision.md): only puna.json tells this model's"
        )
    if adapter.places != cross_places(layers, len(adapter.places)):
        notes.append("Meta's code would put the cross-attention layers elsewhere: only puna.json tells their places")
    if rows:
        notes.append(f"this model's tables of tiles have rows that no table of Meta's holds: they lie in {ROWS_FILE}")
    if model.video is not None:
        notes.append(f"Meta's layout has no video adapter: it lies in {VIDEO_FILE}")
    return notes
