"""The model as `step.c` runs it: structures, packed weights and working memory, and one method that gives logits.

Which models: those whose plain weights are bfloat16 and whose matrices are bfloat16 or FP8 (`Fp8Linear`), on a CPU. Where FP8
weights meet activations, those stay bfloat16 here, while `Fp8Linear` rounds them to FP8 as the paper's GPUs do: fewer roundings,
so the logits are closer to the unquantised model's. Shape legend: R rows (tokens at positions), W pages of a table, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from puna.core.errors import InputError
from puna.infer.cache import PagedCache
from puna.infer.kernels.build import library
from puna.infer.kernels.pack import (
    BLOCK,
    CHUNK,
    PIECE_8,
    RUN,
    Arena,
    Compute,
    Kind,
    Packed,
    kind_of,
    pack,
    packed_bytes,
    quantized,
    up,
)
from puna.model.fp8_linear import Fp8Linear, dequantize_rows
from puna.model.llama import Block, Llama

MAX_ROWS = 64  # rows of one call; what they need fits the second cache
HEADS_AT_ONCE = 4  # query heads whose scores a thread keeps
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64


class _Matrix(ctypes.Structure):
    _fields_ = [("weight", _POINTER), ("scale", _POINTER), ("rows", _INT), ("columns", _INT), ("kind", _INT)]


class _Layer(ctypes.Structure):
    _fields_ = [*((name, _Matrix) for name in ("qkv", "o", "gate_up", "down")),
                ("attention_norm", _POINTER), ("ffn_norm", _POINTER)]  # fmt: skip


class _Model(ctypes.Structure):
    _fields_ = [*((name, _INT) for name in ("layers", "dim", "heads", "kv_heads", "head_dim", "page_size", "cache_stride")),
                ("layer", ctypes.POINTER(_Layer)), ("head", _Matrix),
                *((name, _POINTER) for name in ("norm", "embedding", "cache")), ("epsilon", ctypes.c_float)]  # fmt: skip


class _Batch(ctypes.Structure):
    _fields_ = [*((name, _INT) for name in ("rows", "wanted", "table_width")),
                *((name, _POINTER) for name in ("tokens", "positions", "slots", "sequence", "table", "wanted_rows",
                                                "cos", "sin", "logits"))]  # fmt: skip


class _Scratch(ctypes.Structure):
    _fields_ = [*((name, _INT) for name in ("score_width", "panel_size", "work_size")),
                *((name, _POINTER) for name in ("residual", "qkv", "scores", "normed", "attended", "hidden", "panel",
                                                "quantized", "row_scale", "work"))]  # fmt: skip


def why_not(model: Llama) -> str | None:
    """The reason why a model cannot run here, None when it can."""
    for name, weight in model.named_parameters():
        if weight.device.type != "cpu":
            return f"the model is on {weight.device.type}"
        owner = model.get_submodule(name.rpartition(".")[0])
        if not isinstance(owner, Fp8Linear) and weight.dtype != torch.bfloat16:
            return f"{name} is {str(weight.dtype).removeprefix('torch.')} and the kernels multiply in bfloat16"
    if model.config.dim % BLOCK:
        return f"dim {model.config.dim} is no multiple of {BLOCK}"
    for index, layer in enumerate(model.model.layers):
        for parts in (_attention_inputs(layer), _ffn_inputs(layer)):  # type: ignore[arg-type]
            if len({isinstance(part, Fp8Linear) for part in parts}) > 1:
                return f"layer {index} has FP8 and other matrices that read the same input"
    return None


def _attention_inputs(layer: Block) -> list[nn.Module]:
    return [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]


def _ffn_inputs(layer: Block) -> list[nn.Module]:
    return [layer.mlp.gate_proj, layer.mlp.up_proj]


class NativeModel:
    """A packed copy of a model over the pages of `cache`; later changes of the weights are not seen.

    Args:
        model: one for which `why_not` is None; InputError else.
        cache: bfloat16, on CPU.
        level: of `build.levels()`; None is the best.
        compute: `int8` rounds all matrices but the embedding, and what they are multiplied with, to 8 bits: about twice as fast
            for many rows, and other numbers than the model's.

    Raises `build.Unavailable` where nothing can be compiled.
    """

    def __init__(self, model: Llama, cache: PagedCache, *, level: str | None = None, compute: Compute = "exact"):
        if reason := why_not(model):
            raise InputError("this model cannot run in the native kernels", where=reason, fix="load it in bfloat16, on the CPU")
        self._library = library(level)
        self.model, self.cache, self.vocab_size = model, cache, model.config.vocab_size
        self._keep: list[object] = []
        self._compute = compute
        self._arena = Arena(_packed_size(model, compute))
        self._layers = (_Layer * model.config.layers)()
        for place, layer in zip(self._layers, model.model.layers, strict=True):
            self._pack_layer(place, layer)  # type: ignore[arg-type]
        config, storage = model.config, cache.storage
        self._head = self._matrix([model.lm_head])
        self._model = _Model(
            config.layers, config.dim, config.heads, config.kv_heads, config.head_size, cache.page_size, storage[0].numel(),
            self._layers, self._head, self._pointer(model.model.norm.weight.detach().float()),
            self._pointer(model.model.embed_tokens.weight.detach()), storage.data_ptr(), config.norm_eps,
        )  # fmt: skip
        self._lay_out()

    @torch.no_grad()
    def logits(
        self, tokens_R: np.ndarray, positions_R: np.ndarray, sequence_R: np.ndarray, table_BW: np.ndarray, wanted: np.ndarray
    ) -> Tensor:
        """Write keys and values of R tokens to their pages and return float32 logits [len(wanted), V] of some of them.

        Args:
            tokens_R, positions_R: int64; tokens of one sequence in order of position.
            sequence_R: int64, the row of `table_BW` (int64 pages) each token belongs to.
            wanted: row numbers, ascending.

        A row attends to all positions of its sequence up to its own, those of this call included.
        """
        page_size = self.cache.page_size
        slots_R = table_BW[sequence_R, positions_R // page_size] * page_size + positions_R % page_size
        columns = [np.ascontiguousarray(c, dtype=np.int64) for c in (tokens_R, positions_R, slots_R, sequence_R)]
        table = np.ascontiguousarray(table_BW, dtype=np.int64)
        longest = int(positions_R.max()) + 1
        cos, sin = (part.reshape(-1, part.shape[-1]) for part in self.model.model.rope(longest, None, torch.device("cpu")))
        self._grow_scores(longest)
        out = torch.empty(len(wanted), self._head.rows)
        for start in range(0, len(tokens_R), MAX_ROWS):
            part = [column[start : start + MAX_ROWS] for column in columns]
            first, last = np.searchsorted(wanted, (start, start + MAX_ROWS))
            rows = np.ascontiguousarray(wanted[first:last] - start, dtype=np.int64)
            batch = _Batch(
                len(part[0]), len(rows), table.shape[1], *(column.ctypes.data for column in part), table.ctypes.data,
                rows.ctypes.data, cos.data_ptr(), sin.data_ptr(), out.data_ptr() + int(first) * out.stride(0) * 4,
            )  # fmt: skip
            self._library.puna_step(ctypes.byref(self._model), ctypes.byref(batch), ctypes.byref(self._scratch), self._threads)
        return out[:, : self.vocab_size].contiguous()  # the sampler must not meet other strides in other batches

    def _pack_layer(self, place: _Layer, layer: Block) -> None:
        place.qkv = self._matrix(_attention_inputs(layer))
        place.o = self._matrix([layer.self_attn.o_proj])
        place.gate_up = self._matrix(_ffn_inputs(layer), in_turns=True)
        place.down = self._matrix([layer.mlp.down_proj])
        place.attention_norm = self._pointer(layer.input_layernorm.weight.detach().float())
        place.ffn_norm = self._pointer(layer.post_attention_layernorm.weight.detach().float())

    def _matrix(self, parts: Sequence[nn.Module], *, in_turns: bool = False) -> _Matrix:
        """The rows of several matrices as one packed matrix, one after the other or in turns of 8."""
        weights: list[Tensor] = [part.weight.detach() for part in parts]  # type: ignore[union-attr,operator]
        scales: list[Tensor] = [part.weight_scale.detach() for part in parts if isinstance(part, Fp8Linear)]
        if self._compute == "int8":
            exact = [dequantize_rows(*pair) for pair in zip(weights, scales, strict=True)] if scales else weights
            weights, scales = (list(column) for column in zip(*map(quantized, exact), strict=True))
        packed = pack(self._library, weights, scales, self._arena, in_turns=in_turns)
        self._keep.append(packed)
        scale = packed.scale.data_ptr() if packed.scale is not None else None
        return _Matrix(packed.weight.data_ptr(), scale, packed.rows, packed.columns, int(packed.kind))

    def _pointer(self, tensor: Tensor) -> int:
        tensor = tensor.contiguous()
        self._keep.append(tensor)
        return tensor.data_ptr()

    def _lay_out(self) -> None:
        """Working memory for MAX_ROWS rows; zeros, since the padding of rows is read and never written."""
        config, layer = self.model.config, self._layers[0]
        self._threads = max(1, torch.get_num_threads())
        widest = max(layer.qkv.columns, layer.o.columns, layer.down.columns)
        work = 16 + 5 * config.layers + 1
        self._scores, self._score_width = torch.zeros(0), 0
        self._scratch = _Scratch(
            0, BLOCK * widest, work,
            self._pointer(torch.zeros(MAX_ROWS, config.dim)),
            self._pointer(torch.zeros(MAX_ROWS, layer.qkv.rows)),
            None,
            *(self._pointer(torch.zeros(up(MAX_ROWS, 3), up(columns, CHUNK)))  # some levels use the half of it
              for columns in (layer.qkv.columns, layer.o.columns, layer.down.columns)),
            self._pointer(torch.zeros(self._threads * BLOCK * widest)),
            self._pointer(torch.zeros(up(MAX_ROWS, 3) * up(widest, PIECE_8), dtype=torch.int16)),
            self._pointer(torch.zeros(MAX_ROWS)),
            self._pointer(torch.zeros(work, dtype=torch.int64)),
        )  # fmt: skip

    def _grow_scores(self, length: int) -> None:
        if length > self._score_width:
            self._score_width = up(max(length, 512), RUN) * 2
            self._scores = torch.zeros(self._threads * HEADS_AT_ONCE * self._score_width)
            self._scratch.scores, self._scratch.score_width = self._scores.data_ptr(), self._score_width


def _packed_size(model: Llama, compute: Compute) -> int:
    """Bytes of all packed matrices."""
    total = 0
    for module in model.modules():
        if isinstance(module, Fp8Linear | nn.Linear):
            kind = Kind.INT8 if compute == "int8" else kind_of(module.weight)
            rows, columns = module.weight.shape
            total += packed_bytes(rows, columns, kind)
    return total


def packed_of(native: NativeModel) -> list[Packed]:
    """The packed matrices of a model, for measuring what a step reads."""
    return [kept for kept in native._keep if isinstance(kept, Packed)]
