"""Models on disk: always a Hugging Face directory, so that every other tool of the field reads it as it lies.

`config.json`, `model.safetensors` (or shards with an index), `generation_config.json` and the tokenizer's four files. Loading
trusts nothing: a checkpoint with another tokenizer, a truncated file, a missing or a surplus tensor is refused by name. The same
model gives the same bytes. Directories quantised as `fbgemm_fp8` or compressed-tensors load too, into `Fp8Linear` layers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from puna.core.errors import InputError
from puna.model.config import ModelConfig
from puna.model.fp8_formats import FBGEMM, activation_bound, quantization_entries
from puna.model.fp8_linear import ACTIVATION_BOUND, Fp8Linear, dequantize_rows
from puna.model.llama import Llama
from puna.model.weight_file import COPY_AGAIN

if TYPE_CHECKING:
    from puna.tokenizer.bpe import Tokenizer

CONFIG, SINGLE, INDEX, GENERATION = "config.json", "model.safetensors", "model.safetensors.index.json", "generation_config.json"
MAX_SHARD_BYTES = 5_000_000_000  # what transformers writes by default
TOKENIZER_DIGEST = "puna_tokenizer"  # our key in config.json; other tools ignore it
OLD_ROPE_TABLE = "rotary_emb.inv_freq"  # in checkpoints of 2023; computed from config.json since
SCALE = ".weight_scale"


def save_model(
    model: Llama,
    directory: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    generation: dict[str, Any] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    fp8_format: str = FBGEMM,
) -> None:
    """Write a model as a Hugging Face directory; weights of an earlier save in the same place are removed.

    Args:
        tokenizer: its files are written beside, and its digest recorded so that no other one is ever used with these weights.
        generation: entries of `generation_config.json` (temperature, top_p, ...); ids of BOS, stop and pad tokens are added.
        max_shard_bytes: size from which weights are spread over several files.
        fp8_format: how config.json describes FP8 layers where there are any, one of `fp8_formats.FORMATS`.

    Raises InputError when the tokenizer does not have the model's vocabulary size.
    """
    directory = Path(directory)
    if tokenizer is not None:
        check_vocabulary(model.config, tokenizer.vocab_size, str(directory))
    write_weights(stored_state(model), directory, max_shard_bytes)
    write_description(model, directory, tokenizer=tokenizer, generation=generation, fp8_format=fp8_format)


def stored_state(model: Llama) -> dict[str, Tensor]:
    """The tensors a checkpoint holds, in the order of the network: of a tied pair only the embedding."""
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if model.config.tied:
        del state["lm_head.weight"]
    return state


def write_description(
    model: Llama,
    directory: Path,
    *,
    tokenizer: Tokenizer | None = None,
    generation: dict[str, Any] | None = None,
    fp8_format: str = FBGEMM,
) -> None:
    """Everything of a model directory but the weights, as in `save_model`; the model may lie on `meta`."""
    config = model.config.to_hf()
    config["torch_dtype"] = str(model.model.embed_tokens.weight.dtype).removeprefix("torch.")
    config |= _quantization(model, fp8_format)
    if tokenizer is not None:
        check_vocabulary(model.config, tokenizer.vocab_size, str(directory))
        config |= {TOKENIZER_DIGEST: tokenizer.digest, **token_ids(tokenizer)}
        tokenizer.save(directory)
    write_json(directory / GENERATION, {**(token_ids(tokenizer) if tokenizer else {}), **(generation or {})})
    write_json(directory / CONFIG, config)


def load_model(
    directory: str | Path,
    *,
    dtype: torch.dtype | None = torch.float32,
    device: str | torch.device = "cpu",
    dequantize: bool = False,
) -> Llama:
    """The model of a Hugging Face directory, in training mode as torch leaves new modules.

    Args:
        dtype: what weights are cast to; None keeps what is stored. FP8 weights and their scales are never cast.
        dequantize: turn FP8 layers into ordinary ones.

    Raises InputError for a wrong tokenizer, for damaged files and for tensors that are missing, surplus or of another shape.
    """
    directory = Path(directory)
    hf = read_config(directory)
    config = ModelConfig.from_hf(hf, where=str(directory / CONFIG))
    check_tokenizer(directory, hf.get(TOKENIZER_DIGEST), config)
    bound = activation_bound(hf, str(directory / CONFIG)) or ACTIVATION_BOUND
    state = load_state(directory, dequantize=dequantize)
    return build_model(config, state, directory, dtype=dtype, device=device, activation_bound=bound)


def build_model(
    config: ModelConfig,
    state: dict[str, Tensor],
    directory: Path,
    *,
    dtype: torch.dtype | None,
    device: str | torch.device = "cpu",
    activation_bound: float = ACTIVATION_BOUND,
) -> Llama:
    """The network of a shape around tensors by name (those of `load_state`), which become its parameters without a copy.

    `directory` is named in errors; `dtype` is as in `load_model`. InputError for tensors missing, surplus or of another shape.
    """
    with torch.device("meta"):
        model = Llama(config, seed=None)
    fill(model, state, directory, dtype=dtype, device=device, activation_bound=activation_bound)
    if config.tied:
        model.tie()
    return model


def fill(
    model: nn.Module,
    state: dict[str, Tensor],
    directory: Path,
    *,
    dtype: torch.dtype | None,
    device: str | torch.device,
    activation_bound: float,
) -> None:
    """Make tensors by name the parameters of a network on `meta`, or of a part of one; otherwise as `build_model`."""
    _insert_fp8_layers(model, state, activation_bound)
    check_state(model.state_dict(), state, directory)
    for name, tensor in state.items():
        keep = tensor.dtype == torch.float8_e4m3fn or name.endswith(SCALE)
        state[name] = tensor.to(device=device, dtype=tensor.dtype if keep or dtype is None else dtype)
    model.load_state_dict(state, assign=True)
    for name, weight in model.named_parameters():
        weight.requires_grad_(not isinstance(model.get_submodule(name.rpartition(".")[0]), Fp8Linear))


def load_state(directory: str | Path, *, dequantize: bool = True) -> dict[str, Tensor]:
    """Tensors by name, sorted, as stored; FP8 weights become float32 unless `dequantize` is False.

    A tied output matrix appears as `lm_head.weight`, the same tensor as the embedding; old checkpoints' RoPE tables are left out.
    Raises InputError for missing or damaged files.
    """
    directory = Path(directory)
    state: dict[str, Tensor] = {}
    for path, names in weight_files(directory):
        state |= {name: tensor for name, tensor in read_weights(path, names).items() if not name.endswith(OLD_ROPE_TABLE)}
    for name in [name for name in state if name.endswith(SCALE)]:
        state[name] = check_scale(name, state[name], str(directory))
        weight = name.removesuffix("_scale")
        if weight not in state:
            raise InputError(f"{name} has no {weight} beside it", where=str(directory), fix=COPY_AGAIN)
        _check_scaled(weight, state[weight])
        if dequantize:
            state[weight] = dequantize_rows(state[weight], state.pop(name))
    if read_config(directory).get("tie_word_embeddings"):
        _tie(state, directory)
    return dict(sorted(state.items()))


def check_scale(name: str, scale: Tensor, where: str) -> Tensor:
    """The scales of an FP8 matrix as float32 [N,1] (also stored as [N] or BF16); InputError unless finite and none negative."""
    scale = scale.float()
    if not bool(scale.isfinite().all()) or bool((scale < 0).any()):
        raise InputError(f"{name} holds scales that are no finite positive numbers", where=where, fix=COPY_AGAIN)
    return scale.reshape(-1, 1)


def read_config(directory: str | Path) -> dict[str, Any]:
    """`config.json` as it is written; InputError when the directory is no model or the file no JSON."""
    directory = Path(directory)
    if not (directory / CONFIG).is_file():
        what = (
            "this directory has no config.json, so it is no model" if directory.is_dir() else "there is no such model directory"
        )
        meta = (directory / "params.json").is_file()
        fix = "puna convert SRC DST --to hf makes one of Meta's layout" if meta else "give a directory in Hugging Face layout"
        raise InputError(what, where=str(directory), fix=fix)
    return read_json(directory / CONFIG)


# ---- tokenizer and ids


def token_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """The entries of `generation_config.json` about BOS, stop and pad tokens."""
    return {"bos_token_id": tokenizer.bos_id, "eos_token_id": list(tokenizer.stop_ids), "pad_token_id": tokenizer.pad_id}


def check_vocabulary(config: ModelConfig, vocab_size: int, where: str) -> None:
    """InputError unless a tokenizer has as many ids as the model."""
    if vocab_size != config.vocab_size:
        raise InputError(
            f"the tokenizer has {vocab_size} ids and the model {config.vocab_size}", where=where,
            fix="use the tokenizer the model was trained with",
        )  # fmt: skip


def check_tokenizer(directory: Path, recorded: str | None, config: ModelConfig) -> None:
    """Refuse weights that lie beside a tokenizer they were not trained with (InputError); `recorded` is the digest of theirs."""
    if not (directory / "tokenizer.model").is_file():
        return
    from puna.tokenizer.bpe import Tokenizer

    tokenizer = Tokenizer.load(directory)
    check_vocabulary(config, tokenizer.vocab_size, str(directory))
    if recorded and recorded != tokenizer.digest:
        raise InputError(
            f"these weights were trained with tokenizer {recorded[:12]} and {tokenizer.digest[:12]} lies beside them",
            where=str(directory / "tokenizer.model"), fix="put the original tokenizer files back",
        )  # fmt: skip


# ---- writing


def _quantization(model: Llama, fp8_format: str) -> dict[str, Any]:
    """The entries of config.json about FP8 layers; empty for a model without any."""
    layers = [module for module in model.modules() if isinstance(module, Fp8Linear)]
    kept = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return quantization_entries(fp8_format, kept, layers[0].activation_bound) if layers else {}


def write_weights(state: dict[str, Tensor], directory: Path, max_shard_bytes: int) -> None:
    """Write `model.safetensors`, or shards and their index; weights of an earlier save in the same place are removed."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("model*.safetensors*"):
        old.unlink()
    files = shard_files(state, max_shard_bytes)
    for name, shard in files.items():
        _write_shard(shard, directory / name)
    write_index(files, directory)


def write_index(files: dict[str, dict[str, Tensor]], directory: Path) -> None:
    """The table of which tensor lies in which file, where there are several."""
    if len(files) > 1:
        weight_map = {tensor: file for file, shard in files.items() for tensor in shard}
        total = sum(tensor.nbytes for shard in files.values() for tensor in shard.values())
        write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def shard_files(state: dict[str, Tensor], max_shard_bytes: int) -> dict[str, dict[str, Tensor]]:
    """Tensors by file name, in the order of the network; a new file before what would not fit. Scales stay with their weight."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in state.items():
        if name.endswith(SCALE):
            shards[-1][name] = tensor  # counted with the weight before it
            continue
        scale = state.get(f"{name}_scale")
        need = tensor.nbytes + (0 if scale is None else scale.nbytes)
        if shards[-1] and size + need > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += need
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    return {f"model-{number:05d}-of-{len(shards):05d}.safetensors": shard for number, shard in enumerate(shards, start=1)}


def _write_shard(shard: dict[str, Tensor], path: Path) -> None:
    save_file({name: tensor.cpu().contiguous() for name, tensor in shard.items()}, path, metadata={"format": "pt"})


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object of a model directory: sorted keys, the same bytes for the same content."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


# ---- reading


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a model directory; InputError when it is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path.name} is not valid JSON ({error})", where=str(path), fix=COPY_AGAIN) from None
    if not isinstance(value, dict):
        raise InputError(f"{path.name} is not a JSON object", where=str(path), fix=COPY_AGAIN)
    return value


def weight_files(directory: Path) -> list[tuple[Path, list[str] | None]]:
    """Files with the tensors expected in each (None: all there are)."""
    if (directory / SINGLE).is_file():
        return [(directory / SINGLE, None)]
    if not (directory / INDEX).is_file():
        raise InputError(f"the model has neither {SINGLE} nor {INDEX}", where=str(directory), fix="copy the weights here")
    weight_map = read_json(directory / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) and f == Path(f).name for f in weight_map.values()):
        raise InputError("the index has no valid weight_map", where=str(directory / INDEX), fix=COPY_AGAIN)
    files: dict[str, list[str]] = {}
    for name, file in weight_map.items():
        files.setdefault(file, []).append(name)
    return [(directory / file, names) for file, names in sorted(files.items())]


def read_weights(path: Path, names: list[str] | None = None) -> dict[str, Tensor]:
    """Tensors of one file by name (None: all there are); InputError for a file that is missing, damaged or lacks one."""
    if not path.is_file():
        raise InputError("a weight file named in the index is missing", where=str(path), fix=COPY_AGAIN)
    try:
        with safe_open(path, framework="pt") as file:
            there = list(file.keys())
            absent = sorted(set(names or ()) - set(there))
            if absent:
                raise InputError(f"the index promises {_some(absent)} in this file", where=str(path), fix=COPY_AGAIN)
            return {name: file.get_tensor(name) for name in (names or there)}
    except SafetensorError as error:
        raise InputError(f"the weight file cannot be read ({error})", where=str(path), fix=COPY_AGAIN) from None


def _tie(state: dict[str, Tensor], directory: Path) -> None:
    embedding = state.get("model.embed_tokens.weight")
    if embedding is None:
        return  # `check_state` names it
    if "lm_head.weight" in state and not torch.equal(state["lm_head.weight"], embedding):
        raise InputError("config.json ties the output matrix to the embedding and the weights hold two different ones",
                         where=str(directory), fix="set tie_word_embeddings to false in config.json")  # fmt: skip
    state["lm_head.weight"] = embedding


def _check_scaled(name: str, weight: Tensor) -> None:
    """InputError for scales beside a weight that is not FP8 (transformers saves an unpacked compressed-tensors model so)."""
    if weight.dtype != torch.float8_e4m3fn:
        kind = str(weight.dtype).removeprefix("torch.")
        raise InputError(f"{name} has scales and is {kind}, not FP8", where=CONFIG, fix="use the checkpoint it was loaded from")


def _insert_fp8_layers(model: nn.Module, state: dict[str, Tensor], bound: float) -> None:
    """Replace each linear layer whose weight is stored in FP8."""
    alone = [name for name in state if state[name].dtype == torch.float8_e4m3fn and f"{name}_scale" not in state]
    if alone:
        raise InputError(f"{alone[0]} is FP8 and has no scales", where=CONFIG, fix=COPY_AGAIN)
    shapes = {name: weight.shape for name, weight in model.named_parameters()}
    for name in [name for name in state if name.endswith(SCALE)]:
        module = name.removesuffix(SCALE)
        parent, _, child = module.rpartition(".")
        if f"{module}.weight" in state:
            _check_scaled(f"{module}.weight", state[f"{module}.weight"])
        if f"{module}.weight" in shapes:  # if not, `check_state` names it as a surplus tensor
            rows, columns = shapes[f"{module}.weight"]
            weight = torch.empty(rows, columns, dtype=torch.float8_e4m3fn, device="meta")
            scale = torch.empty(rows, 1, device="meta")
            setattr(model.get_submodule(parent), child, Fp8Linear(weight, scale, activation_bound=bound))


def check_state(
    expected: dict[str, Tensor], state: dict[str, Tensor], directory: Path, network: str = "LlamaForCausalLM"
) -> None:
    """InputError unless tensors by name are those that a network, named in the error, asks for, in its shapes."""
    missing = sorted(expected.keys() - state.keys())
    surplus = sorted(state.keys() - expected.keys())
    if missing:
        raise InputError(f"{len(missing)} tensors are missing: {_some(missing)}", where=str(directory), fix=COPY_AGAIN)
    if surplus:
        raise InputError(
            f"{len(surplus)} tensors do not belong to this network: {_some(surplus)}", where=str(directory),
            fix=f"use a checkpoint of {network}, or correct config.json",
        )  # fmt: skip
    for name, tensor in expected.items():
        if not state[name].is_floating_point():
            kind = str(state[name].dtype).removeprefix("torch.")
            raise InputError(f"{name} holds {kind} and no weights", where=str(directory), fix=COPY_AGAIN)
        if tensor.shape != state[name].shape:
            found, due = tuple(state[name].shape), tuple(tensor.shape)
            raise InputError(f"{name} has shape {found} and config.json asks for {due}", where=str(directory), fix=COPY_AGAIN)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
