"""Row-wise FP8 against a slow bit-level reference and against torch's own scaled product; the stage and the converter."""

import errno
import hashlib
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.core.errors import InputError, RunError
from puna.core.stage import local_artifact, local_context
from puna.infer import quantize
from puna.infer.convert import convert
from puna.infer.fp8 import batches, compare, layer_errors, quantize_model, round_weights
from puna.infer.load import load_engine
from puna.infer.native import NativeSteps
from puna.model.checkpoint import load_model, save_model
from puna.model.config import ModelConfig
from puna.model.fp8_linear import Fp8Linear, dequantize_rows, quantize_rows, scaled_product, widen
from puna.model.llama import Llama
from puna.model.weight_file import WeightWriter
from puna.tokenizer.bpe import Tokenizer

TOKENIZER = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})
CONFIG = ModelConfig(512, 32, 4, 4, 2, 96, max_seq_len=128, rope_theta=10000.0)


def lively(seed: int = 0) -> Llama:
    """A model whose predictions differ from token to token, unlike a fresh one's."""
    model = Llama(CONFIG, seed=seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(3.0)
    return model.eval()


def e4m3_values() -> list[tuple[float, int]]:
    """All finite non-negative e4m3fn numbers with their codes, from the bits: 1 sign, 4 exponent (bias 7), 3 mantissa."""
    values = []
    for code in range(0x7F):  # 0x7F is NaN; there is no infinity
        exponent, mantissa = code >> 3, code & 7
        values.append((mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7), code))
    return values


VALUES = e4m3_values()


def slow_round(x: float) -> float:
    """Nearest e4m3fn number, ties to the even code, saturating: written without torch."""
    size = min(abs(x), 448.0)
    best = min(VALUES, key=lambda value: (abs(value[0] - size), value[1] & 1))
    return math.copysign(best[0], x)


def slow_quantize(row: np.ndarray, bound: float | None) -> tuple[list[float], np.float32]:
    amax = np.float32(max(np.max(np.abs(row)), np.float32(1e-12)))
    if bound is not None:
        amax = np.float32(min(amax, np.float32(bound)))
    factor = np.float32(448.0) / amax
    return [slow_round(float(np.float32(x) * factor)) for x in row], amax / np.float32(448.0)


numbers = st.floats(-1e5, 1e5, width=32, allow_subnormal=False)


@given(st.lists(numbers, min_size=1, max_size=24), st.sampled_from([None, 1200.0, 3.0]))
@settings(max_examples=150, deadline=None)
def test_quantiser_equals_the_slow_reference(row, bound):
    quantized, scale = quantize_rows(torch.tensor([row], dtype=torch.float32), bound)
    expected, expected_scale = slow_quantize(np.array(row, np.float32), bound)
    assert quantized.float()[0].tolist() == expected
    assert scale.item() == expected_scale


def test_bound_saturates_and_protects_the_small_values():
    row = torch.tensor([[20000.0, 0.04, -0.03]])
    free, bounded = (dequantize_rows(*quantize_rows(row, bound))[0].tolist() for bound in (None, 1200.0))
    assert free[1:] == [0.0, 0.0]  # below half of 2^-9, the smallest e4m3 number, at a scale of 20000 / 448
    assert bounded == pytest.approx([1200.0, 0.04, -0.03], rel=0.07)


def test_rows_of_zeros_and_all_codes_survive():
    quantized, scale = quantize_rows(torch.zeros(2, 5))
    assert not dequantize_rows(quantized, scale).isnan().any() and dequantize_rows(quantized, scale).abs().sum() == 0
    every = torch.tensor([[value for value, _ in VALUES]])
    assert torch.equal(dequantize_rows(*quantize_rows(every)), every)


def test_widening_by_bits_equals_torch_s_cast_for_every_code():
    codes = torch.tensor([code for code in range(256) if code & 0x7F != 0x7F], dtype=torch.uint8).view(torch.float8_e4m3fn)
    assert torch.equal(widen(codes), codes.float()) and torch.equal(widen(codes).signbit(), codes.float().signbit())
    assert widen(codes)[:127].tolist() == [value for value, _ in VALUES]


def test_layer_equals_a_plain_loop_and_torch_scaled_mm():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(32, 64, generator=generator)
    x = torch.randn(5, 64, generator=generator) * torch.tensor([1.0, 10.0, 100.0, 1000.0, 5000.0])[:, None]
    layer = Fp8Linear.from_weight(weight)
    y = layer(x)
    rows = [slow_quantize(row, 1200.0) for row in x.numpy()]
    columns = [slow_quantize(row, None) for row in weight.numpy()]
    plain = [[sum(a * b for a, b in zip(q, w, strict=True)) * float(s) * float(t) for w, t in columns] for q, s in rows]
    torch.testing.assert_close(y, torch.tensor(plain), rtol=1e-5, atol=1e-4)
    quantized, scale = quantize_rows(x, 1200.0)
    scaled = torch._scaled_mm(quantized, layer.weight.T, scale_a=scale, scale_b=layer.weight_scale.T, out_dtype=torch.bfloat16)
    torch.testing.assert_close(y.bfloat16(), scaled, rtol=1e-2, atol=1e-2)
    assert torch.equal(layer(x.view(1, 5, 64)), y[None])


def test_casting_the_model_leaves_fp8_as_it_is():
    layer = Fp8Linear.from_weight(torch.ones(4, 8)).to(torch.bfloat16)
    assert (layer.weight.dtype, layer.weight_scale.dtype) == (torch.float8_e4m3fn, torch.float32)
    assert layer(torch.ones(2, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_only_inner_feed_forward_matrices_are_quantised():
    model = lively()
    names = quantize_model(model)
    expected = [f"model.layers.{i}.mlp.{m}" for i in (1, 2) for m in ("gate_proj", "up_proj", "down_proj")]
    assert names == expected == [name for name, module in model.named_modules() if isinstance(module, Fp8Linear)]
    with pytest.raises(InputError, match="already"):
        quantize_model(model)
    with pytest.raises(InputError, match="2 layers"):
        quantize_model(Llama(ModelConfig(64, 32, 2, 4, 2, 32)))


def test_comparison_equals_the_formulas_and_is_zero_for_the_same_model():
    model, other = lively(0), lively(1)
    texts = [[1, 2, 3, 4, 5], [7, 8], [9], [10, 11, 12]]
    same = compare(model, model, texts).summary()
    assert (same["tokens"], same["kl_mean"], same["first_choice_agreement"], same["perplexity_change"]) == (7, 0.0, 1.0, 0.0)
    found = compare(model, other, texts).summary()
    kl, loss = [], []
    with torch.no_grad():
        for text in texts:
            p, q = (m(torch.tensor([text]))[0].double().log_softmax(-1) for m in (model, other))
            for t in range(len(text) - 1):
                kl.append(torch.nn.functional.kl_div(q[t], p[t], log_target=True, reduction="sum").item())
                loss.append(-q[t, text[t + 1]].item())
    assert found["kl_mean"] == pytest.approx(np.mean(kl), rel=1e-4) and found["kl_max"] == pytest.approx(max(kl), rel=1e-4)
    assert found["perplexity"] == pytest.approx(math.exp(np.mean(loss)), rel=1e-4)
    with pytest.raises(InputError):
        compare(model, model, [[1]])


def test_layer_errors_are_those_of_the_layer_alone():
    model = lively()
    ids = next(iter(batches([[1, 2, 3, 4]])))[0]
    name = "model.layers.1.mlp.down_proj"
    found = layer_errors(model, [name], ids, activation_bound=1200.0)[name]
    assert 0.01 < found["weight_error"] < 0.04 and 0.01 < found["output_error"] < 0.08  # e4m3 keeps 3 mantissa bits
    assert found["rows_over_bound"] == 0.0
    assert layer_errors(model, [name], ids, activation_bound=1e-6)[name]["rows_over_bound"] == 1.0


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("fp8") / "model"
    save_model(lively(), path, tokenizer=TOKENIZER, generation={"temperature": 0.6})
    (path / "LICENSE").write_text("be kind\n")
    return path


def digest(directory):
    files = sorted(p for p in directory.rglob("*") if p.is_file() and "volatile" not in p.parts)
    return [(str(p.relative_to(directory)), hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]


def run_stage(source, out, **change):
    ctx = local_context(out, inputs=[local_artifact(source, "model")])
    values = {"tokens": 600, "seq_len": 64, "continuations": 4, "continuation_tokens": 8, "random_model": None} | change
    return quantize.run(quantize.Settings(**values), ctx)


def test_stage_writes_a_directory_that_loads_and_a_true_summary(source, tmp_path):
    summary = run_stage(source, tmp_path / "a")
    assert json.dumps(summary) == json.dumps(run_stage(source, tmp_path / "b"))
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert (tmp_path / "a" / "LICENSE").read_text() == "be kind\n"
    assert summary["tokens"] >= 500 and 0 < summary["kl_mean"] < 0.2 and summary["first_choice_agreement"] > 0.8
    assert summary["greedy"]["continuations"] == 4 and len(summary["layers"]) == 6
    saved = 2 * 3 * 32 * 96 - 2 * (96 + 96 + 32) * 4  # one byte less per quantised weight, one float32 scale more per row
    assert summary["bf16_bytes"] - summary["fp8_bytes"] == pytest.approx(saved, abs=6000)  # the safetensors header
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["torch_dtype"] == "bfloat16" and config["quantization_config"]["quant_method"] == "fbgemm_fp8"
    assert json.loads((tmp_path / "a" / "generation_config.json").read_text())["temperature"] == 0.6


def test_engine_answers_from_the_fp8_directory_as_the_model_does(source, tmp_path):
    from puna.infer.engine import Request

    run_stage(source, tmp_path / "fp8")
    engine, tokenizer = load_engine(tmp_path / "fp8")
    assert tokenizer.digest == TOKENIZER.digest
    ids = [5, 6, 7]
    answer = engine.generate([Request(ids, max_tokens=12)])[0][0]
    model, written = load_model(tmp_path / "fp8").eval(), list(ids)
    with torch.no_grad():
        for _ in range(len(answer.ids)):
            written.append(int(model(torch.tensor([written]))[0, -1].argmax()))
    assert answer.ids == written[3:] and len(answer.ids) > 0


def test_the_fp8_directory_runs_in_the_native_kernels(source, tmp_path):
    from puna.infer.engine import Request
    from puna.infer.kernels.build import Unavailable

    run_stage(source, tmp_path / "fp8")
    try:
        engine, _ = load_engine(tmp_path / "fp8", kernels="native")
    except Unavailable as error:
        pytest.skip(str(error))
    assert isinstance(engine.steps, NativeSteps)
    answer = engine.generate([Request([5, 6, 7], max_tokens=4)])[0][0]
    with torch.no_grad():
        logits = load_model(tmp_path / "fp8").eval()(torch.tensor([[5, 6, 7, *answer.ids]]))[0, 2:-1].log_softmax(-1)
    chosen = logits.gather(-1, torch.tensor(answer.ids)[:, None])
    assert len(answer.ids) > 0 and (logits.amax(-1, keepdim=True) - chosen).max() < 0.1


def test_stage_compares_on_held_out_tokens_of_every_group(source, tmp_path):
    from puna.data.shards import write_shard

    tokens = tmp_path / "tokens"
    tokens.mkdir()
    for group in ("web", "code"):
        write_shard(tokens / f"held-{group}", [[1, 2, 3, 4] * 10] * 20, {})
    artifact = local_artifact(tokens, "tokens")
    texts = quantize.held_out_texts(artifact, 200, 30)
    assert [len(text) for text in texts] == [30, 30, 30, 10] * 2 and texts[0][:4] == [1, 2, 3, 4]
    with pytest.raises(InputError, match="held-out"):
        quantize.held_out_texts(local_artifact(source, "tokens"), 200, 30)


def test_convert_to_every_form_and_back(source, tmp_path):
    report = convert(source, tmp_path / "fp8", "fp8")
    assert report["parameters"] == CONFIG.parameters() and report["bytes_after"] < 0.5 * report["bytes_before"]
    convert(source, tmp_path / "bf16", "bf16")
    rounded = lively()
    round_weights(rounded, torch.bfloat16)
    ids = torch.arange(20)[None]
    assert torch.equal(load_model(tmp_path / "bf16").eval()(ids), rounded(ids))
    convert(tmp_path / "fp8", tmp_path / "wide", "hf")
    wide = load_model(tmp_path / "wide", dtype=None)
    assert {weight.dtype for weight in wide.parameters()} == {torch.bfloat16} and "fp8" not in (
        tmp_path / "wide/config.json"
    ).read_text()
    assert not any(isinstance(module, Fp8Linear) for module in wide.modules())
    expected = dequantize_rows(*quantize_rows(rounded.model.layers[1].mlp.up_proj.weight)).to(torch.bfloat16)
    assert torch.equal(wide.model.layers[1].mlp.up_proj.weight, expected)
    convert(source, tmp_path / "hf", "hf")
    assert torch.equal(load_model(tmp_path / "hf")(ids), lively()(ids))


def test_convert_refuses_what_it_cannot_do_and_leaves_nothing(source, tmp_path):
    with pytest.raises(InputError, match="not empty"):
        convert(source, source, "bf16")
    with pytest.raises(InputError, match="onnx"):
        convert(source, tmp_path / "x", "onnx")
    shallow = tmp_path / "shallow"
    save_model(Llama(ModelConfig(512, 32, 2, 4, 2, 32)), shallow, tokenizer=TOKENIZER)
    with pytest.raises(InputError, match="2 layers"):
        convert(shallow, tmp_path / "x", "fp8")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shallow"]


def test_convert_on_a_full_disk_is_one_message_and_leaves_nothing(source, tmp_path, monkeypatch):
    def full(writer, name, first, rows):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(WeightWriter, "put", full)
    with pytest.raises(RunError, match=r"the disk is full \(\d+ MB left\)") as caught:
        convert(source, tmp_path / "hf", "hf")
    assert caught.value.where == str(tmp_path) and caught.value.fix
    assert list(tmp_path.glob("hf*")) == []


def test_the_gpus_product_means_the_same():
    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(5, 48, generator=draw), torch.randn(32, 48, generator=draw)
    linear = Fp8Linear.from_weight(weight)
    quantized, scale = quantize_rows(x, 1200.0)
    found = scaled_product(quantized, scale, linear.weight, linear.weight_scale)
    assert found.dtype == torch.bfloat16 and torch.allclose(found.float(), linear(x), rtol=8e-3, atol=1e-3)
