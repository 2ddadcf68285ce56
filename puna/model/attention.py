"""Who sees whom, once, and the two ways attention is computed by it (section 3.2: documents of a row do not see each other).

On a GPU a mask is FlexAttention's block mask, which skips what nobody sees; on a CPU, where FlexAttention has no backward pass,
it is a tensor for torch's scaled dot product. Both are made from the same rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import BoolTensor, Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

Mask = Tensor | BlockMask  # bool [B,1,T,S] or additive in the dtype of the scores, True or 0: is seen
Rule = Callable[[Tensor, Any, Tensor, Tensor], Tensor]


def document_rule(documents_BT: Tensor, queries: Tensor | None = None, keys: Tensor | None = None) -> Rule:
    """Causal attention inside each document: rule(row, head, query, key) -> bool, for index tensors that broadcast.

    Args:
        documents_BT: document of every position of whole rows, -1 for padding, which sees itself alone: no row of scores may be
            empty.
        queries, keys: positions of the queries and of the keys in the row, where these are parts of it or in another order.
    """

    def rule(row: Tensor, head: Any, query: Tensor, key: Tensor) -> Tensor:
        at = query if queries is None else queries[query]
        other = key if keys is None else keys[key]
        document = documents_BT[row, at]
        return ((document == documents_BT[row, other]) & (document >= 0) & (at >= other)) | (at == other)

    return rule


def block_rule(documents_BT: Tensor, blocks_BT: Tensor) -> Rule:
    """`document_rule` for documents that branch: block 0 is what the other blocks have in common; these do not see each other.

    Args:
        blocks_BT: block of every position within its document, block 0 first.
    """
    causal = document_rule(documents_BT)

    def rule(row: Tensor, head: Any, query: Tensor, key: Tensor) -> Tensor:
        block = blocks_BT[row, key]
        return causal(row, head, query, key) & ((block == 0) | (block == blocks_BT[row, query]))

    return rule


def dense_mask(rule: Rule, rows: int, queries: int, keys: int, device: torch.device) -> BoolTensor:
    """A rule as bool [B,1,T,S]."""
    row = torch.arange(rows, device=device)[:, None, None, None]
    query, key = torch.arange(queries, device=device)[:, None], torch.arange(keys, device=device)[None]
    return rule(row, None, query, key)  # type: ignore[return-value]


def rule_mask(rule: Rule, rows: int, queries: int, keys: int, device: torch.device) -> Mask:
    """A rule as the device's attention takes it."""
    if device.type != "cuda":
        return dense_mask(rule, rows, queries, keys, device)
    return _compiled(create_block_mask)(rule, rows, None, queries, keys, device=device)  # else it makes every element first


def document_mask(documents_BT: Tensor) -> BoolTensor:
    """Causal attention inside each document only, as bool [B,1,T,T]; documents as `document_rule` takes them."""
    B, T = documents_BT.shape
    return dense_mask(document_rule(documents_BT), B, T, T, documents_BT.device)


def additive(mask: Mask, dtype: torch.dtype) -> Mask:
    """A boolean mask as what is added to attention scores: made once per call, not once per layer."""
    if isinstance(mask, BlockMask) or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -math.inf)


def attend(q_BHTE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, mask: Mask | None) -> Tensor:
    """softmax(q k / sqrt(E)) v, [B,H,T,E]; H query heads share K key heads.

    Args:
        mask: None is causal: the T queries are the last T of S keys.
    """
    T, S, grouped = q_BHTE.shape[2], k_BKSE.shape[2], q_BHTE.shape[1] != k_BKSE.shape[1]
    if isinstance(mask, BlockMask):
        flex = _compiled(flex_attention) if q_BHTE.is_cuda else flex_attention
        return flex(q_BHTE, k_BKSE, v_BKSE, block_mask=mask, enable_gqa=grouped)  # type: ignore[return-value]
    if mask is None and 1 < T < S:
        mask = additive(torch.ones(T, S, dtype=torch.bool, device=q_BHTE.device).tril(S - T), q_BHTE.dtype)
    causal = mask is None and T > 1
    return F.scaled_dot_product_attention(q_BHTE, k_BKSE, v_BKSE, attn_mask=mask, is_causal=causal, enable_gqa=grouped)  # type: ignore[arg-type]


@lru_cache(maxsize=2)
def _compiled(function: Any) -> Any:
    return torch.compile(function)
