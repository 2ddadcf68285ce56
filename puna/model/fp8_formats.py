"""How a `config.json` says that weights are FP8 by rows: `fbgemm_fp8` (Meta's release) and compressed-tensors (vLLM).

The tensors are the same in both: `weight` as e4m3fn [N, K] and `weight_scale` [N, 1], by which it is multiplied. They differ in
the activations: fbgemm_fp8 bounds a token's largest absolute value, compressed-tensors has no word for that; the bound is kept
under a key of our own, which other engines ignore.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from puna.core.errors import InputError
from puna.model.fp8_linear import ACTIVATION_BOUND

FBGEMM, COMPRESSED = "fbgemm_fp8", "compressed-tensors"
FORMATS = (FBGEMM, COMPRESSED)
UNBOUNDED = 3.4028234e38  # the largest float32: as a bound, the word of fbgemm_fp8 for none
BOUND = "puna_activation_scale_ub"  # in config.json beside a compressed-tensors entry
READABLE = "fbgemm_fp8, or compressed-tensors with float-quantized weights by channel and dynamic activations by token"


def activation_bound(hf: dict[str, Any], where: str) -> float | None:
    """The bound on a token's activations of an FP8 checkpoint: infinite for none; None when `hf` (config.json) has no FP8.

    Raises InputError for any other quantisation: its tensors would mean other numbers.
    """
    described = hf.get("quantization_config")
    if not described:
        return None
    method = described.get("quant_method") if isinstance(described, dict) else described
    if method not in FORMATS:
        raise InputError(f"weights quantised as {method!r} cannot be read", where=where, fix=f"readable are {READABLE}")
    if method == COMPRESSED and (problem := _other_scheme(described)):
        raise InputError(f"compressed-tensors {problem} cannot be read", where=where, fix=f"readable are {READABLE}")
    bound = described.get("activation_scale_ub", ACTIVATION_BOUND) if method == FBGEMM else hf.get(BOUND, math.inf)
    if not isinstance(bound, int | float) or not bound > 0:
        raise InputError(f"the bound on activations is {bound!r} and must be a positive number", where=where)
    return float(bound)


def _other_scheme(described: dict[str, Any]) -> str | None:
    """What makes a compressed-tensors entry another arithmetic than FP8 by rows."""
    if described.get("format", "float-quantized") != "float-quantized":
        return f"of the format {described['format']!r}"
    if described.get("kv_cache_scheme"):
        return "with a kv_cache_scheme"
    groups = described.get("config_groups")
    if not isinstance(groups, dict) or not groups or not all(isinstance(group, dict) for group in groups.values()):
        return "without config_groups"
    due = (("weights", "channel", False), ("input_activations", "token", True))
    for group in groups.values():
        for part, strategy, dynamic in due:
            found = group.get(part) or {}
            same = (found.get("num_bits"), found.get("type"), found.get("strategy")) == (8, "float", strategy)
            if not same or bool(found.get("dynamic")) != dynamic or found.get("symmetric") is False:
                kind = f"{found.get('type')}{found.get('num_bits')} by {found.get('strategy')}" if found else "not quantised"
                return f"with {part} {kind}"
        if group.get("output_activations"):
            return "with output_activations"
    return None


def quantization_entries(form: str, kept: Iterable[str], bound: float) -> dict[str, Any]:
    """What config.json says of a model whose linear layers, all but `kept`, are FP8 in one of `FORMATS`."""
    if form == FBGEMM:
        entry = {"activation_scale_ub": min(bound, UNBOUNDED), "modules_to_not_convert": sorted(kept), "quant_method": FBGEMM}
        return {"quantization_config": entry}
    weights = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
    activations = {"num_bits": 8, "type": "float", "strategy": "token", "symmetric": True, "dynamic": True}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations, "output_activations": None}
    entry = {
        "quant_method": COMPRESSED, "format": "float-quantized", "quantization_status": "compressed",
        "config_groups": {"group_0": group}, "ignore": sorted(kept), "kv_cache_scheme": None,
    }  # fmt: skip
    return {"quantization_config": entry, **({BOUND: bound} if bound < UNBOUNDED else {})}
