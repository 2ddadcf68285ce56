"""The Triton kernels of the GPU path against plain formulas, in Triton's interpreter; skipped where triton is missing."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="NOT RUN: the GPU kernels need triton (pip install triton), here only its interpreter")
if torch.cuda.is_available():
    pytest.skip("NOT RUN: on a GPU bench/gpu.py checks these kernels", allow_module_level=True)

from puna.infer.cuda_steps import CudaSteps
from puna.infer.engine import Engine, Request
from puna.infer.fp8 import quantize_model
from puna.infer.kernels.paged_attention import SPLIT, decode_attention
from puna.infer.kernels.rows_triton import FEW, few_rows, fits_few_rows, normed_quantized, quantized, swiglu_quantized
from puna.infer.spans import Spans
from puna.model.attention import attend
from puna.model.config import ModelConfig
from puna.model.fp8_linear import dequantize_rows, quantize_rows
from puna.model.llama import Llama, RMSNorm

PAGE = 16


def paged(lengths, heads=8, kv_heads=2, dim=24, dtype=torch.float32):
    draw = torch.Generator().manual_seed(sum(lengths))
    width = -(-max(lengths) // PAGE)
    pages = 1 + len(lengths) * width
    cache = torch.randn(pages, PAGE, 2, kv_heads, dim, generator=draw).to(dtype)
    table = 1 + torch.randperm(pages - 1, generator=draw).view(len(lengths), width).to(torch.int32)
    q = torch.randn(len(lengths), heads, dim, generator=draw).to(dtype)
    return q, cache, table, torch.tensor(lengths, dtype=torch.int32)


def plain(q, cache, table, lengths):
    rows = []
    for query, own, length in zip(q.float(), table.long(), lengths.tolist(), strict=True):
        keys, values = cache.float()[own].flatten(0, 1)[:length].permute(1, 2, 0, 3)
        rows.append(attend(query[None, :, None], keys[None], values[None], None)[0, :, 0])
    return torch.stack(rows)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 2e-6), (torch.float16, 2e-3)])
def test_decode_attention(dtype, most):
    lengths = [1, 15, 16, 17, 64, SPLIT - 1, SPLIT, SPLIT + 1, 2 * SPLIT + 77]
    given = paged(lengths, dtype=dtype)
    found = decode_attention(*given, longest=max(lengths))
    assert found.dtype == dtype and float((found.float() - plain(*given)).abs().max()) < most


def test_attention_of_a_row_does_not_depend_on_the_batch():
    q, cache, table, lengths = paged([5, 700, 1100, 40])
    together = decode_attention(q, cache, table, lengths, longest=1100)
    for row, longest in enumerate((5, 700, 1100, 2000)):
        alone = decode_attention(q[row : row + 1], cache, table[row : row + 1], lengths[row : row + 1], longest=longest)
        assert torch.equal(alone[0], together[row])


def assert_close_codes(found, expected):
    """Equal but for a neighbour's code here and there; triton 3.9's interpreter halves what rounds up to a power of two."""
    assert torch.allclose(found[1], expected[1], rtol=1e-6, atol=0)
    mine, theirs = found[0].float(), expected[0].float()
    near = (mine - theirs).abs() <= theirs.abs() / 8 + 2**-9
    assert (mine == theirs).float().mean() > 0.9 and bool((near | (mine * 2 == theirs)).all())


def test_quantised_rows():
    x = torch.randn(5, 96) * 3
    x[1, 3], x[2] = 5000.0, 0.0
    assert_close_codes(quantized(x), quantize_rows(x, 1200.0))
    norm = RMSNorm(96, 1e-5)
    torch.nn.init.normal_(norm.weight)
    with torch.no_grad():
        assert_close_codes(normed_quantized(x, norm.weight, 1e-5), quantize_rows(norm(x), 1200.0))
    up = torch.randn(5, 96)
    assert_close_codes(swiglu_quantized(x, up), quantize_rows(F.silu(x) * up, 1200.0))


@pytest.mark.parametrize("rows", [1, 5, FEW])
@pytest.mark.parametrize(("columns", "inputs"), [(40, 128), (130, 640)])
def test_few_rows(rows, columns, inputs):
    draw = torch.Generator().manual_seed(rows)
    x, w = torch.randn(rows, inputs, generator=draw).bfloat16(), torch.randn(columns, inputs, generator=draw).bfloat16()
    exact = x.float() @ w.float().T
    assert torch.allclose(few_rows(x, w, dtype=torch.float32), exact, atol=1e-3)
    (xq, xs), (wq, ws) = quantize_rows(x, 1200.0), quantize_rows(w)
    exact = dequantize_rows(xq, xs) @ dequantize_rows(wq, ws).T
    assert torch.allclose(few_rows(xq, wq, xs, ws, dtype=torch.float32), exact, atol=1e-3)
    assert torch.equal(few_rows(x, w)[:1], few_rows(x[:1], w))
    assert fits_few_rows(x, w) and not fits_few_rows(torch.zeros(FEW + 1, inputs), w) and not fits_few_rows(x, w[:, :-1])


def lively(layers=2):
    model = Llama(ModelConfig(160, 32, layers, 4, 2, 64, max_seq_len=96), seed=3).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.mul_(40 if "embed" in name or "lm_head" in name else 2)
    return model


def test_an_engine_over_these_steps_says_what_torch_says():
    model = lively()
    prompts = [list(range(length)) for length in (1, 3, 16, 40)]
    requests = [Request(ids, n=1 + index % 2, temperature=0.7 * (index % 2), max_tokens=3) for index, ids in enumerate(prompts)]
    engines = [Engine(model, stop_ids=(), kernels="torch", prefill_tokens=24) for _ in range(2)]
    engines[1].steps = CudaSteps(model, engines[1].cache)
    expected, found = (engine.generate(requests) for engine in engines)
    assert [[c.ids for c in samples] for samples in found] == [[c.ids for c in samples] for samples in expected]
    kept, ours = (engine.cache.storage[:, 1:] for engine in engines)
    assert torch.allclose(kept, ours, atol=1e-4) and float(kept.abs().max()) > 1


def test_fp8_layers_through_these_steps():
    model = lively()
    quantize_model(model, linears="all")
    engine = Engine(model, stop_ids=(), kernels="torch")
    steps = CudaSteps(model, engine.cache)
    table, ids = np.arange(1, 3)[None], np.arange(20)
    calls = [Spans(ids[:19], np.array([0]), np.array([19]), table, np.array([17, 18])),
             Spans(ids[19:], np.array([19]), np.array([1]), table, np.array([0]))]  # fmt: skip
    with torch.no_grad():
        exact = model(torch.from_numpy(ids)[None])[0, 17:]
    found = torch.cat([steps.logits(call) for call in calls])
    assert float((found - exact).norm() / exact.norm()) < 0.2  # the interpreter halves some of the quantised numbers
