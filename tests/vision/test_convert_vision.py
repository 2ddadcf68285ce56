"""`puna convert` on vision models: both layouts, the text part alone, and clear refusals."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mllama_cases import TEXT, model_of
from typer.testing import CliRunner

from puna.cli import app
from puna.core.errors import InputError
from puna.infer.convert import convert
from puna.model.checkpoint import load_model, save_model
from puna.model.llama import Llama
from puna.tokenizer.bpe import Tokenizer
from puna.vision.convert import convert_vision, is_vision
from puna.vision.hf import load_vision, save_vision
from puna.vision.tiles import ImageShape

TOKENIZER = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})
WIDE = replace(TEXT, vocab_size=TOKENIZER.vocab_size)


def contents(directory: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(directory.iterdir())}


def saved(directory: Path) -> Path:
    """A vision model whose text part is the model in `text` beside."""
    model = model_of(leak=False, text=WIDE)
    model.adapter.config = replace(model.adapter.config, image_id=TOKENIZER.image_id)
    model.text.to(torch.bfloat16)
    save_model(model.text, directory / "text", tokenizer=TOKENIZER, generation={"temperature": 0.5})
    shape = ImageShape(28, 4, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    save_vision(model, directory / "vision", tokenizer=TOKENIZER, generation={"temperature": 0.5}, image_shape=shape)
    (directory / "vision" / "LICENSE").write_text("terms")
    (directory / "vision" / "lineage.json").write_text("[]")
    return directory / "vision"


def test_text_comes_out_as_it_went_in(tmp_path: Path) -> None:
    source = saved(tmp_path)
    report = convert_vision(source, tmp_path / "out", "text")
    assert report["notes"] == [] and report["parameters"] == WIDE.parameters()
    assert contents(tmp_path / "out") == contents(tmp_path / "text") | {
        name: hashlib.sha256(text.encode()).hexdigest() for name, text in (("LICENSE", "terms"), ("lineage.json", "[]"))
    }  # fmt: skip
    convert_vision(source, tmp_path / "meta", "meta")
    convert_vision(tmp_path / "meta", tmp_path / "again", "text")
    assert contents(tmp_path / "again")["model.safetensors"] == contents(tmp_path / "text")["model.safetensors"]


def test_text_that_another_tool_changed_is_told(tmp_path: Path) -> None:
    source = saved(tmp_path)
    config = json.loads((source / "config.json").read_text())
    config["puna"]["text_digest"] = "0" * 32
    (source / "config.json").write_text(json.dumps(config))
    assert "another tool has changed them" in convert_vision(source, tmp_path / "out", "text")["notes"][0]
    assert load_model(tmp_path / "out", dtype=None).config == WIDE


def test_there_and_back(tmp_path: Path) -> None:
    source = saved(tmp_path)
    report = convert_vision(source, tmp_path / "meta", "meta")
    assert any("tile_rows.safetensors" in note for note in report["notes"])
    assert {"params.json", "consolidated.00.pth", "puna.json", "tokenizer.model", "LICENSE"} <= contents(tmp_path / "meta").keys()
    convert_vision(tmp_path / "meta", tmp_path / "hf", "hf")
    before, after = contents(source), contents(tmp_path / "hf")
    assert before.pop("preprocessor_config.json") != after.pop("preprocessor_config.json")  # Meta's layout has no place for it
    assert before == after
    convert_vision(source, tmp_path / "bf16", "bf16", max_shard_bytes=100_000)
    assert {weight.dtype for weight in load_vision(tmp_path / "bf16", dtype=None).parameters()} == {torch.bfloat16}
    assert (tmp_path / "bf16" / "model.safetensors.index.json").is_file()


def test_the_verb_takes_vision_models(tmp_path: Path) -> None:
    source = saved(tmp_path)
    run = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "out"), "--to", "text"])
    assert run.exit_code == 0 and str(tmp_path / "out") in run.output, run.output
    assert torch.equal(load_model(tmp_path / "out").lm_head.weight, load_model(tmp_path / "text").lm_head.weight)
    run = CliRunner().invoke(app, ["convert", str(tmp_path / "out"), str(tmp_path / "gguf"), "--to", "gguf"])
    assert run.exit_code == 0, run.output


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    source = saved(tmp_path)
    assert is_vision(source) and not is_vision(tmp_path / "text") and not is_vision(tmp_path / "nothing")
    with pytest.raises(InputError, match="cannot be converted to 'gguf'") as error:
        convert_vision(source, tmp_path / "out", "gguf")
    assert "--to text" in str(error.value.fix)
    with pytest.raises(InputError, match="belong to --to fp8"):
        convert_vision(source, tmp_path / "out", "hf", linears="all")
    with pytest.raises(InputError, match="cannot be converted to 'text'"):
        convert(tmp_path / "text", tmp_path / "out", "text")
    with pytest.raises(InputError, match="not empty"):
        convert_vision(source, tmp_path / "text", "hf")
    with pytest.raises(InputError, match="this is a vision model"):
        convert(source, tmp_path / "out", "fp8")
    (source / "model.safetensors").write_bytes(b"no")
    with pytest.raises(InputError):
        convert_vision(source, tmp_path / "out", "text")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_released_directories_without_a_rank_file(tmp_path: Path) -> None:
    """As published: `tokenizer.json` alone, in which the image token is the first id after the vocabulary."""
    source = saved(tmp_path)
    (source / "tokenizer.model").unlink()
    convert_vision(source, tmp_path / "out", "text")
    assert Tokenizer.load(tmp_path / "out").digest == TOKENIZER.digest
    assert isinstance(load_model(tmp_path / "out"), Llama)
