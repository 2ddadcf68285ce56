"""Meta's layout: there and back to the bit, cut files, a Meta-style network as reference, and hostile files."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from puna.core.errors import InputError
from puna.infer.convert import convert
from puna.infer.fp8 import quantize_model
from puna.model.checkpoint import load_model, load_state, save_model
from puna.model.config import PRESETS, ModelConfig, RopeScaling, ffn_width
from puna.model.layouts import interleave_rows, meta_names, split_rows
from puna.model.llama import Llama
from puna.model.meta_layout import ffn_rule, load_meta
from puna.tokenizer.bpe import Tokenizer

TOKENIZER = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})
SHAPE = {"vocab_size": 512, "dim": 32, "layers": 3, "heads": 4, "kv_heads": 2, "ffn_dim": 96}
IDS = torch.tensor([[3, 99, 41, 500, 7, 7, 260, 0, 81, 12, 400, 33]])
BY_COLUMNS = ("wo.weight", "w2.weight")


def lively(dtype=torch.float32, **changed) -> Llama:
    model = Llama(ModelConfig(**(SHAPE | changed)), seed=3).to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0) if weight.dim() > 1 else weight.add_(torch.linspace(-0.5, 0.5, len(weight)).to(dtype))
    return model.eval()


def source(directory: Path, **changed) -> Path:
    save_model(lively(**changed), directory, tokenizer=TOKENIZER, generation={"temperature": 0.6})
    (directory / "LICENSE").write_text("terms")
    (directory / "lineage.json").write_text('{"sources": []}')
    return directory


def meta(directory: Path, **changed) -> Path:
    convert(source(directory / "hf", **changed), directory / "meta", "meta")
    return directory / "meta"


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "SHA256SUMS"}


def cut(directory: Path, parts: int, kv_heads: int, old_embedding: bool = False) -> None:
    """Turn one file into the parts of model parallelism: rows, columns (`wo`, `w2`), or a copy (norms, shared heads)."""
    whole = torch.load(directory / "consolidated.00.pth", weights_only=True)
    for part in range(parts):
        held = {}
        for name, tensor in whole.items():
            if "norm" in name:
                held[name] = tensor
            elif name.endswith(("wk.weight", "wv.weight")) and kv_heads < parts:
                held[name] = tensor.chunk(kv_heads, 0)[part * kv_heads // parts].clone()
            else:
                columns = name.endswith(BY_COLUMNS) or (old_embedding and name.startswith("tok_"))
                held[name] = tensor.chunk(parts, 1 if columns else 0)[part].clone()
        torch.save({**held, "rope.freqs": torch.ones(4)}, directory / f"consolidated.{part:02d}.pth")


def meta_forward(directory: Path, ids: Tensor) -> Tensor:
    """Logits from the files alone, in the published form: RoPE as complex numbers over adjacent pairs, keys repeated."""
    p = json.loads((directory / "params.json").read_text())
    w = {k: v.float() for k, v in torch.load(directory / "consolidated.00.pth", weights_only=True).items()}
    heads, kv_heads, length = p["n_heads"], p["n_kv_heads"], ids.shape[1]
    width = p["dim"] // heads
    freqs = 1.0 / p["rope_theta"] ** (np.arange(0, width, 2)[: width // 2] / width)
    if p["use_scaled_rope"]:
        for i, freq in enumerate(freqs.copy()):
            wavelength = 2 * np.pi / freq
            if wavelength > 8192 / 1:
                freqs[i] = freq / 8
            elif wavelength >= 8192 / 4:
                smooth = (8192 / wavelength - 1) / (4 - 1)
                freqs[i] = (1 - smooth) * freq / 8 + smooth * freq
    turns = torch.polar(torch.ones(length, width // 2), torch.outer(torch.arange(length), torch.from_numpy(freqs)).float())

    def norm(x: Tensor, name: str) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + p["norm_eps"]) * w[name]

    def rope(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turns[None, :, None]).flatten(3)

    h = w["tok_embeddings.weight"][ids]
    for i in range(p["n_layers"]):
        a, f = f"layers.{i}.attention.", f"layers.{i}.feed_forward."
        x = norm(h, f"layers.{i}.attention_norm.weight")
        q, k, v = ((x @ w[f"{a}{n}.weight"].T).view(1, length, -1, width) for n in ("wq", "wk", "wv"))
        q, k = rope(q).transpose(1, 2), rope(k).repeat_interleave(heads // kv_heads, 2).transpose(1, 2)
        v = v.repeat_interleave(heads // kv_heads, 2).transpose(1, 2)
        scores = q @ k.transpose(2, 3) / width**0.5 + torch.full((length, length), -torch.inf).triu(1)
        h = h + (scores.softmax(-1) @ v).transpose(1, 2).reshape(1, length, -1) @ w[f"{a}wo.weight"].T
        x = norm(h, f"layers.{i}.ffn_norm.weight")
        h = h + (F.silu(x @ w[f"{f}w1.weight"].T) * (x @ w[f"{f}w3.weight"].T)) @ w[f"{f}w2.weight"].T
    return norm(h, "norm.weight") @ w["output.weight"].T


@pytest.mark.parametrize("scaling", [None, RopeScaling()])
def test_logits_equal_a_network_in_metas_own_form(scaling, tmp_path):
    directory = meta(tmp_path, rope_scaling=scaling, dim=64, ffn_dim=200)  # 8 wavelengths: all three branches of the scaling
    ours = load_meta(directory).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS), meta_forward(directory, IDS), atol=1e-4, rtol=1e-5)
        assert torch.equal(ours(IDS), load_model(tmp_path / "hf").eval()(IDS))


@pytest.mark.parametrize("changed", [
    {}, {"tied": True}, {"dtype": torch.bfloat16}, {"rope_scaling": RopeScaling(4, 1, 4, 32), "max_seq_len": 128},
    {"rope_scaling": RopeScaling(), "max_seq_len": 131_072, "kv_heads": 4, "ffn_dim": 101, "norm_eps": 1e-6},
])  # fmt: skip
def test_there_and_back_gives_the_same_bytes(changed, tmp_path):
    directory = meta(tmp_path, **changed)
    names = {"LICENSE", "consolidated.00.pth", "lineage.json", "params.json", "puna.json", "tokenizer.model"}
    assert bytes_of(directory).keys() == names
    convert(directory, tmp_path / "back", "hf")
    assert bytes_of(tmp_path / "back") == bytes_of(tmp_path / "hf")
    report = convert(directory, tmp_path / "again", "meta")
    assert bytes_of(tmp_path / "again") == bytes_of(directory)
    assert report["bytes_after"] == (directory / "consolidated.00.pth").stat().st_size
    other = changed.get("rope_scaling") not in (None, RopeScaling())
    assert len(report["notes"]) == other


def test_every_other_form_reads_meta(tmp_path):
    directory = meta(tmp_path)
    for form in ("bf16", "fp8"):
        convert(directory, tmp_path / f"from_meta_{form}", form)
        convert(tmp_path / "hf", tmp_path / f"from_hf_{form}", form)
        assert bytes_of(tmp_path / f"from_meta_{form}") == bytes_of(tmp_path / f"from_hf_{form}")


def test_fp8_is_widened_on_the_way(tmp_path):
    model = lively().to(torch.bfloat16)
    quantize_model(model)
    save_model(model, tmp_path / "fp8", tokenizer=TOKENIZER)
    convert(tmp_path / "fp8", tmp_path / "meta", "meta")
    convert(tmp_path / "meta", tmp_path / "back", "hf")
    convert(tmp_path / "fp8", tmp_path / "hf", "hf")
    assert bytes_of(tmp_path / "back") == bytes_of(tmp_path / "hf")


@pytest.mark.parametrize(("parts", "old_embedding"), [(2, False), (2, True), (4, False)])
def test_cut_files_are_joined(parts, old_embedding, tmp_path):
    directory = meta(tmp_path)  # two key and value heads: four parts hold each twice
    whole = {name: tensor.clone() for name, tensor in load_meta(directory).state_dict().items()}  # the file goes
    cut(directory, parts, kv_heads=2, old_embedding=old_embedding)
    joined = load_meta(directory).state_dict()
    assert whole.keys() == joined.keys() and all(torch.equal(whole[name], joined[name]) for name in whole)
    (directory / f"consolidated.{parts - 1:02d}.pth").unlink()
    with pytest.raises(InputError, match=r"shape|disagree"):
        load_meta(directory)
    if parts == 4:
        (directory / "consolidated.01.pth").unlink()
        with pytest.raises(InputError, match=r"consolidated\.01\.pth is missing"):
            load_meta(directory)


@pytest.mark.parametrize("name", ["layers.1.attention_norm.weight", "layers.0.attention.wk.weight"])
def test_files_of_two_models_are_refused(name, tmp_path):
    directory = meta(tmp_path, kv_heads=1)
    cut(directory, 2, kv_heads=1)
    held = torch.load(directory / "consolidated.01.pth", weights_only=True)
    held[name][0] += 1
    torch.save(held, directory / "consolidated.01.pth")
    with pytest.raises(InputError, match=f"disagree about {name}"):
        load_meta(directory)


def test_a_directory_of_metas_own_has_no_puna_json(tmp_path):
    directory = meta(tmp_path, rope_scaling=RopeScaling(), tied=True)
    (directory / "puna.json").unlink()
    config = load_meta(directory).config
    assert config.tied and config.rope_scaling == RopeScaling() and config.max_seq_len == 131_072
    weights = torch.load(directory / "consolidated.00.pth", weights_only=True)
    torch.save({name: weight for name, weight in weights.items() if name != "output.weight"}, directory / "consolidated.00.pth")
    params = json.loads((directory / "params.json").read_text())
    params |= {"use_scaled_rope": False, "max_batch_size": 6}  # an unknown key of no consequence
    (directory / "params.json").write_text(json.dumps(params))
    config = load_meta(directory).config
    assert config.tied and config.rope_scaling is None and config.max_seq_len == 8192


def test_widths_of_the_released_models_and_of_any_other():
    for name in ("llama3.1-8b", "llama3.1-70b", "llama3.1-405b"):
        config = PRESETS[name]
        multiplier, multiple_of = ffn_rule(config.dim, config.ffn_dim)
        assert ffn_width(config.dim, multiplier, multiple_of) == config.ffn_dim and multiplier in (1.3, 1.2)
    assert ffn_rule(4096, 14336) == (1.3, 1024)
    for dim in (2, 32, 96, 4096, 16384):
        for ffn_dim in (1, 2, 7, 96, 255, 1001, 8193, 53248, 53249):
            multiplier, multiple_of = json.loads(json.dumps(ffn_rule(dim, ffn_dim)))
            assert ffn_width(dim, multiplier, multiple_of) == ffn_dim


def test_rows_of_a_head_are_paired_anew():
    weight = torch.arange(2 * 6)[:, None] * torch.ones(1, 3)
    turned = interleave_rows(weight, 2)
    assert turned[:, 0].tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert torch.equal(split_rows(turned, 2), weight)


class Bomb:
    def __reduce__(self):
        return (open, ("executed.txt", "w"))


def hostile(kind: str, file: Path) -> None:
    held = torch.load(file, weights_only=True)
    name = "layers.0.attention.wo.weight"
    if kind == "code":
        torch.save({**held, name: Bomb()}, file)
    elif kind == "sparse":
        torch.save({**held, name: held[name].to_sparse()}, file)
    elif kind == "integers":
        torch.save({**held, name: held[name].int()}, file)
    elif kind == "fp8":
        torch.save({**held, name: held[name].to(torch.float8_e4m3fn)}, file)
    elif kind == "one number for all":
        torch.save({**held, name: torch.zeros(1).expand(1 << 20, 1 << 20)}, file)
    elif kind == "the same bytes often":
        big = torch.zeros(512, 512)
        torch.save({**held, **{f"x{i}": big for i in range(50)}}, file)
    elif kind in ("a storage too small", "a storage beyond the end"):
        torch.save({name: torch.zeros(1 << 16) for name in held} if "end" in kind else held, file)
        with zipfile.ZipFile(file) as archive:
            records = {info.filename: archive.read(info) for info in archive.infolist()}
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for record, content in sorted(records.items(), key=lambda item: "/data/" in item[0]):  # data last
                archive.writestr(record, content[:16] if "/data/" in record else content)
    elif kind == "a list":
        torch.save(list(held.values()), file)
    elif kind == "nested":
        torch.save({"model": held}, file)
    elif kind == "number as name":
        torch.save({**held, 7: held[name]}, file)
    elif kind == "old format":
        torch.save(held, file, _use_new_zipfile_serialization=False)
    elif kind == "cut short":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.write_bytes(b"no checkpoint at all")


@pytest.mark.parametrize("kind", [
    "code", "sparse", "integers", "fp8", "one number for all", "the same bytes often", "a storage too small",
    "a storage beyond the end", "a list", "nested", "number as name", "old format", "cut short", "text",
])  # fmt: skip
def test_only_plain_tensors_are_read(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = meta(tmp_path)
    file = directory / "consolidated.00.pth"
    hostile(kind, file)
    with pytest.raises(InputError) as caught:
        convert(directory, tmp_path / "out", "hf")
    assert caught.value.where and caught.value.fix
    assert not (tmp_path / "executed.txt").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("changed", "said"), [
    ({"n_layers": 10**9}, "layers"), ({"n_layers": 2}, "does not belong"), ({"n_layers": 4}, "is missing"),
    ({"dim": 2**70}, "dim"), ({"dim": True}, "dim"), ({"dim": None}, "dim"), ({"n_heads": 3}, "multiple"),
    ({"multiple_of": 4096}, "shape"), ({"ffn_dim_multiplier": 1e300}, "ffn_dim_multiplier"), ({"vocab_size": 500}, "512"),
    ({"n_kv_heads": 4}, "shape"), ({"norm_eps": "small"}, "norm_eps"), ({"rope_theta": -1}, "rope_theta"),
    ({"quantization_args": {"scheme": "int4"}}, "quantization_args"), ({"vision_chunk_size": 448}, "vision"),
    ({"use_scaled_rope": True}, "disagree"),
])  # fmt: skip
def test_params_that_do_not_fit_are_refused(changed, said, tmp_path):
    directory = meta(tmp_path)
    params = json.loads((directory / "params.json").read_text()) | changed
    (directory / "params.json").write_text(json.dumps(params))
    with pytest.raises(InputError, match=said) as caught:
        load_meta(directory)
    assert str(tmp_path) in str(caught.value.where) or said == "multiple"


@pytest.mark.parametrize("side", [
    {"rope_scaling": {"rope_type": "llama3", "factor": [], "low_freq_factor": 1}}, {"max_position_embeddings": "many"}, {"x": 1},
    {"max_position_embeddings": 0}, {"puna_tokenizer": "0" * 64},
])  # fmt: skip
def test_a_wrong_puna_json_is_refused(side, tmp_path):
    directory = meta(tmp_path, rope_scaling=RopeScaling())
    (directory / "puna.json").write_text(json.dumps(side))
    with pytest.raises(InputError):
        load_meta(directory)


def test_what_the_layout_cannot_say_is_refused_or_noted(tmp_path):
    save_model(lively(head_dim=16), tmp_path / "wide")
    with pytest.raises(InputError, match="heads of 16"):
        convert(tmp_path / "wide", tmp_path / "out", "meta")
    assert not list(tmp_path.glob("out*"))
    directory = meta(tmp_path)
    with pytest.raises(InputError, match=r"no config\.json") as caught:
        load_model(directory)
    assert "puna convert" in str(caught.value.fix)
    shutil.copy(tmp_path / "wide/config.json", directory)
    with pytest.raises(InputError, match=r"neither model\.safetensors"):  # both layouts: Hugging Face's is read
        convert(directory, tmp_path / "out", "hf")


def test_names_cover_the_network():
    assert list(meta_names(1)) and set(meta_names(3)) == set(lively().state_dict())
    assert len(set(meta_names(3).values())) == len(meta_names(3))


def test_a_model_without_tokenizer_converts(tmp_path):
    save_model(lively(), tmp_path / "bare")
    convert(tmp_path / "bare", tmp_path / "meta", "meta")
    assert not (tmp_path / "meta/tokenizer.model").exists()
    convert(tmp_path / "meta", tmp_path / "back", "hf")
    ours, back = load_state(tmp_path / "bare"), load_state(tmp_path / "back")
    assert all(torch.equal(ours[name], back[name]) for name in ours)
