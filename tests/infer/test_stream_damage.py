"""Damaged and hostile weight files are named and refused with one message, and nothing is left behind."""

import json
import math
import struct
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))
from small_model import SHARD, TOKENIZER, lively

from puna.cli import main
from puna.core.errors import InputError
from puna.infer.convert import convert
from puna.model.checkpoint import load_model, save_model
from puna.model.weight_source import DirectoryWeights


@pytest.fixture
def source(tmp_path):
    save_model(lively(), tmp_path / "src", tokenizer=TOKENIZER, generation={"temperature": 0.6}, max_shard_bytes=SHARD)
    (tmp_path / "src/LICENSE").write_text("be kind\n")
    return tmp_path / "src"


def header_of(path: Path) -> tuple[dict, bytes]:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(path: Path, change) -> None:
    header, body = header_of(path)
    change({name: entry for name, entry in header.items() if name != "__metadata__"})
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def shift(entries):
    next(iter(entries.values()))["data_offsets"][0] += 2


def grow(entries):
    next(iter(entries.values()))["shape"][0] += 1


def overlap(entries):
    first, second, *_ = entries.values()
    second["data_offsets"], second["shape"] = first["data_offsets"], first["shape"]


def negative(entries):
    next(iter(entries.values()))["shape"] = [-1, -32]


DAMAGE = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-3]), "its tensors end at byte"),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "its tensors end at byte"),
    "empty": (lambda path: path.write_bytes(b""), "its header claims"),
    "short": (lambda path: path.write_bytes(b"\x08\0\0"), "its header claims"),
    "header length": (lambda path: path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:]), "its header claims"),
    "header text": (
        lambda path: path.write_bytes(path.read_bytes()[:8] + b"}" * 4 + path.read_bytes()[12:]),
        "header cannot be read",
    ),
    "list": (lambda path: path.write_bytes(struct.pack("<Q", 2) + b"[]"), "header cannot be read"),
    "offsets": (lambda path: with_header(path, shift), "do not fit"),
    "size": (lambda path: with_header(path, grow), "do not fit"),
    "overlap": (lambda path: with_header(path, overlap), "do not fit"),
    "negative": (lambda path: with_header(path, negative), "header cannot be read"),
    "type": (lambda path: with_header(path, lambda entries: next(iter(entries.values())).update(dtype="Q4")), "no type 'Q4'"),
    "missing": (lambda path: path.unlink(), "is missing"),
    "pointer": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git-lfs pointer"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_shard_is_named_and_refused(source, tmp_path, kind, capsys):
    damage, said = DAMAGE[kind]
    path = sorted(source.glob("*.safetensors"))[2]
    damage(path)
    with pytest.raises(InputError, match=said) as caught:
        convert(source, tmp_path / "out", "fp8")
    assert path.name in caught.value.what and caught.value.where == str(path) and caught.value.exit_code == 2
    assert not list(tmp_path.glob("out*"))


def test_a_file_unlike_its_recorded_hash_is_refused(source, tmp_path):
    convert(source, tmp_path / "bf16", "bf16", max_shard_bytes=SHARD)
    path = sorted((tmp_path / "bf16").glob("*.safetensors"))[1]
    data = bytearray(path.read_bytes())
    data[-2] ^= 1  # one bit of a weight: nothing else would tell
    assert DirectoryWeights(tmp_path / "bf16").verify() == len(list((tmp_path / "bf16").glob("*.safetensors")))
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"{path.name} is not the file that SHA256SUMS records"):
        convert(tmp_path / "bf16", tmp_path / "out", "fp8")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_scales_that_are_no_numbers_are_refused(source, tmp_path, value):
    convert(source, tmp_path / "fp8", "fp8")
    (tmp_path / "fp8/SHA256SUMS").unlink()
    path = tmp_path / "fp8/model.safetensors"
    state = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight_scale"
    state[name][3] = value
    save_file(state, path)
    for read in (lambda: load_model(tmp_path / "fp8"), lambda: convert(tmp_path / "fp8", tmp_path / "out", "bf16")):
        with pytest.raises(InputError, match=name):
            read()
    state[name][3] = 1.0
    state[name.removesuffix("_scale")].view(torch.uint8)[5, 7] = 0xFF
    save_file(state, path)
    with pytest.raises(InputError, match="FP8 codes that are no numbers"):
        convert(tmp_path / "fp8", tmp_path / "out", "bf16")
    weight, kept = name.removesuffix("_scale"), state[name.removesuffix("_scale")]
    save_file(state | {weight: kept.float().bfloat16()}, path)  # unpacked, and still called FP8
    for read in (lambda: load_model(tmp_path / "fp8"), lambda: convert(tmp_path / "fp8", tmp_path / "out", "bf16")):
        with pytest.raises(InputError, match="has scales and is bfloat16, not FP8"):
            read()
    del state[name]
    save_file(state, path)
    with pytest.raises(InputError, match="no scales"):
        convert(tmp_path / "fp8", tmp_path / "out", "bf16")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_not_quantised(tmp_path, value):
    model = lively()
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[1, 1] = value
    save_model(model, tmp_path / "src")
    with pytest.raises(InputError, match=r"layers\.2\.mlp\.down_proj\.weight .* no finite numbers") as caught:
        convert(tmp_path / "src", tmp_path / "out", "fp8")
    assert caught.value.where == str(tmp_path / "src/model.safetensors") and not list(tmp_path.glob("out*"))


def test_the_command_says_one_message_and_exits_with_2(source, tmp_path, monkeypatch, capsys):
    path = sorted(source.glob("*.safetensors"))[0]
    path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(sys, "argv", ["puna", "convert", str(source), str(tmp_path / "out"), "--to", "fp8"])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr().err
    assert ended.value.code == 2 and path.name in shown and "Traceback" not in shown
    for option in (["--format", "gptq"], ["--linears", "some"], ["--linears", "all", "--to", "bf16"]):
        monkeypatch.setattr(sys, "argv", ["puna", "convert", str(source), str(tmp_path / "out"), "--to", "fp8", *option])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
