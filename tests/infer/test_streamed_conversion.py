"""Streamed conversion: the bytes of the conversion in memory, within the memory of a tensor, through kills, refusing damage."""

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))
from small_model import IDS, SHARD, TOKENIZER, lively

from puna.core.errors import InputError, RunError
from puna.infer.convert import convert
from puna.infer.fp8 import quantize_model
from puna.model import weight_file
from puna.model.checkpoint import load_model, read_config, save_model
from puna.model.config import ModelConfig
from puna.model.fp8_linear import Fp8Linear, dequantize_rows
from puna.model.llama import Llama
from puna.model.weight_file import WeightWriter, read_header


def hashes(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


@pytest.fixture
def source(tmp_path):
    save_model(lively(), tmp_path / "src", tokenizer=TOKENIZER, generation={"temperature": 0.6}, max_shard_bytes=SHARD)
    (tmp_path / "src/LICENSE").write_text("be kind\n")
    return tmp_path / "src"


def in_memory(source, directory, to, linears="ffn", fp8_format="fbgemm_fp8", dtype=None):
    """What the conversion must write, made the plain way."""
    model = load_model(source, dtype=None, dequantize=to != "fp8")
    model = model.to(torch.float32 if to == "hf" and dtype is None else torch.bfloat16)
    if to == "fp8":
        quantize_model(model, linears=linears)
    save_model(
        model, directory, tokenizer=TOKENIZER, generation={"temperature": 0.6}, max_shard_bytes=SHARD, fp8_format=fp8_format
    )
    return hashes(directory)


@pytest.mark.parametrize(("to", "settings"), [
    ("hf", {}), ("bf16", {}), ("fp8", {}), ("fp8", {"linears": "all"}), ("fp8", {"fp8_format": "compressed-tensors"}),
])  # fmt: skip
def test_the_files_are_those_of_the_conversion_in_memory(source, tmp_path, to, settings, monkeypatch):
    monkeypatch.setattr(weight_file, "BLOCK_BYTES", 1000)  # several blocks a tensor
    said = []
    convert(source, tmp_path / "out", to, max_shard_bytes=SHARD, say=said.append, **settings)
    due, found = in_memory(source, tmp_path / "due", to, **settings), hashes(tmp_path / "out")
    assert {name: found[name] for name in due} == due
    assert found.keys() - due.keys() == {"LICENSE", "SHA256SUMS"} and len(due) > 6
    sums = dict(reversed(line.split()) for line in (tmp_path / "out/SHA256SUMS").read_text().splitlines())
    assert sums == {name: digest for name, digest in due.items() if name.endswith(".safetensors")}
    assert max(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors")) < 65536 + 4096  # the embedding, F32
    assert len(said) == 1 + len(sums) and f"in {len(sums)} files" in said[0] and " MB/s" in said[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["due", "out", "src"]


def test_one_layout_with_the_library_for_every_type(tmp_path):
    tensors = {
        "b": torch.randn(3, 5).to(torch.float8_e4m3fn), "a": torch.randn(3, 1), "é": torch.randn(7).bfloat16(),
        "c": torch.randn(2, 2).half(), "aa": torch.randn(4, 3).bfloat16(),
    }  # fmt: skip
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    with WeightWriter(tmp_path / "ours", tensors) as writer:
        for name in reversed(tensors):
            for row in range(len(tensors[name])):
                writer.put(name, row, tensors[name][row : row + 1])
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    for name, entry in read_header(tmp_path / "ours").items():
        first = len(tensors[name]) // 2
        assert torch.equal(entry.rows(first, len(tensors[name])).float(), tensors[name][first:].float())


def test_fp8_and_back_are_the_numbers_of_the_rule(source, tmp_path):
    convert(source, tmp_path / "fp8", "fp8", max_shard_bytes=SHARD)
    convert(tmp_path / "fp8", tmp_path / "bf16", "bf16")
    stored, wide = {}, load_file(tmp_path / "bf16/model.safetensors")
    for path in (tmp_path / "fp8").glob("*.safetensors"):
        stored |= load_file(path)
    scaled = [name for name in stored if name.endswith("_scale")]
    assert len(scaled) == 6 and {stored[name].dtype for name in scaled} == {torch.float32}
    for name in scaled:
        weight = name.removesuffix("_scale")
        assert torch.equal(wide[weight], dequantize_rows(stored[weight], stored[name]).bfloat16())
        bf16 = load_model(source).get_parameter(weight).bfloat16().float()
        assert torch.equal(stored[name][:, 0], bf16.abs().amax(-1) / 448)
    quantization = read_config(tmp_path / "fp8")["quantization_config"]
    assert quantization["activation_scale_ub"] == 1200.0 and quantization["quant_method"] == "fbgemm_fp8"
    linears = {name for name, module in lively().named_modules() if isinstance(module, torch.nn.Linear)}
    assert set(quantization["modules_to_not_convert"]) == linears - {name.removesuffix(".weight_scale") for name in scaled}
    assert {f"model.layers.{i}.mlp.{m}" for i in (0, 3) for m in ("up_proj", "gate_proj", "down_proj")} < linears - {
        name.removesuffix(".weight_scale") for name in scaled
    }


def test_all_linears_work_on_two_layers_and_leave_embedding_and_output(tmp_path):
    save_model(lively(layers=2), tmp_path / "src")
    convert(tmp_path / "src", tmp_path / "out", "fp8", linears="all")
    model = load_model(tmp_path / "out")
    fp8 = [name for name, module in model.named_modules() if isinstance(module, Fp8Linear)]
    assert len(fp8) == 2 * 7 and "lm_head" not in fp8
    assert read_config(tmp_path / "out")["quantization_config"]["modules_to_not_convert"] == ["lm_head"]
    with torch.no_grad():
        plain = load_model(tmp_path / "src")(IDS)
        assert 0 < (model(IDS) - plain).norm() / plain.norm() < 0.1


def test_compressed_tensors_directory_and_its_bound(source, tmp_path):
    report = convert(source, tmp_path / "ct", "fp8", fp8_format="compressed-tensors")
    assert len(report["notes"]) == 1 and "1200" in report["notes"][0]
    config = read_config(tmp_path / "ct")
    described = config["quantization_config"]
    assert (described["quant_method"], described["format"]) == ("compressed-tensors", "float-quantized")
    group = described["config_groups"]["group_0"]
    assert group["targets"] == ["Linear"] and group["weights"]["strategy"] == "channel"
    assert group["input_activations"]["strategy"] == "token" and group["input_activations"]["dynamic"] is True
    assert "lm_head" in described["ignore"] and "model.layers.1.mlp.up_proj" not in described["ignore"]
    convert(source, tmp_path / "fb", "fp8")
    assert hashes(tmp_path / "fb")["model.safetensors"] == hashes(tmp_path / "ct")["model.safetensors"]
    ours, theirs = load_model(tmp_path / "fb"), load_model(tmp_path / "ct")
    assert theirs.model.layers[1].mlp.up_proj.activation_bound == 1200.0
    assert torch.equal(ours(IDS), theirs(IDS))
    del config["puna_activation_scale_ub"]  # as another tool writes it, with scales in BF16 and one dimension
    (tmp_path / "ct/config.json").write_text(json.dumps(config))
    state = load_file(tmp_path / "ct/model.safetensors")
    rounded = {name: w.bfloat16()[:, 0].clone() if name.endswith("_scale") else w for name, w in state.items()}
    save_file(rounded, tmp_path / "ct/model.safetensors", metadata={"format": "pt"})
    (tmp_path / "ct/SHA256SUMS").unlink()
    layer = load_model(tmp_path / "ct").model.layers[2].mlp.down_proj
    assert layer.activation_bound == math.inf and layer.weight_scale.dtype == torch.float32
    name = "model.layers.2.mlp.down_proj.weight"
    assert torch.equal(layer.weight_scale[:, 0], rounded[name + "_scale"].float())
    convert(tmp_path / "ct", tmp_path / "free", "fp8")  # fbgemm_fp8 must name a bound: one that binds nothing
    bound = json.loads((tmp_path / "free/config.json").read_text())["quantization_config"]["activation_scale_ub"]
    assert 3e38 < bound < math.inf and torch.equal(load_model(tmp_path / "free")(IDS), load_model(tmp_path / "ct")(IDS))
    convert(tmp_path / "ct", tmp_path / "wide", "bf16")
    due = dequantize_rows(state[name], rounded[name + "_scale"][:, None]).bfloat16()
    assert torch.equal(load_file(tmp_path / "wide/model.safetensors")[name], due)


def test_the_formats_turn_into_each_other_and_back_to_the_byte(source, tmp_path):
    convert(source, tmp_path / "fb", "fp8", max_shard_bytes=SHARD)
    convert(tmp_path / "fb", tmp_path / "ct", "fp8", fp8_format="compressed-tensors", max_shard_bytes=SHARD)
    convert(tmp_path / "ct", tmp_path / "again", "fp8", max_shard_bytes=SHARD)
    assert hashes(tmp_path / "again") == hashes(tmp_path / "fb")
    with pytest.raises(InputError, match="FP8 already"):
        convert(tmp_path / "fb", tmp_path / "x", "fp8")
    with pytest.raises(InputError, match="FP8 already"):
        convert(tmp_path / "ct", tmp_path / "x", "fp8", linears="all")


@pytest.mark.parametrize(("change", "said"), [
    ({"format": "int-quantized"}, "int-quantized"), ({"config_groups": {}}, "without config_groups"),
    ({"weights": {"num_bits": 8, "type": "int", "strategy": "channel"}}, "int8"),
    ({"weights": {"num_bits": 8, "type": "float", "strategy": "tensor"}}, "by tensor"),
    ({"input_activations": {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": False}}, "input_activations"),
    ({"input_activations": None}, "not quantised"), ({"quant_method": "gptq"}, "gptq"),
])  # fmt: skip
def test_other_schemes_are_refused_by_name(source, tmp_path, change, said):
    convert(source, tmp_path / "ct", "fp8", fp8_format="compressed-tensors")
    config = read_config(tmp_path / "ct")
    described = config["quantization_config"]
    for key, value in change.items():
        (described if key in described else described["config_groups"]["group_0"])[key] = value
    (tmp_path / "ct/config.json").write_text(json.dumps(config))
    for read in (lambda: load_model(tmp_path / "ct"), lambda: convert(tmp_path / "ct", tmp_path / "x", "bf16")):
        with pytest.raises(InputError, match=said):
            read()


# ---- transformers


@pytest.mark.parametrize("to", ["hf", "bf16", "dequantised"])
@pytest.mark.parametrize("tied", [False, True])
def test_transformers_computes_the_same_logits(tmp_path, to, tied):
    transformers = pytest.importorskip("transformers")
    save_model(lively(tied=tied), tmp_path / "src", tokenizer=TOKENIZER, max_shard_bytes=SHARD)
    source = tmp_path / "src"
    if to == "dequantised":
        convert(source, tmp_path / "fp8", "fp8")
        source = tmp_path / "fp8"
    convert(source, tmp_path / "out", "hf" if to == "dequantised" else to, max_shard_bytes=SHARD)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, load_model(tmp_path / "out")(IDS), rtol=1e-4, atol=1e-4)


def test_transformers_reads_compressed_tensors(source, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed: only Puna reads its directory back")
    convert(source, tmp_path / "out", "fp8", fp8_format="compressed-tensors")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        ours = load_model(tmp_path / "out")(IDS)
        assert (theirs(IDS).logits.float() - ours).norm() / ours.norm() < 0.05


# ---- memory, kills


MEMORY = """
import sys
from pathlib import Path
from puna.infer.convert import convert

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

root = Path(sys.argv[1])
for to in ("fp8", "bf16"):
    convert(root / "small", root / f"small-{to}", to)
base = peak()
convert(root / "src", root / "fp8", "fp8", max_shard_bytes=60_000_000)
convert(root / "fp8", root / "bf16", "bf16", max_shard_bytes=60_000_000)
print(peak() - base)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc: memory is not measured on this system")
def test_memory_is_less_than_two_tensors(tmp_path):
    config = ModelConfig(16_000, 1024, 3, 8, 2, 8192, max_seq_len=128)
    model = Llama(config, seed=0).to(torch.bfloat16)
    largest, whole = (f(weight.nbytes for weight in model.parameters()) for f in (max, sum))
    save_model(model, tmp_path / "src", max_shard_bytes=60_000_000)
    save_model(lively(), tmp_path / "small")
    found = subprocess.run([sys.executable, "-c", MEMORY, tmp_path], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 2 * largest < whole / 3
    assert len(list((tmp_path / "src").glob("*.safetensors"))) > 3 < len(list((tmp_path / "fp8").glob("*.safetensors")))


KILLED = """
import os, signal, sys
from pathlib import Path
from puna.infer.convert import convert
from puna.model.weight_file import WeightWriter

put, left = WeightWriter.put, int(sys.argv[3])
def counted(writer, name, first, rows):
    global left
    left -= 1
    put(writer, name, first, rows)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
WeightWriter.put = counted
convert(Path(sys.argv[1]), Path(sys.argv[2]), "fp8", max_shard_bytes=40_000)
"""


def killed(source, out, puts: int) -> Path:
    process = subprocess.run([sys.executable, "-c", KILLED, source, out, str(puts)], check=False)
    assert process.returncode == -9 and not out.exists()
    return out.with_name(f"{out.name}.partial")


def test_a_killed_conversion_goes_on_with_the_same_bytes(source, tmp_path):
    convert(source, tmp_path / "due", "fp8", max_shard_bytes=SHARD)
    partial = killed(source, tmp_path / "out", 30)
    finished = json.loads((partial / "convert.json").read_text())["files"]
    assert 1 <= len(finished) < len(list((tmp_path / "due").glob("*.safetensors")))
    inodes = {name: (partial / name).stat().st_ino for name in finished}
    said = []
    convert(source, tmp_path / "out", "fp8", max_shard_bytes=SHARD, say=said.append)
    assert hashes(tmp_path / "out") == hashes(tmp_path / "due") and not partial.exists()
    assert {name: (tmp_path / "out" / name).stat().st_ino for name in finished} == inodes
    assert f"{len(finished)} finished before are kept" in said[0]


def test_what_was_finished_is_checked_and_belongs_to_the_same_job(source, tmp_path):
    convert(source, tmp_path / "due", "fp8", max_shard_bytes=SHARD)
    partial = killed(source, tmp_path / "out", 30)
    first = next(iter(json.loads((partial / "convert.json").read_text())["files"]))
    data = bytearray((partial / first).read_bytes())
    data[-1] ^= 1
    (partial / first).write_bytes(data)
    said = []
    convert(source, tmp_path / "out", "fp8", max_shard_bytes=SHARD, say=said.append)
    assert hashes(tmp_path / "out") == hashes(tmp_path / "due")
    killed(source, tmp_path / "other", 30)
    said.clear()
    convert(source, tmp_path / "other", "bf16", max_shard_bytes=SHARD, say=said.append)  # another job: nothing is kept
    assert "kept" not in said[0] and load_model(tmp_path / "other", dtype=None).lm_head.weight.dtype == torch.bfloat16
    killed(source, tmp_path / "third", 30)
    os.utime(next(source.glob("*.safetensors")), ns=(1, 1))  # the weights may be others
    said.clear()
    convert(source, tmp_path / "third", "fp8", max_shard_bytes=SHARD, say=said.append)
    assert "kept" not in said[0] and hashes(tmp_path / "third") == hashes(tmp_path / "due")


def test_a_full_disk_keeps_what_is_finished(source, tmp_path, monkeypatch):
    put, left = WeightWriter.put, [30]

    def full(writer, name, first, rows):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        put(writer, name, first, rows)

    monkeypatch.setattr(WeightWriter, "put", full)
    with pytest.raises(RunError, match="disk is full"):
        convert(source, tmp_path / "out", "fp8", max_shard_bytes=SHARD)
    assert not (tmp_path / "out").exists() and len(list((tmp_path / "out.partial").glob("*.safetensors"))) >= 1
    monkeypatch.undo()
    convert(source, tmp_path / "out", "fp8", max_shard_bytes=SHARD)
    convert(source, tmp_path / "due", "fp8", max_shard_bytes=SHARD)
    assert hashes(tmp_path / "out") == hashes(tmp_path / "due")
