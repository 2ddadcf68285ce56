"""The network's forward pass on a GPU: Triton kernels around the products, decode steps recorded as CUDA graphs.

Tokens of all runs lie in one flat row, so nothing is padded in a prompt; attention of a prompt is torch's scaled dot product run
by run, that of single tokens the paged kernel. A decode step is hundreds of small kernels, which a graph starts at once: one
graph for each batch size 1, 2, 4, ... and number of pieces of the longest row, recorded when it is needed a second time, so
that nothing waits for it at the start. All graphs share one pool of memory. Shape legend as in `puna.model.llama`, R tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puna.infer.cache import PagedCache
from puna.infer.kernels.paged_attention import SPLIT, decode_attention
from puna.infer.kernels.rows_triton import few_rows, fits_few_rows, normed_quantized, quantized, swiglu_quantized
from puna.infer.spans import Spans
from puna.model.attention import attend
from puna.model.fp8_linear import Fp8Linear
from puna.model.llama import Block, Llama, RMSNorm, rotate

Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]  # layer, q [R,H,E], k and v [R,K,E] -> [R,H,E]
Quantized = tuple[Tensor, Tensor]


class CudaSteps:
    """Runs of tokens through a `Llama` on a GPU; its weights may change in place, and must not be replaced."""

    mixes = False  # runs of one token are a recorded step of their own

    def __init__(self, model: Llama, cache: PagedCache):
        config = model.config
        self.model, self.cache, self.device, self.dtype = model, cache, cache.storage.device, cache.storage.dtype
        self.heads, self.kv_heads, self.dim = config.heads, config.kv_heads, config.head_size
        self.widest = -(-config.max_seq_len // cache.page_size)
        model.model.rope(1, torch.tensor([[config.max_seq_len - 1]]), self.device)
        assert model.model.rope.table is not None
        self.rotation = model.model.rope.table
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._met: set[tuple[int, int]] = set()
        self._pool: Any = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None

    @torch.no_grad()
    def logits(self, spans: Spans) -> Tensor:
        """Write the runs' keys and values to their pages; logits [Q, V] after the tokens asked for."""
        if (spans.sizes == 1).all():
            return self._decode(spans)[self._tensor(spans.wanted)]
        x_RD = self._states(*self._places(spans), self._prompt_attention(spans))
        return self._linear(self.model.lm_head, x_RD[self._tensor(spans.wanted)])

    # ---- single tokens

    def _decode(self, spans: Spans) -> Tensor:
        """Logits [N, V] of runs of one token."""
        rows, pieces = _power_of_two(len(spans.sizes)), _power_of_two(-(-int(spans.starts.max() + 1) // SPLIT))
        key = rows, pieces
        if self.device.type != "cuda" or key not in self._met:
            self._met.add(key)
            tokens, positions, slots = self._places(spans)
            table, lengths = self._tensor(spans.table), self._tensor(spans.starts + 1)
            return self.answers(tokens, positions, slots, lengths, table, pieces)
        if key not in self._graphs:
            self._graphs[key] = _Graph(self, rows, pieces, self._pool)
        return self._graphs[key](spans)

    def answers(
        self, tokens_R: Tensor, positions_R: Tensor, slots_R: Tensor, lengths_R: Tensor, table_RW: Tensor, pieces: int
    ) -> Tensor:
        """Logits [R, V] after one token of each row, which goes to its slot of the cache."""

        def attention(layer: int, q_RHE: Tensor, k_RKE: Tensor, v_RKE: Tensor) -> Tensor:
            self.cache.flat[layer].index_copy_(0, slots_R, torch.stack((k_RKE, v_RKE), 1))
            return decode_attention(q_RHE, self.cache.storage[layer], table_RW, lengths_R, longest=pieces * SPLIT)

        return self._linear(self.model.lm_head, self._states(tokens_R, positions_R, slots_R, attention))

    # ---- prompts

    def _prompt_attention(self, spans: Spans) -> Attention:
        slots_R = self._tensor(slots_of(spans, self.cache.page_size))
        ends, size = spans.sizes.cumsum().tolist(), self.cache.page_size
        runs: list[tuple[slice, Tensor | None]] = []
        for start, length, end, table in zip(spans.starts.tolist(), spans.sizes.tolist(), ends, spans.table, strict=True):
            at = np.arange(start + length)
            earlier = self._tensor(table[at // size] * size + at % size) if start else None
            runs.append((slice(end - length, end), earlier))

        def attention(layer: int, q_RHE: Tensor, k_RKE: Tensor, v_RKE: Tensor) -> Tensor:
            self.cache.flat[layer].index_copy_(0, slots_R, torch.stack((k_RKE, v_RKE), 1))
            y_RHE = torch.empty_like(q_RHE)
            for run, slots_S in runs:
                keys, values = k_RKE[run], v_RKE[run]
                if slots_S is not None:
                    keys, values = self.cache.flat[layer].index_select(0, slots_S).unbind(1)
                q, k, v = (part.transpose(0, 1)[None] for part in (q_RHE[run], keys, values))
                y_RHE[run] = attend(q, k, v, None)[0].transpose(0, 1)
            return y_RHE

        return attention

    # ---- layers

    def _states(self, tokens_R: Tensor, positions_R: Tensor, slots_R: Tensor, attention: Attention) -> Tensor:
        """States [R, D] after the final norm."""
        x_RD = self.model.model.embed_tokens(tokens_R)
        rotation = (self.rotation[0][positions_R][:, None], self.rotation[1][positions_R][:, None])
        for number, layer in enumerate(self.model.model.layers):
            assert isinstance(layer, Block)
            x_RD = x_RD + self._attended(number, layer, x_RD, rotation, attention)
            x_RD = x_RD + self._fed_forward(layer, x_RD)
        return self.model.model.norm(x_RD)

    def _attended(self, number: int, layer: Block, x_RD: Tensor, rotation: tuple[Tensor, Tensor], attention: Attention) -> Tensor:
        own = layer.self_attn
        x = _normed(layer.input_layernorm, x_RD, own.q_proj, own.k_proj, own.v_proj)
        q_RHE, k_RKE, v_RKE = (
            self._linear(part, x).view(len(x_RD), -1, self.dim) for part in (own.q_proj, own.k_proj, own.v_proj)
        )
        y_RHE = attention(number, rotate(q_RHE, rotation), rotate(k_RKE, rotation), v_RKE)
        return self._linear(own.o_proj, y_RHE.reshape(len(x_RD), -1))

    def _fed_forward(self, layer: Block, x_RD: Tensor) -> Tensor:
        own = layer.mlp
        x = _normed(layer.post_attention_layernorm, x_RD, own.gate_proj, own.up_proj)
        gate_RF, up_RF = self._linear(own.gate_proj, x), self._linear(own.up_proj, x)
        if isinstance(own.down_proj, Fp8Linear):
            return self._linear(own.down_proj, swiglu_quantized(gate_RF, up_RF, own.down_proj.activation_bound))
        return self._linear(own.down_proj, F.silu(gate_RF) * up_RF)

    def _linear(self, linear: nn.Module, x: Tensor | Quantized) -> Tensor:
        if isinstance(linear, Fp8Linear):
            q, scale = quantized(x, linear.activation_bound) if isinstance(x, Tensor) else x
            if fits_few_rows(q, linear.weight):
                return few_rows(q, linear.weight, scale, linear.weight_scale, self.dtype)
            return linear.product(q, scale, self.dtype)
        assert isinstance(x, Tensor) and isinstance(linear.weight, Tensor)
        return few_rows(x, linear.weight) if fits_few_rows(x, linear.weight) else F.linear(x, linear.weight)

    def _places(self, spans: Spans) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, positions and slots, [R] each."""
        return tuple(self._tensor(a) for a in (spans.tokens, spans.positions, slots_of(spans, self.cache.page_size)))  # type: ignore[return-value]

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


class _Graph:
    """A recorded decode step of up to `rows` rows; rows that are not there write to the padding page."""

    def __init__(self, steps: CudaSteps, rows: int, pieces: int, pool: Any):
        self.page_size, self.device = steps.cache.page_size, steps.device
        self.places = torch.zeros(4, rows, dtype=torch.int64, device=self.device)  # tokens, positions, slots, lengths
        self.places[3] = 1
        self.table = torch.zeros(rows, steps.widest, dtype=torch.int32, device=self.device)
        self.graph = torch.cuda.CUDAGraph()
        tokens, positions, slots, lengths = self.places.unbind()
        steps.answers(tokens, positions, slots, lengths, self.table, pieces)  # compiles what this size needs
        torch.cuda.synchronize()
        with torch.cuda.graph(self.graph, pool=pool):
            self.logits_RV = steps.answers(tokens, positions, slots, lengths, self.table, pieces)

    def __call__(self, spans: Spans) -> Tensor:
        rows, used = self.places.shape[1], len(spans.sizes)
        places = np.zeros((4, rows), np.int64)
        places[:, :used] = spans.tokens, spans.starts, slots_of(spans, self.page_size), spans.starts + 1
        places[3, used:] = 1
        self.places.copy_(torch.from_numpy(places))
        table = np.ascontiguousarray(spans.table, np.int32)
        self.table[:used, : table.shape[1]].copy_(torch.from_numpy(table))
        self.table[used:, 0] = 0
        self.graph.replay()
        return self.logits_RV[:used].clone()


def slots_of(spans: Spans, page_size: int) -> np.ndarray:
    """[R]: the slot of the cache that each token's key and value go to."""
    positions = spans.positions
    return spans.table[spans.sequence, positions // page_size] * page_size + positions % page_size


def _normed(norm: RMSNorm, x_RD: Tensor, *readers: nn.Module) -> Tensor | Quantized:
    """The norm of x, quantised where all that read it are FP8."""
    first = readers[0]
    if isinstance(first, Fp8Linear) and all(isinstance(reader, Fp8Linear) for reader in readers):
        return normed_quantized(x_RD, norm.weight, norm.eps, first.activation_bound)
    return norm(x_RD)


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
