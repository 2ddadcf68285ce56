"""A model as one GGUF file, as llama.cpp reads it (format of github.com/ggml-org/ggml; names and rows are its converter's).

The file holds everything: the shape and the tokenizer as metadata, and the weights in one precision; norms stay float32, as
llama.cpp wants them. Llama 3.1's RoPE scaling has no metadata of its own there: it is the tensor `rope_freqs.weight`, by which
the base frequencies are divided.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from puna.core.errors import InputError
from puna.model.checkpoint import check_vocabulary
from puna.model.config import ModelConfig
from puna.model.layouts import gguf_names, interleave_rows, turned_heads
from puna.model.llama import Llama, rope_frequencies
from puna.tokenizer.export import gguf_fields, gguf_writer

if TYPE_CHECKING:
    from puna.tokenizer.bpe import Tokenizer

WEIGHTS = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7}  # llama.cpp's `llama_ftype` of each
STORED = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
BLOCK = 32  # numbers that share one scale in q8_0
ROPE_KEYS = tuple(f"puna.rope.{name}" for name in ("factor", "low_freq_factor", "high_freq_factor", "original_context"))
QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION since 2023


def save_gguf(
    model: Llama, file: str | Path, *, tokenizer: Tokenizer, weights: str | None = None, name: str = "model"
) -> list[str]:
    """Write a model without FP8 layers to `file`, tensor by tensor.

    Args:
        weights: `f32`, `bf16`, `f16` or `q8_0` (8-bit integers, a float16 scale for each 32); None keeps the stored precision.
        name: `general.name`.

    Returns notes for the user: matrices whose rows q8_0 cannot cut in blocks of 32 become f16. Raises InputError for an unknown
    precision, a tokenizer of another size, and weights beyond the range of float16 where f16 is asked for.
    """
    file, config = Path(file), model.config
    weights = weights or STORED[model.model.norm.weight.dtype]
    if weights not in WEIGHTS:
        raise InputError(f"GGUF weights cannot be '{weights}'", where="--weights", fix=f"one of: {', '.join(WEIGHTS)}")
    check_vocabulary(config, tokenizer.vocab_size, str(file))
    state = dict(model.state_dict())
    names = gguf_names(config.layers)
    if config.tied:
        del names["lm_head.weight"]  # llama.cpp takes the embedding where there is none
    kinds = {ours: _kind(state[ours], weights) for ours in names}
    writer = gguf_writer(file, gguf_metadata(config, WEIGHTS[weights], name) | gguf_fields(tokenizer))
    divisors = rope_divisors(config)
    if divisors is not None:
        _announce(writer, "rope_freqs.weight", divisors, "f32")
    for ours, theirs in names.items():
        _announce(writer, theirs, state[ours], kinds[ours])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    try:
        if divisors is not None:
            writer.write_tensor_data(divisors.numpy())
        for ours in names:
            heads, tensor = turned_heads(ours, config), state[ours].detach().cpu()
            writer.write_tensor_data(_encoded(interleave_rows(tensor, heads) if heads else tensor, kinds[ours], ours))
    finally:
        writer.close()
    odd = [ours for ours, kind in kinds.items() if kind == "f16" and weights == "q8_0"]
    return (
        [f"{len(odd)} matrices have rows that are no multiple of {BLOCK} and are f16, not q8_0 (first: {odd[0]})"] if odd else []
    )


def gguf_metadata(config: ModelConfig, file_type: int, name: str) -> dict[str, Any]:
    """The metadata of a GGUF file that describes the model, without the tokenizer's."""
    return {
        "general.type": "model",
        "general.name": name,
        "general.file_type": file_type,
        "general.quantization_version": QUANTIZATION_VERSION,
        "llama.vocab_size": config.vocab_size,
        "llama.context_length": config.max_seq_len,
        "llama.embedding_length": config.dim,
        "llama.block_count": config.layers,
        "llama.feed_forward_length": config.ffn_dim,
        "llama.attention.head_count": config.heads,
        "llama.attention.head_count_kv": config.kv_heads,
        "llama.attention.key_length": config.head_size,
        "llama.attention.value_length": config.head_size,
        "llama.attention.layer_norm_rms_epsilon": float(config.norm_eps),
        "llama.rope.dimension_count": config.head_size,
        "llama.rope.freq_base": float(config.rope_theta),
        **_rope_fields(config),
    }


def _rope_fields(config: ModelConfig) -> dict[str, Any]:
    """RoPE scaling under keys of our own, for reading it back; llama.cpp reads the divisors and passes over these."""
    scaling = config.rope_scaling
    if scaling is None:
        return {}
    factors = (scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor)
    return dict(zip(ROPE_KEYS, (*map(float, factors), scaling.original_max_position_embeddings), strict=True))


def rope_divisors(config: ModelConfig) -> Tensor | None:
    """What each RoPE frequency is divided by, float32 [E/2], from 1 to the scaling's factor; None without scaling."""
    if config.rope_scaling is None:
        return None
    plain = rope_frequencies(config.head_size, config.rope_theta)
    return plain / rope_frequencies(config.head_size, config.rope_theta, config.rope_scaling)


def _kind(tensor: Tensor, weights: str) -> str:
    if tensor.dim() == 1:
        return "f32"
    return "f16" if weights == "q8_0" and tensor.shape[-1] % BLOCK else weights


def _announce(writer: Any, name: str, tensor: Tensor, kind: str) -> None:
    """Enter a tensor in the table that precedes the data: its shape in bytes, type and size."""
    import gguf
    import numpy as np

    raw = gguf.GGMLQuantizationType[kind.upper()]
    shape = gguf.quant_shape_to_byte_shape(tuple(tensor.shape), raw)
    size = int(np.prod(shape, dtype=np.int64))
    writer.add_tensor_info(name, shape, np.dtype(np.uint8), size, raw)


def _encoded(tensor: Tensor, kind: str, name: str) -> Any:
    """The bytes of one tensor as a NumPy array."""
    if kind == "q8_0":
        import gguf

        return gguf.quants.quantize(tensor.float().contiguous().numpy(), gguf.GGMLQuantizationType.Q8_0)
    if kind == "bf16":
        return tensor.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
    if kind == "f16":
        tensor = tensor.to(torch.float16)
        if tensor.isinf().any():
            raise InputError(f"{name} has weights beyond the range of f16", where="--weights", fix="use bf16")
    return tensor.float().contiguous().numpy() if kind == "f32" else tensor.contiguous().numpy()
