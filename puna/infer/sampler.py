"""Choosing tokens: greedy, temperature and top-p for a whole batch at once, each row with random numbers of its own.

A row's uniform number is a hash of (request seed, sample index, position), not a draw from a shared stream, so what a request
says does not depend on who else is in the batch, on the order of arrival or on how the prompt was cut into chunks. One
uniform per token (inverse of the cumulative distribution) keeps that cheap.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # constants of splitmix64 (Steele, Lea and Flood 2014)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
LIKELY = 64  # tokens among which the top-p set is looked for first
TINY = -60.0  # below, float32 begins to lose digits of a probability before it loses those of its logarithm
UNIFORM_BITS = 24  # what fp32 holds exactly, so that u < 1 stays true after conversion


def sample_keys(seed: int, first: int, count: int) -> np.ndarray:
    """uint64 [count]: the keys of samples `first` .. `first + count - 1` of a request with `seed`."""
    root = _mix(np.array([seed & _MASK], dtype=np.uint64))
    return _mix(root + (np.arange(first, first + count, dtype=np.uint64) + np.uint64(1)) * _GOLDEN)


def uniforms(keys: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """float32 in [0, 1), one per row: `positions` counts the tokens a sample already has."""
    bits = _mix(keys + (positions.astype(np.uint64) + np.uint64(1)) * _GOLDEN) >> np.uint64(64 - UNIFORM_BITS)
    return bits.astype(np.float32) / np.float32(1 << UNIFORM_BITS)


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * _MIX1
    x = (x ^ (x >> np.uint64(27))) * _MIX2
    return x ^ (x >> np.uint64(31))


def choose(logits_BV: Tensor, temperature: np.ndarray, top_p: np.ndarray, uniform: np.ndarray) -> tuple[Tensor, Tensor]:
    """Tokens (int64 [B]) and their log-probabilities (float32 [B]).

    Args:
        logits_BV: any float dtype; computed on in fp32.
        temperature: float32 [B]; 0 means the most likely token.
        top_p: float32 [B]; the smallest set of tokens with at least this probability stays (1 keeps all).
        uniform: float32 [B] in [0, 1), from `uniforms`.

    The log-probability is the model's own, before temperature and top-p.
    """
    logits_BV = logits_BV.float()
    sampled = temperature > 0
    if not sampled.any():
        tokens = logits_BV.argmax(-1)
        return tokens, own_logprobs(logits_BV, tokens)
    plain = bool((temperature == 1).all())
    scale = torch.from_numpy(np.where(sampled, temperature, 1).astype(np.float32)).to(logits_BV.device)
    probs_BV = torch.softmax(logits_BV if plain else logits_BV / scale[:, None], -1)
    kept_BV = _nucleus(probs_BV, top_p) if (top_p < 1).any() else probs_BV
    tokens = _inverse_cdf(kept_BV, torch.from_numpy(uniform).to(logits_BV.device))
    if plain:
        return tokens, _logs(probs_BV, logits_BV, tokens)
    if not sampled.all():
        tokens = torch.where(torch.from_numpy(sampled).to(tokens.device), tokens, logits_BV.argmax(-1))
    return tokens, own_logprobs(logits_BV, tokens)


def _inverse_cdf(probs_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """First token whose cumulative probability exceeds u times the total; a token of probability 0 is never that token."""
    cumulative = probs_BV.cumsum(-1)
    found = torch.searchsorted(cumulative, uniform_B[:, None] * cumulative[:, -1:], right=True)[:, 0]
    return found.clamp_(max=probs_BV.shape[-1] - 1)  # logits that are no numbers: a token, and not an error for the whole batch


def _nucleus(probs_BV: Tensor, top_p: np.ndarray) -> Tensor:
    """Probabilities with everything outside the top-p set at 0 (Holtzman et al. 2019); rows with top_p 1 are left as they are.

    The set is looked for among the `LIKELY` most probable tokens first, and only rows it does not fit into are sorted whole.
    """
    kept_BV = probs_BV.clone()
    rows = torch.from_numpy(np.flatnonzero(top_p < 1)).to(probs_BV.device)
    limit = torch.from_numpy(top_p[top_p < 1]).to(probs_BV)
    values, order = probs_BV[rows].topk(min(LIKELY, probs_BV.shape[1]))
    enough = values.sum(-1) >= limit
    _keep(kept_BV, rows[enough], values[enough], order[enough], limit[enough])
    if not enough.all():
        rows, limit = rows[~enough], limit[~enough]
        values, order = torch.sort(probs_BV[rows], dim=-1, descending=True, stable=True)
        _keep(kept_BV, rows, values, order, limit)
    return kept_BV


def _keep(kept_BV: Tensor, rows: Tensor, values: Tensor, order: Tensor, limit: Tensor) -> None:
    """Leave of each of `rows` the fewest of its descending `values` (at tokens `order`) that reach `limit`."""
    before = values.cumsum(-1) - values  # mass of the likelier tokens: the first token always stays
    nucleus = values.masked_fill(before >= limit[:, None], 0)
    kept_BV[rows] = torch.zeros(len(rows), kept_BV.shape[1], dtype=values.dtype, device=values.device).scatter_(1, order, nucleus)


def own_logprobs(logits_BV: Tensor, tokens_B: Tensor) -> Tensor:
    """The model's log-probabilities [B] of tokens, from its logits in float32."""
    return _logs(torch.softmax(logits_BV, -1), logits_BV, tokens_B)


def _logs(probs_BV: Tensor, logits_BV: Tensor, tokens_B: Tensor) -> Tensor:
    """Logarithms [B] of probabilities, the same to the bit in any batch (`logsumexp` sums in another order in other batches)."""
    logprobs = probs_BV.gather(-1, tokens_B[:, None])[:, 0].log()
    tiny = logprobs < TINY
    if tiny.any():
        logprobs[tiny] = logits_BV[tiny].log_softmax(-1).gather(-1, tokens_B[tiny, None])[:, 0]
    return logprobs
