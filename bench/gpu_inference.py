"""The inference half of bench/gpu.py: paths of `puna.infer` checked on one card, then timed beside what the card can move.

Checks: the Triton kernels against plain formulas, the steps against PyTorch's, a recorded step against itself. Then one row of
an 8B-shaped model in BF16 and FP8 as a share of copy bandwidth, the FP8 product with its quantisation against BF16, decode
attention, products of one row, and tokens/s of 256 rows. Weights are random: speed does not know.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from puna.infer.engine import Engine, Request
from puna.infer.fp8 import quantize_model
from puna.infer.spans import Spans
from puna.infer.torch_steps import TorchSteps
from puna.model.attention import attend
from puna.model.config import ModelConfig, preset
from puna.model.fp8_linear import dequantize_rows, quantize_rows, scaled_product
from puna.model.llama import Llama

GOALS = {"bf16_of_bandwidth": 0.85, "fp8_over_bf16_decode": 1.35, "fp8_product_over_bf16": 1.7, "attention_of_bandwidth": 0.80}
SHAPE = ModelConfig(512, 256, 3, 8, 2, 512, rope_theta=10_000.0, max_seq_len=1024)  # of the checks: sizes every kernel takes
Row = dict[str, float]
Timed = Callable[[Callable[[], Any], torch.device, int], float]


def has_triton() -> bool:
    """Whether the kernels can run."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


def built(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Llama:
    """A model of random weights, in `dtype` from the start: there is no room for two."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = Llama(config, seed=None).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.normal_(0.0, config.dim**-0.5)
        else:
            weight.fill_(1.0)
    return model


# ---- checks


def checks(device: torch.device) -> dict[str, float]:
    """Largest relative differences; empty without triton, and without a card unless Triton's interpreter is on."""
    from puna.infer.kernels.paged_attention import decode_attention
    from puna.infer.kernels.rows_triton import few_rows, quantized

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q, cache, table, lengths = pages(5, 900, device, dtype)
    lengths = torch.tensor([1, 16, 511, 513, 900], device=device)
    exact = torch.stack([_plain(q[n], cache, table[n], int(lengths[n])) for n in range(5)])
    found = {"decode attention": _difference(decode_attention(q, cache, table, lengths, longest=900), exact)}
    x, w = (torch.randn(rows, 256, device=device).bfloat16() for rows in (7, 384))
    found["few rows"] = _difference(few_rows(x, w), x.float() @ w.float().T)
    (xq, xs), (wq, ws) = quantize_rows(x, 1200.0), quantize_rows(w)
    product = dequantize_rows(xq, xs) @ dequantize_rows(wq, ws).T
    found["few rows, fp8"] = _difference(few_rows(xq, wq, xs, ws), product)
    found["fp8 product"] = _difference(scaled_product(xq, xs, wq, ws), product)
    found["quantised rows"] = _difference(dequantize_rows(*quantized(x)), dequantize_rows(xq, xs))
    for name in ("bf16", "fp8"):
        found |= {f"{name} {key}": value for key, value in _check_steps(device, dtype, fp8=name == "fp8").items()}
    return found


def _check_steps(device: torch.device, dtype: torch.dtype, fp8: bool) -> dict[str, float]:
    """The GPU's steps against PyTorch's, and the recorded decode step (third call) against the one computed piece by piece."""
    from puna.infer.cuda_steps import CudaSteps

    torch.manual_seed(0)
    model = built(SHAPE, device, dtype)
    if fp8:
        quantize_model(model, linears="all")
    cache = Engine(model, stop_ids=(), kernels="torch", pages=64).cache
    plain, mine = TorchSteps(model, cache), CudaSteps(model, cache)
    table = np.arange(1, 61).reshape(3, 20)
    sizes = np.array([40, 7, 19])
    prompt = Spans(np.arange(66) * 7 % SHAPE.vocab_size, np.zeros(3, np.int64), sizes, table, sizes.cumsum() - 1)
    decode = Spans(np.array([5, 6, 7]), sizes, np.ones(3, np.int64), table, np.arange(3))
    found = {"prompt": _difference(mine.logits(prompt), plain.logits(prompt))}
    calls = [mine.logits(decode) for _ in range(3)]
    found["decode"] = _difference(calls[0], plain.logits(decode))
    found["recorded"] = max(_difference(call, calls[0]) for call in calls[1:])
    return found


def pages(rows: int, length: int, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Queries [rows, 32, 128], one layer's pages in random order, tables, lengths, all of `length` keys of 8 heads."""
    width = -(-length // 16)
    cache = torch.randn(1 + rows * width, 16, 2, 8, 128, device=device, dtype=dtype)
    table = 1 + torch.randperm(rows * width, device=device).view(rows, width).to(torch.int32)
    return torch.randn(rows, 32, 128, device=device, dtype=dtype), cache, table, torch.full((rows,), length, device=device)


def _plain(query_HE: torch.Tensor, cache: torch.Tensor, table: torch.Tensor, length: int) -> torch.Tensor:
    keys, values = cache[table.long()].float().flatten(0, 1)[:length].permute(1, 2, 0, 3)
    return attend(query_HE.float()[None, :, None], keys[None], values[None], None)[0, :, 0]


def _difference(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.float() - exact.float()).norm() / exact.float().norm())


# ---- speed


def speeds(device: torch.device, tiny: bool, timed: Timed, repeats: int) -> dict[str, Row]:
    """Every figure: ms, and TB/s, TFLOP/s or tokens/s."""
    found = {"copy": copy_rate(device, tiny, timed, repeats)}
    if device.type == "cuda" and has_triton():
        found |= products(device, timed, repeats) | attention(device, timed, repeats)
    config = SHAPE if tiny else replace(preset("llama3.1-8b"), max_seq_len=8192)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = built(config, device, dtype)
    found["one row, bf16"] = one_row(model)
    found["many rows, bf16"] = many_rows(model, tiny)
    quantize_model(model)
    found["one row, fp8 ffn"] = one_row(model)
    found["many rows, fp8 ffn"] = many_rows(model, tiny)
    del model
    model = built(config, device, dtype)
    quantize_model(model, linears="all")
    found["one row, fp8 all"] = one_row(model)
    return found


def copy_rate(device: torch.device, tiny: bool, timed: Timed, repeats: int) -> Row:
    """A plain copy of 1 GiB: what the memory gives, read and write."""
    source = torch.zeros(1 << (20 if tiny else 30), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    took = timed(lambda: target.copy_(source), device, repeats)
    return {"ms": 1e3 * took, "TB/s": 2 * source.nbytes / took / 1e12}


def products(device: torch.device, timed: Timed, repeats: int) -> dict[str, Row]:
    """A feed-forward matrix of the 8B: 4,096 and 8,192 rows in BF16 and FP8 with its quantisation; one row by its bytes."""
    from puna.infer.kernels.rows_triton import few_rows, quantized

    weight = torch.randn(14336, 4096, device=device, dtype=torch.bfloat16)
    wq, ws = quantize_rows(weight)
    found = {}
    for rows in (4096, 8192):
        x = torch.randn(rows, 4096, device=device, dtype=torch.bfloat16)

        def fp8(x: torch.Tensor = x) -> torch.Tensor:
            return scaled_product(*quantized(x), wq, ws)

        for name, work in (("bf16", lambda x=x: F.linear(x, weight)), ("fp8", fp8)):
            took = timed(work, device, repeats)
            found[f"{rows} rows, {name}"] = {"ms": 1e3 * took, "TFLOP/s": 2 * rows * weight.numel() / took / 1e12}
    x = torch.randn(1, 4096, device=device, dtype=torch.bfloat16)
    xq, xs = quantized(x)
    many = [(torch.randn_like(weight), *quantize_rows(weight)) for _ in range(8)]  # beyond the cache of the card

    def one(fp8: bool) -> None:
        for w, q, s in many:
            few_rows(xq, q, xs, s) if fp8 else few_rows(x, w)

    for name in ("bf16", "fp8"):
        took = timed(lambda name=name: one(name == "fp8"), device, repeats)
        moved = len(many) * (many[0][1] if name == "fp8" else weight).nbytes
        found[f"product of one row, {name}"] = {"ms": 1e3 * took, "TB/s": moved / took / 1e12}
    return found


def attention(device: torch.device, timed: Timed, repeats: int) -> dict[str, Row]:
    """64 rows of 4,096 keys, one layer of the 8B: the bytes of keys and values by the time."""
    from puna.infer.kernels.paged_attention import decode_attention

    q, cache, table, lengths = pages(64, 4096, device, torch.bfloat16)
    took = timed(lambda: decode_attention(q, cache, table, lengths, longest=4096), device, repeats)
    return {"decode attention, 64 x 4096": {"ms": 1e3 * took, "TB/s": cache[1:].nbytes / took / 1e12}}


def streamed_bytes(model: Llama) -> int:
    """Bytes of weights that one token reads: everything but the embedding."""
    return sum(weight.nbytes for name, weight in model.named_parameters() if name != "model.embed_tokens.weight")


def one_row(model: Llama, steps: int = 64) -> Row:
    """The engine, sampler included, with one row: median step."""
    engine = Engine(model, stop_ids=())
    engine.add(Request(list(range(64)), max_tokens=steps + 9))
    took = []
    while engine.busy:
        start = time.perf_counter()
        engine.step()
        took.append(time.perf_counter() - start)
    step = sorted(took[8:])[len(took[8:]) // 2]  # the first ones compile and record
    return {"ms": 1e3 * step, "tokens/s": 1 / step, "TB/s": streamed_bytes(model) / step / 1e12}


def many_rows(model: Llama, tiny: bool) -> Row:
    """256 rows of 1,024 tokens in and 256 out: tokens written per second, prompts included, and of a full decode step."""
    rows, prompt, out = (8, 64, 16) if tiny else (256, 1024, 256)
    gc.collect()  # the caches and graphs of earlier engines
    if model.lm_head.weight.is_cuda:
        torch.cuda.empty_cache()
    size = 1 + rows * -(-(prompt + out) // 16)
    engine = Engine(model, stop_ids=(), pages=size, max_running=rows, prefill_tokens=8192)
    draw = np.random.default_rng(0)
    for _ in range(rows):
        engine.add(Request(draw.integers(0, model.config.vocab_size, prompt).tolist(), max_tokens=out, temperature=1.0))
    begin, steps = time.perf_counter(), []
    while engine.busy:
        start = time.perf_counter()
        if len(engine.step()) == rows:
            steps.append(time.perf_counter() - start)
    step = sorted(steps)[len(steps) // 2] if steps else float("nan")
    return {"ms": 1e3 * step, "tokens/s": rows * out / (time.perf_counter() - begin), "decode tokens/s": rows / step}


def judged(found: dict[str, Row]) -> dict[str, float]:
    """The figures that have a goal."""
    if "8192 rows, fp8" not in found:  # no card, no kernels or no such half: no figure counts
        return {}
    copy = found["copy"]["TB/s"]
    product = min(found[f"{rows} rows, fp8"]["TFLOP/s"] / found[f"{rows} rows, bf16"]["TFLOP/s"] for rows in (4096, 8192))
    return {
        "bf16_of_bandwidth": found["one row, bf16"]["TB/s"] / copy,
        "fp8_over_bf16_decode": found["one row, fp8 ffn"]["tokens/s"] / found["one row, bf16"]["tokens/s"],
        "fp8_product_over_bf16": product,
        "attention_of_bandwidth": found["decode attention, 64 x 4096"]["TB/s"] / copy,
    }


def table(found: dict[str, Row]) -> str:
    """The figures as lines."""
    copy = found["copy"]["TB/s"]
    lines = []
    for name, row in found.items():
        figures = "  ".join(f"{value:10.2f} {unit}" for unit, value in row.items() if unit != "ms")
        share = f"  {100 * row['TB/s'] / copy:5.1f} % of a copy" if "TB/s" in row and name != "copy" else ""
        lines.append(f"{name:28} {row['ms']:9.3f} ms  {figures}{share}")
    return "\n".join(lines)
