"""Models in Meta's layout: `params.json`, `consolidated.NN.pth`, `tokenizer.model` (github.com/meta-llama/llama-models).

What that layout has no place for (context length, other RoPE scaling, the tokenizer's digest, generation settings) lies beside in
`puna.json`, which Meta's code does not read. Several `consolidated.NN.pth` are parts for model parallelism: they are joined again
along the dimension each tensor was cut. Reading trusts nothing: only plain tensors are unpickled, nothing else is ever run, and
tensors may not claim more than the file holds.
"""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from puna.core.errors import InputError
from puna.model.checkpoint import (
    COPY_AGAIN,
    TOKENIZER_DIGEST,
    build_model,
    check_tokenizer,
    check_vocabulary,
    read_json,
    write_json,
)
from puna.model.config import ModelConfig, RopeScaling, ffn_width, read_rope_scaling
from puna.model.layouts import interleave_rows, meta_names, split_rows, turned_heads
from puna.model.llama import Llama

if TYPE_CHECKING:
    from puna.tokenizer.bpe import Tokenizer

PARAMS, SIDE, TOKENIZER_FILE = "params.json", "puna.json", "tokenizer.model"
SHARD, ONLY = "consolidated.{:02d}.pth", "consolidated.pth"  # the second name: one file of a Llama 3.2 Vision
ROPE_TABLE = "rope.freqs"  # in the files of Llama 1 and 2; computed since
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FOREIGN = ("quantization_args", "lora_args", "moe_args", "vision_model")
LARGEST = 1 << 24  # of any size in params.json: beyond every Llama, and small enough that no product of two overflows
CONTEXT, SCALED_CONTEXT = 8192, 131_072  # of Llama 3 and of 3.1, where no puna.json says otherwise
WIDTHS = ((1024, 4096, 512, 256, 128, 64, 32), (1.0, 1.3, 1.2, 1.5))  # `multiple_of` and multipliers of the released models
META_ONLY = "give an unquantised Llama 3 text model in Meta's layout"


def is_meta(directory: str | Path) -> bool:
    """Whether a directory is a model in Meta's layout (and not also one in Hugging Face's, which is read first)."""
    directory = Path(directory)
    return (directory / PARAMS).is_file() and not (directory / "config.json").is_file()


# ---- reading


def load_meta(directory: str | Path, *, dtype: torch.dtype | None = torch.float32) -> Llama:
    """The model of a directory in Meta's layout, in training mode as torch leaves new modules.

    Args:
        dtype: what weights are cast to; None keeps what is stored.

    Without `puna.json`, the context is 131,072 positions where `use_scaled_rope` is set and 8,192 elsewhere, and an output matrix
    equal to the embedding is tied to it. Raises InputError for another network than a Llama, for damaged files, for files that
    hold more than plain tensors, for tensors missing, surplus or of another shape, and for another tokenizer.
    """
    directory = Path(directory)
    params, side = _read_params(directory / PARAMS), read_side(directory)
    shards = [read_shard(path) for path in shard_files(directory)]
    config = text_config(params, side, shards, directory)
    check_tokenizer(directory, side.get(TOKENIZER_DIGEST), config)
    state = text_state(shards, config, directory)
    return build_model(replace(config, tied=tie(state, side, directory)), state, directory, dtype=dtype)


def tie(state: dict[str, Tensor], side: dict[str, Any], directory: Path) -> bool:
    """Whether the output matrix is the embedding, which it becomes in `state` then; InputError where `puna.json` is wrong."""
    embedding, output = state["model.embed_tokens.weight"], state.get("lm_head.weight")
    equal = output is None or torch.equal(output, embedding)
    tied = bool(side.get("tie_word_embeddings", equal))
    if tied and not equal:
        raise InputError("puna.json ties the output matrix to the embedding and the weights hold two different ones",
                         where=str(directory / SIDE), fix="copy puna.json from where the weights come from")  # fmt: skip
    state["lm_head.weight"] = embedding if tied or output is None else output
    return tied


def read_side(directory: Path) -> dict[str, Any]:
    """What `puna.json` adds to `params.json`; empty where there is none. InputError for values of a wrong type."""
    path = directory / SIDE
    if not path.is_file():
        return {}
    side = read_json(path)
    kinds: dict[str, tuple[type, ...]] = {
        "max_position_embeddings": (int,), "rope_scaling": (dict, type(None)), "tie_word_embeddings": (bool,),
        TOKENIZER_DIGEST: (str,), "generation": (dict,), "vision": (dict,),
    }  # fmt: skip
    for key, value in side.items():
        if key not in kinds or not isinstance(value, kinds[key]):
            raise InputError(f"'{key}' is unknown or of a wrong type", where=str(path), fix=COPY_AGAIN)
    return side


def _read_params(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError("this directory has no params.json, so it is no model in Meta's layout", where=str(path.parent))
    params = read_json(path)
    foreign = [key for key in FOREIGN if params.get(key)]
    if has_vision(params):
        raise InputError("this is a vision model, and a text model is wanted here", where=str(path),
                         fix="take its text part out: puna convert SRC DST --to text")  # fmt: skip
    if foreign:
        raise InputError(f"params.json has {foreign[0]}, which this network does not compute", where=str(path), fix=META_ONLY)
    return params


def has_vision(params: dict[str, Any]) -> bool:
    """Whether `params.json` describes a model with an image encoder."""
    return params.get("vision_chunk_size", -1) not in (-1, None)


def text_config(params: dict[str, Any], side: dict[str, Any], shards: list[dict[str, Tensor]], directory: Path) -> ModelConfig:
    """The shape of the text network; `shards` hold its tensors. InputError for numbers that no Llama has."""
    where = str(directory / PARAMS)

    def number(key: str, default: float | None = None, kinds: tuple[type, ...] = (int, float)) -> Any:
        value: Any = params.get(key)
        value = default if value is None else value
        if type(value) not in kinds or not 0 < value <= LARGEST or not math.isfinite(value):
            raise InputError(f"{key} = {value!r} in params.json is no usable number", where=where, fix=COPY_AGAIN)
        return value

    def size(key: str, default: int | None = None) -> int:
        return number(key, default, (int,))

    dim, layers, heads = size("dim"), size("n_layers"), size("n_heads")
    if layers > len(shards[0]):
        raise InputError(f"params.json has {layers} layers and the weights {len(shards[0])} tensors", where=where, fix=COPY_AGAIN)
    if params.get("vocab_size", -1) == -1:  # Llama 1 and 2 left it to the tokenizer
        params = {**params, "vocab_size": sum(len(shard.get("output.weight", ())) for shard in shards)}
    scaled = bool(params.get("use_scaled_rope", False))
    scaling = read_rope_scaling(side.get("rope_scaling") or {}, str(directory / SIDE))
    if "rope_scaling" in side and (scaling is not None) != scaled:
        raise InputError("params.json and puna.json disagree about RoPE scaling", where=where, fix=COPY_AGAIN)
    return ModelConfig(
        vocab_size=size("vocab_size"), dim=dim, layers=layers, heads=heads, kv_heads=size("n_kv_heads", heads),
        ffn_dim=ffn_width(dim, min(number("ffn_dim_multiplier", 1.0), 1024.0), size("multiple_of", 256)),
        norm_eps=float(number("norm_eps", 1e-5)), rope_theta=float(number("rope_theta", 10_000.0)),
        rope_scaling=(scaling or RopeScaling()) if scaled else None,
        max_seq_len=side.get("max_position_embeddings", SCALED_CONTEXT if scaled else CONTEXT),
    )  # fmt: skip


def shard_files(directory: Path) -> list[Path]:
    """The files of weights, in order; InputError for a gap."""
    if (directory / ONLY).is_file():
        return [directory / ONLY]
    found = {path.name for path in directory.glob("consolidated.*.pth")}
    due = [SHARD.format(number) for number in range(max(1, len(found)))]
    missing = [name for name in due if name not in found]
    if missing:
        raise InputError(f"{missing[0]} is missing", where=str(directory), fix="copy all consolidated.NN.pth here")
    return [directory / name for name in due]


def read_shard(path: Path, dims: tuple[int, ...] = (1, 2)) -> dict[str, Tensor]:
    """The tensors of one file, of so many dimensions, mapped and not copied. Whatever else a pickle can hold is refused."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except MemoryError:
        raise
    except Exception as error:  # the unpickler raises whatever a damaged or a hostile file leads to
        more = isinstance(error, pickle.UnpicklingError)
        said = "it holds other objects" if more else (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path.name} is no file of plain tensors ({said[:200]})", where=str(path), fix=META_ONLY) from None
    if not isinstance(found, dict) or not found:
        raise InputError(f"{path.name} is no table of tensors by name", where=str(path), fix=META_ONLY)
    found = {name: tensor for name, tensor in found.items() if not str(name).endswith(ROPE_TABLE)}
    for name, tensor in found.items():
        if (problem := _problem(name, tensor, dims)) is not None:
            raise InputError(f"{str(name)[:80]!r} {problem}", where=str(path), fix=META_ONLY)
    if sum(tensor.nbytes for name, tensor in found.items() if not name.endswith("output.weight")) > path.stat().st_size:
        raise InputError("the tensors claim more bytes than the file holds", where=str(path), fix=COPY_AGAIN)
    return found


def _problem(name: object, tensor: object, dims: tuple[int, ...]) -> str | None:
    if not isinstance(name, str) or type(tensor) not in (Tensor, nn.Parameter):
        return f"is no tensor under a name but {type(tensor).__name__}"
    assert isinstance(tensor, Tensor)
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.is_contiguous()
    if not plain or tensor.dim() not in dims:
        return "is no plain tensor"
    return None if tensor.dtype in DTYPES else f"has the type {str(tensor.dtype).removeprefix('torch.')}"


def text_state(shards: list[dict[str, Tensor]], config: ModelConfig, directory: Path) -> dict[str, Tensor]:
    """Tensors under our names and in our layout; `lm_head.weight` only where the files have one."""
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in Llama(config, seed=None).state_dict().items()}
    names = meta_names(config.layers)
    if "output.weight" not in shards[0]:
        del names["lm_head.weight"]
    due = set(names.values())
    for shard in shards:
        for problem, of in (("is missing", due - shard.keys()), ("does not belong to this network", shard.keys() - due)):
            if of:
                raise InputError(f"{min(of)} {problem}", where=str(directory), fix=META_ONLY)
    state = {}
    for ours, theirs in names.items():
        tensor = _join(theirs, [shard.pop(theirs) for shard in shards], config, directory)
        if tuple(tensor.shape) != expected[ours]:
            what = f"{theirs} has shape {tuple(tensor.shape)} and params.json asks for {expected[ours]}"
            raise InputError(what, where=str(directory), fix=COPY_AGAIN + "; are all consolidated.NN.pth there?")
        heads = turned_heads(ours, config)
        state[ours] = split_rows(tensor, heads) if heads else tensor
    return state


def _join(name: str, parts: list[Tensor], config: ModelConfig, directory: Path) -> Tensor:
    """The parts of model parallelism as one tensor: cut by rows, by columns (`wo`, `w2`, old embeddings) or not at all (norms).

    More parts than key and value heads hold each head several times, side by side.
    """
    kind = name.removesuffix(".weight").rpartition(".")[2]
    copies = len(parts) if kind.endswith("norm") else 1
    if kind in ("wk", "wv"):
        copies = max(1, len(parts) // config.kv_heads)
    by_columns = kind in ("wo", "w2") or (kind == "tok_embeddings" and parts[0].shape[-1] != config.dim)
    return join_parts(name, parts, copies, by_columns and parts[0].dim() == 2, directory)


def join_parts(name: str, parts: list[Tensor], copies: int, by_columns: bool, directory: Path) -> Tensor:
    """The parts of one tensor, each of which `copies` neighbours hold, joined; InputError where they do not fit each other."""
    agree = all(part.shape == parts[0].shape for part in parts) and len(parts) % copies == 0
    if agree and copies > 1:
        agree = all(torch.equal(part, parts[index - index % copies]) for index, part in enumerate(parts))
    if not agree:
        raise InputError(f"the files disagree about {name}", where=str(directory), fix="copy all files of one model")
    kept = parts[::copies]
    return torch.cat(kept, dim=int(by_columns)) if len(kept) > 1 else kept[0]


# ---- writing


def save_meta(
    model: Llama, directory: str | Path, *, tokenizer: Tokenizer | None = None, generation: dict[str, Any] | None = None
) -> list[str]:
    """Write a model in Meta's layout, in one file and in the precision it has.

    Args:
        tokenizer: its `tokenizer.model` is written beside, and its digest recorded.
        generation: settings of `generation_config.json`, kept in `puna.json`.

    Returns notes for the user: what Meta's own code would compute otherwise. Raises InputError for heads that are not
    `dim / heads` wide, which the layout cannot say.
    """
    directory, config = Path(directory), model.config
    tensors = text_tensors(model, str(directory))
    directory.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, directory / SHARD.format(0))
    write_json(directory / PARAMS, text_params(config))
    return write_beside(config, directory, tokenizer=tokenizer, generation=generation)


def text_tensors(model: Llama, where: str) -> dict[str, Tensor]:
    """The tensors of a text network under Meta's names and in Meta's order of rows; errors as of `save_meta`."""
    config = model.config
    if config.head_size * config.heads != config.dim:
        raise InputError(f"{config.heads} heads of {config.head_size} do not fill {config.dim}, and Meta's layout cannot say so",
                         where=where, fix="keep this model in Hugging Face layout")  # fmt: skip
    ours = dict(model.state_dict())
    tensors = {}
    for name, theirs in meta_names(config.layers).items():
        heads, weight = turned_heads(name, config), ours[name].detach().cpu()
        tensors[theirs] = interleave_rows(weight, heads) if heads else alone(weight)
    return tensors


def alone(weight: Tensor) -> Tensor:
    """The tensor with no storage but its own, as `torch.save` writes whole storages."""
    weight = weight.contiguous()
    return weight if weight.untyped_storage().nbytes() == weight.nbytes else weight.clone()


def write_beside(
    config: ModelConfig,
    directory: Path,
    *,
    tokenizer: Tokenizer | None,
    generation: dict[str, Any] | None,
    vision: dict[str, Any] | None = None,
) -> list[str]:
    """Write `puna.json` and the tokenizer; `vision` is what only Puna knows of an image encoder. Returns notes for the user."""
    side: dict[str, Any] = {
        "max_position_embeddings": config.max_seq_len,
        "rope_scaling": config.rope_scaling.to_hf() if config.rope_scaling else None,
        "tie_word_embeddings": config.tied,
        "generation": generation or {},
        **({} if vision is None else {"vision": vision}),
    }
    if tokenizer is not None:
        from puna.tokenizer.bpe import model_bytes

        check_vocabulary(config, tokenizer.vocab_size, str(directory))
        (directory / TOKENIZER_FILE).write_bytes(model_bytes(tokenizer.ranks))
        side[TOKENIZER_DIGEST] = tokenizer.digest
    write_json(directory / SIDE, side)
    if config.rope_scaling in (None, RopeScaling()):
        return []
    return ["Meta's code knows one RoPE scaling (8, 1, 4, 8192) and this model has another: only puna.json tells it"]


def text_params(config: ModelConfig) -> dict[str, Any]:
    """`params.json` of a text network."""
    multiplier, multiple_of = ffn_rule(config.dim, config.ffn_dim)
    return {
        "dim": config.dim, "n_layers": config.layers, "n_heads": config.heads, "n_kv_heads": config.kv_heads,
        "vocab_size": config.vocab_size, "ffn_dim_multiplier": multiplier, "multiple_of": multiple_of,
        "norm_eps": config.norm_eps, "rope_theta": float(config.rope_theta), "use_scaled_rope": config.rope_scaling is not None,
    }  # fmt: skip


def ffn_rule(dim: int, ffn_dim: int) -> tuple[float, int]:
    """`ffn_dim_multiplier` and `multiple_of` for which `ffn_width` gives `ffn_dim`: those of a released model where they do."""
    for multiple_of in WIDTHS[0]:
        for multiplier in WIDTHS[1]:
            if ffn_width(dim, multiplier, multiple_of) == ffn_dim:
                return multiplier, multiple_of
    return (ffn_dim + 0.5) / int(2 * (4 * dim) / 3), 1  # half a unit above, so that rounding down cannot miss it
