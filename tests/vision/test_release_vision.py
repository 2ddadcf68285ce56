"""Vision models where models are listed: lineage, releases, a run's models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from puna.cli import app
from puna.core.alone import run_alone
from puna.core.lineage_graph import front_matter, read_any
from puna.core.stage import Artifact
from puna.model.checkpoint import save_model
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.report.release.bundle import release
from puna.report.release.check import check
from puna.tokenizer.bpe import Tokenizer
from puna.vision.hf import load_vision


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A vision model around a text model from elsewhere, with a licence that asks for something."""
    root = tmp_path_factory.mktemp("seeing")
    tokenizer = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})
    shape = ModelConfig(vocab_size=tokenizer.vocab_size, dim=16, layers=2, heads=2, kv_heads=1, ffn_dim=32, max_seq_len=64)
    save_model(Llama(shape, seed=0), root / "given", tokenizer=tokenizer)
    options = {"seed": 7, "cores": 1, "report": lambda event: None}
    base = run_alone("post.start", root / "base", {}, [f"path={root / 'given'}", "licence=llama3.1"], **options)
    return run_alone("fake_seeing", root / "seeing", {"model": base.path}, [], **options)


def test_the_text_models_duties_stay(seeing: Artifact) -> None:
    told = CliRunner().invoke(app, ["why-licence", str(seeing.path), "--duty", "llama-name"])
    assert told.exit_code == 0 and "weights of given [llama3.1]" in told.stdout, told.output


def test_a_vision_model_is_released(seeing: Artifact, tmp_path: Path) -> None:
    licence = tmp_path / "LICENSE"
    licence.write_text("terms")
    release(seeing, [], tmp_path / "out", name="Llama-seeing", run="test", licence_files={"llama3.1": licence})
    assert check(tmp_path / "out") == []
    model = load_vision(tmp_path / "out")
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()
    head, text = front_matter(tmp_path / "out" / "README.md"), (tmp_path / "out" / "README.md").read_text()
    assert head["pipeline_tag"] == "image-text-to-text"
    every, own = (sum(weight.numel() for weight in part.parameters()) for part in (model, model.text))
    assert f"{every:,} parameters" in text and f"{every - own:,} are an image encoder and adapters" in text
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 1
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    assert any("another model" in problem or "taps" in problem for problem in check(tmp_path / "out"))


def test_a_plain_directory_is_known_for_what_it_is(seeing: Artifact, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.model"):
        (tmp_path / name).write_bytes((seeing.path / name).read_bytes())
    assert read_any(tmp_path).kind == "vision_model" and seeing.kind == "vision_model"
