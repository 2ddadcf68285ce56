"""Every GPU path, checked and timed on one card in under ten minutes: kernels, training (tokens/s, MFU, memory), inference.

    python bench/gpu.py [--quick] [--check] [--only training|inference] [--json FILE] [--device cpu --tiny]

Checks come first: block masks against dense ones with gradients, the laid-out model against the whole one, FP8 against BF16. Then
kernels at the 8B shape beside their roofline, then training steps of an 8-layer slice of the 8B (8,192 tokens a row, documents of
about 1,000) and of a 1B model whole, in BF16, compiled, and FP8. MFU counts 6 (N - N_embedding) + 12 L d S operations a token,
attention in full, against the dense peak of the card. Inference is in bench/gpu_inference.py (`--only` takes one half). `--tiny`
shrinks everything and runs anywhere: it shows that the paths work, and no figure of it counts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

import gpu_inference

from puna.model.attention import additive, attend, dense_mask, document_rule, rule_mask
from puna.model.config import ModelConfig, preset
from puna.model.llama import Llama
from puna.plan.flops import training_flops_per_token
from puna.train.objectives import CrossEntropy
from puna.train.optim import OptimSettings, build
from puna.train.packing import IGNORED, Batch
from puna.train.parallel.layout import Layout
from puna.train.parallel.meshes import Meshes
from puna.train.parallel.placed import Placed
from puna.train.vocabulary import target_losses

PEAK_TF = {"H100": 989.0, "H200": 989.0, "A100": 312.0}  # dense BF16
BANDWIDTH_TB = {"H100": 3.35, "H200": 4.8, "A100": 2.0}
GOAL = {"mfu": 0.50, "fp8_over_bf16": 1.25, **gpu_inference.GOALS}
ONE_B = ModelConfig(vocab_size=128_256, dim=2048, layers=16, heads=32, kv_heads=8, ffn_dim=8192, rope_theta=500_000.0,
                    tied=True, max_seq_len=8192)  # fmt: skip
TINY = ModelConfig(vocab_size=512, dim=64, layers=2, heads=4, kv_heads=2, ffn_dim=128, rope_theta=10_000.0, max_seq_len=256)
MOST_DIFFERENCE = 0.1  # of a check: FP8 and BF16 stay well below it, a wrong kernel does not
DOCUMENT = 1024  # tokens of a document, about


def synchronised(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median seconds of one call, after two to warm up."""
    found = []
    for number in range(repeats + 2):
        synchronised(device)
        start = time.perf_counter()
        work()
        synchronised(device)
        if number >= 2:
            found.append(time.perf_counter() - start)
    return sorted(found)[len(found) // 2]


def documents(rows: int, length: int, device: torch.device) -> torch.Tensor:
    """Document of each position: lengths differ, about eight a row at 8,192."""
    size = min(DOCUMENT, max(length // 3, 1))
    ends = torch.rand(rows, length, generator=torch.Generator().manual_seed(0)) < 1 / size
    return ends.cumsum(1).to(device)


def batch_of(config: ModelConfig, rows: int, length: int, device: torch.device) -> Batch:
    """A batch of random tokens in documents."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(0, config.vocab_size, (rows, length + 1), generator=draw)
    owners = documents(rows, length, torch.device("cpu"))
    targets = ids[:, 1:].clone()
    targets[:, :-1][owners[:, 1:] != owners[:, :-1]] = IGNORED
    starts = torch.cat([torch.ones(rows, 1, dtype=torch.bool), owners[:, 1:] != owners[:, :-1]], 1)
    at = torch.arange(length).expand(rows, -1)
    positions = at - torch.where(starts, at, 0).cummax(1).values
    return Batch(ids[:, :-1].contiguous(), targets, positions, owners).to(device)


# ---- checks


def check_attention(device: torch.device) -> dict[str, float]:
    """Largest relative difference of results and gradients between the device's mask and a dense one in float32."""
    rows, length = 2, 512
    owners = documents(rows, length, device)
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    tensors = [torch.randn(rows, heads, length, 64, device=device, dtype=kind, requires_grad=True) for heads in (8, 2, 2)]
    mine = attend(*tensors, rule_mask(document_rule(owners), rows, length, length, device))
    mine.square().sum().backward()
    exact = [tensor.detach().float().requires_grad_() for tensor in tensors]
    whole = attend(*exact, additive(dense_mask(document_rule(owners), rows, length, length, device), torch.float32))
    whole.square().sum().backward()
    pairs = [(mine, whole), *((a.grad, b.grad) for a, b in zip(tensors, exact, strict=True))]
    return {"attention": max(float(((a.float() - b).norm() / b.norm()).detach()) for a, b in pairs)}


def check_losses(meshes: Meshes, device: torch.device) -> dict[str, float]:
    """Relative difference of the loss: laid out against whole, and low precision against float32."""
    batch = batch_of(TINY, 2, 256, device)
    whole = Llama(TINY, seed=0).to(device)
    exact = float(CrossEntropy().sums(whole, batch)[0]["ce"])
    found = {}
    for precision in ("fp32", "bf16", *(("fp8",) if has_float8() else ())):
        model = Placed(TINY, meshes, weights=dict(whole.named_parameters()), precision=precision)
        loss = float(CrossEntropy().sums(model.parts[0], batch)[0]["ce"])
        found[f"loss {precision}"] = abs(loss - exact) / exact
    return found


def has_float8() -> bool:
    """Whether torchao is there."""
    try:
        import torchao.float8  # noqa: F401
    except ImportError:
        return False
    return True


# ---- kernels


def kernels(config: ModelConfig, length: int, device: torch.device, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds, and TFLOP/s or TB/s, of the heaviest operations at one row of `length` tokens."""
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    x = torch.randn(length, config.dim, device=device, dtype=kind)
    up = torch.randn(config.ffn_dim, config.dim, device=device, dtype=kind)
    found = {"matrix product": rate(lambda: F.linear(x, up), 2 * length * config.dim * config.ffn_dim, device, repeats)}
    q, k, v = (torch.randn(1, heads, length, config.head_size, device=device, dtype=kind)
               for heads in (config.heads, config.kv_heads, config.kv_heads))  # fmt: skip
    full = 4 * config.heads * config.head_size * length**2
    found["attention, causal"] = rate(lambda: attend(q, k, v, None), full / 2, device, repeats)
    owners = documents(1, length, device)
    mask = rule_mask(document_rule(owners), 1, length, length, device)
    mask = additive(mask, kind)
    pairs = float(torch.bincount(owners[0]).double().square().sum()) / 2
    found["attention, documents"] = rate(lambda: attend(q, k, v, mask), full * pairs / length**2, device, repeats)
    norm = torch.ones(config.dim, device=device, dtype=kind)
    moved = 2 * x.numel() * x.element_size()
    found["norm"] = rate(lambda: F.rms_norm(x, norm.shape, norm, 1e-5), moved, device, repeats, unit="TB/s")
    head = torch.randn(config.vocab_size, config.dim, device=device, dtype=kind)
    part, targets = x[:2048], torch.randint(0, config.vocab_size, (min(2048, length),), device=device)
    work = 2 * len(part) * config.dim * config.vocab_size
    found["output and loss"] = rate(lambda: target_losses(F.linear(part, head), targets), work, device, repeats)
    return found


def rate(work: Callable[[], Any], amount: float, device: torch.device, repeats: int, unit: str = "TFLOP/s") -> dict[str, float]:
    with torch.no_grad():
        took = seconds(work, device, repeats)
    return {"ms": 1e3 * took, unit: amount / took / 1e12}


# ---- training steps


def training(
    config: ModelConfig, meshes: Meshes, layout: Layout, precision: Any, rows: int, length: int, repeats: int
) -> dict[str, float]:
    """Tokens per second, MFU and memory of optimiser steps of a model laid out on this one card."""
    device = meshes.device
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    model = Placed(config, replace(meshes, layout=layout), seed=0, precision=precision)
    optimizer = build(model.named(), OptimSettings(lr=1e-4))
    objective, batch = CrossEntropy(chunk=2048), batch_of(config, rows, length, device)
    scales = {"ce": 1 / objective.counts(batch)["ce"]}

    def step() -> None:
        model.backward(objective, [batch], scales)
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), 1.0, model.gradient_norm(), foreach=True)
        optimizer.step(1e-4)
        for parameter in model.parameters():
            parameter.grad = None

    took = seconds(step, device, repeats)
    speed = rows * length / took
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    flops = training_flops_per_token(config, length) * speed / 1e12
    return {"tokens_per_s": speed, "tflops": flops, "memory_gib": memory, "step_ms": 1e3 * took}


def runs(args: argparse.Namespace, meshes: Meshes) -> dict[str, dict[str, float]]:
    """All training measurements, those that do not fit or lack a package noted."""
    slice_8b = replace(preset("llama3.1-8b"), layers=8, max_seq_len=8192, rope_scaling=None)
    shapes = [("tiny", TINY, 2, 256)] if args.tiny else [("8B, 8 layers", slice_8b, 1, 8192), ("1B", ONE_B, 2, 8192)]
    ways = [("bf16", False, "bf16"), ("bf16 compiled", True, "bf16")] + ([("fp8 compiled", True, "fp8")] if has_float8() else [])
    found: dict[str, dict[str, float]] = {}
    for name, config, rows, length in shapes:
        for way, compiled, precision in ways[: 1 if args.quick else None]:
            layout = Layout(compile=compiled and not args.tiny, recompute="selective")
            try:
                found[f"{name}, {way}"] = training(config, meshes, layout, precision, rows, length, args.repeats)
            except torch.OutOfMemoryError:
                print(f"{name}, {way}: does not fit into the memory of this card")
    return found


def judged(found: dict[str, dict[str, float]], peak: float) -> dict[str, float]:
    """The figures that have a goal."""
    bf16, fp8 = found.get("8B, 8 layers, bf16 compiled"), found.get("8B, 8 layers, fp8 compiled")
    ratios = {"mfu": bf16["tflops"] / peak} if bf16 and peak else {}
    return ratios | ({"fp8_over_bf16": fp8["tokens_per_s"] / bf16["tokens_per_s"]} if bf16 and fp8 else {})


def said(checks: dict[str, float]) -> str:
    return f"differences: {', '.join(f'{name} {value:.1e}' for name, value in checks.items())}"


def train_half(args: argparse.Namespace, peak: float, bandwidth: float) -> tuple[dict, dict, dict]:
    """Checks, kernels and training steps, printed as they come."""
    dist.init_process_group("gloo" if args.device == "cpu" else "nccl", store=dist.HashStore(), rank=0, world_size=1)
    meshes = Meshes.open(Layout(), args.device)
    checks = check_attention(meshes.device) | check_losses(meshes, meshes.device)
    print(said(checks))
    config, length = (TINY, 256) if args.tiny else (preset("llama3.1-8b"), 8192)
    speeds = kernels(config, length, meshes.device, args.repeats)
    for name, row in speeds.items():
        limit = bandwidth if "TB/s" in row else peak
        value, unit = next((v, u) for u, v in row.items() if u != "ms")
        share = f"{100 * value / limit:5.1f} % of {limit:g}" if limit else ""
        print(f"{name:24} {row['ms']:9.3f} ms  {value:8.2f} {unit:8} {share}")
    found = runs(args, meshes)
    for name, row in found.items():
        mfu = f"MFU {100 * row['tflops'] / peak:5.1f} %" if peak else ""
        print(
            f"{name:28} {row['tokens_per_s']:10.0f} tokens/s  {row['tflops']:7.1f} TFLOP/s  {mfu}  {row['memory_gib']:6.1f} GiB"
        )
    dist.destroy_process_group()
    return checks, speeds, found


def inference_half(args: argparse.Namespace, device: torch.device) -> tuple[dict, dict]:
    """Checks and figures of inference, printed as they come."""
    checks: dict[str, float] = {}
    if gpu_inference.has_triton() and (device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"):
        checks = gpu_inference.checks(device)
        print(said(checks))
    else:
        print("NOT CHECKED: Triton's kernels need triton, and without a card TRITON_INTERPRET=1")
    found = gpu_inference.speeds(device, args.tiny, seconds, args.repeats)
    print(gpu_inference.table(found))
    return checks, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--only", choices=("training", "inference"))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="keep the result here")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("NOT RUN: there is no CUDA device here; --device cpu --tiny shows that the paths work")
        sys.exit(1 if args.check else 0)
    device = torch.device(args.device)
    card = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    peak, bandwidth = (next((value for name, value in table.items() if name in card), 0.0) for table in (PEAK_TF, BANDWIDTH_TB))
    print(card)
    checks: dict[str, float] = {}
    speeds: dict[str, dict[str, float]] = {}
    found: dict[str, dict[str, float]] = {}
    answered: dict[str, dict[str, float]] = {}
    if args.only != "inference":
        checks, speeds, found = train_half(args, peak, bandwidth)
    if args.only != "training":
        own, answered = inference_half(args, device)
        checks |= own
    limits, today = {"peak_tflops": peak, "bandwidth_tb": bandwidth}, datetime.now(UTC).date().isoformat()
    ratios = judged(found, peak) | gpu_inference.judged(answered)
    result = {"bench": "gpu", "ratios": ratios, "limits": limits, "checks": checks, "kernels": speeds, "training": found,
              "inference": answered, "machine": card, "date": today, "versions": {"torch": torch.__version__}}  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    missed = [
        f"{name} {result['ratios'][name]:.2f} < {goal}" for name, goal in GOAL.items() if result["ratios"].get(name, goal) < goal
    ]
    missed += [f"{name} differs by {value:.2g}" for name, value in checks.items() if not value < MOST_DIFFERENCE]
    if args.check and missed:
        sys.exit(f"missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
