"""One query a row against a paged cache, in Triton: a row's keys are split into pieces of fixed length, which are then joined.

The pieces fill the card when few rows have many keys. Their length never depends on the batch, so neither does a row's result.
The query heads that share a key head are the rows of one tile. Source of the method: Flash-Decoding (Dao et al., 2023).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

SPLIT = 512  # keys of a piece
BLOCK = 64  # keys at once
SMALLEST_TILE = 16  # of a matrix product


@triton.jit
def _pieces(
    q, cache, table, lengths, part, logsum, scale, pages, kv_heads, splits, group, dim,
    PAGE: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, SPLIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, head, piece = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row)
    begin = piece * SPLIT
    if begin >= length:
        return
    g, e = tl.arange(0, GROUP), tl.arange(0, DIM)
    heads = head * group + g
    inside = (g < group)[:, None] & (e < dim)[None, :]
    query = tl.load(q + (row * kv_heads * group + heads)[:, None] * dim + e[None, :], mask=inside, other=0.0)
    highest = tl.full([GROUP], -float("inf"), tl.float32)
    total = tl.zeros([GROUP], tl.float32)
    mean = tl.zeros([GROUP, DIM], tl.float32)
    stop = tl.minimum(begin + SPLIT, length)
    for start in range(begin, stop, BLOCK):
        at = start + tl.arange(0, BLOCK)
        there = at < stop
        page = tl.load(table + row * pages + at // PAGE, mask=there, other=0).to(tl.int64)
        slot = (page * PAGE + at % PAGE) * 2 * kv_heads * dim
        place = slot[:, None] + head * dim + e[None, :]
        keys = tl.load(cache + place, mask=there[:, None] & (e < dim)[None, :], other=0.0)
        values = tl.load(cache + place + kv_heads * dim, mask=there[:, None] & (e < dim)[None, :], other=0.0)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale
        scores = tl.where(there[None, :], scores, -float("inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        shrink = tl.exp(highest - higher)
        total = total * shrink + tl.sum(weights, 1)
        mean = mean * shrink[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        highest = higher
    out = ((row * kv_heads + head) * splits + piece) * group + g
    tl.store(part + out[:, None] * dim + e[None, :], mean / total[:, None], mask=inside)
    tl.store(logsum + out, highest + tl.log(total), mask=g < group)


@triton.jit
def _join(part, logsum, y, lengths, kv_heads, splits, group, dim, DIM: tl.constexpr, SPLIT: tl.constexpr):
    row, number = tl.program_id(0), tl.program_id(1)
    head, g = number // group, number % group
    e = tl.arange(0, DIM)
    highest, total = -float("inf"), 0.0
    mean = tl.zeros([DIM], tl.float32)
    pieces = tl.cdiv(tl.load(lengths + row), SPLIT)
    for piece in range(0, pieces):
        at = ((row * kv_heads + head) * splits + piece) * group + g
        weight = tl.load(logsum + at)
        higher = tl.maximum(highest, weight)
        shrink, grow = tl.exp(highest - higher), tl.exp(weight - higher)
        total = total * shrink + grow
        mean = mean * shrink + grow * tl.load(part + at * dim + e, mask=e < dim, other=0.0)
        highest = higher
    tl.store(y + (row * kv_heads * group + number) * dim + e, (mean / total).to(y.dtype.element_ty), mask=e < dim)


def decode_attention(q_BHE: Tensor, cache: Tensor, table_BW: Tensor, lengths_B: Tensor, *, longest: int) -> Tensor:
    """softmax(q k / sqrt(E)) v over the first `lengths` positions of each row, [B, H, E] in the dtype of q.

    Args:
        cache: one layer's pages [page, page_size, 2, K, E].
        table_BW: pages of each row. lengths_B: keys of each row, at least 1; both int32 or int64.
        longest: at least the largest length; known on the host, since it says how many pieces there are.
    """
    batch, heads, dim = q_BHE.shape
    page_size, kv_heads = cache.shape[1], cache.shape[3]
    group, splits = heads // kv_heads, triton.cdiv(longest, SPLIT)
    part = torch.empty(batch, kv_heads, splits, group, dim, dtype=torch.float32, device=q_BHE.device)
    logsum = torch.empty(batch, kv_heads, splits, group, dtype=torch.float32, device=q_BHE.device)
    y_BHE = torch.empty_like(q_BHE)
    wide = max(SMALLEST_TILE, triton.next_power_of_2(dim))
    tile = max(SMALLEST_TILE, triton.next_power_of_2(group))
    _pieces[(batch, kv_heads, splits)](
        q_BHE.contiguous(), cache, table_BW, lengths_B, part, logsum, dim**-0.5, table_BW.shape[1], kv_heads, splits, group, dim,
        PAGE=page_size, GROUP=tile, DIM=wide, SPLIT=SPLIT, BLOCK=BLOCK,
    )  # fmt: skip
    _join[(batch, heads)](part, logsum, y_BHE, lengths_B, kv_heads, splits, group, dim, DIM=wide, SPLIT=SPLIT)
    return y_BHE
