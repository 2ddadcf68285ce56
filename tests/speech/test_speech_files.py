"""Models that listen on disk: what was written comes back to the bit, the text model is there for text tools, damage is named."""

import json
from pathlib import Path

import pytest
import torch
from speech_toys import listening, toy_tokenizer

from puna.core.errors import InputError
from puna.model.checkpoint import load_model
from puna.speech.encoder import SpeechConfig, SpeechEncoder
from puna.speech.features import MelConfig, log_mel
from puna.speech.files import TrainedEncoder, is_speech, load_encoder, load_speech, save_encoder, save_speech
from puna.speech.frames import SoundShape, frames_of, measured
from puna.tokenizer.bpe import Tokenizer


def wave(seconds: float, seed: int = 0) -> torch.Tensor:
    return torch.randn(int(16_000 * seconds), generator=torch.Generator().manual_seed(seed)) * 0.1


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    model = listening(sound=measured([log_mel(wave(1.0, seed)) for seed in range(3)]))
    save_speech(model, tmp_path, tokenizer=toy_tokenizer())
    found = load_speech(tmp_path)
    assert is_speech(tmp_path) and found.sound == model.sound and found.tokens == model.tokens
    assert (found.encoder.config, found.adapter.config) == (model.encoder.config, model.adapter.config)
    want = model.state_dict()
    assert found.state_dict().keys() == want.keys()
    assert all(torch.equal(weight, want[name]) for name, weight in found.state_dict().items())
    assert not any(weight.requires_grad for weight in found.text.parameters())
    assert load_speech(tmp_path, dtype=torch.bfloat16).marks.dtype == torch.bfloat16
    frames = found.frames_of(wave(0.5, 9))
    assert torch.equal(frames, model.frames_of(wave(0.5, 9)))
    counts = torch.tensor([len(frames)])
    assert torch.equal(found.listen(frames[None], counts), model.listen(frames[None], counts))


def test_text_tools_read_the_text_model(tmp_path: Path) -> None:
    model = listening()
    save_speech(model, tmp_path, tokenizer=toy_tokenizer())
    text, ids = load_model(tmp_path), torch.arange(10)[None]
    assert torch.equal(text(ids), model.text(ids)) and torch.equal(text(ids), load_speech(tmp_path)(ids))
    assert Tokenizer.load(tmp_path).digest == toy_tokenizer().digest


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model that listens"):
        load_speech(tmp_path)
    save_speech(listening(), tmp_path, tokenizer=toy_tokenizer())
    whole = (tmp_path / "speech.json").read_text()

    def refused(match: str, change: object) -> None:
        found = json.loads(whole)
        change(found)
        (tmp_path / "speech.json").write_text(json.dumps(found))
        with pytest.raises(InputError, match=match):
            load_speech(tmp_path)

    refused("'encoder' does not hold", lambda found: found["encoder"].pop("dim"))
    refused("'adapter' does not hold", lambda found: found["adapter"].update(dim="wide"))
    refused("has shape", lambda found: found["encoder"].update(ffn_dim=64))
    refused("mean_M", lambda found: found["sound"].update(mean_M=None))
    refused("one number for each channel", lambda found: found["sound"].update(mean_M=[0.0]))
    refused("not the tokenizer's", lambda found: found["tokens"].update(placeholder=3))
    refused("not those that the adapter learnt with", lambda found: found.update(text_digest="0" * 32))
    (tmp_path / "speech.json").write_text(whole)
    weights = tmp_path / "speech_adapter.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(InputError, match="cannot be read"):
        load_speech(tmp_path)


def test_an_encoder_by_itself(tmp_path: Path) -> None:
    encoder = SpeechEncoder(SpeechConfig(dim=16, layers=1, heads=2, ffn_dim=24, chunk=4))
    encoder.init_weights(torch.Generator().manual_seed(1))
    sound = measured([log_mel(wave(0.5))])
    save_encoder(TrainedEncoder(encoder, sound), tmp_path)
    found = load_encoder(tmp_path)
    assert found.sound == sound and found.encoder.config == encoder.config
    assert all(torch.equal(weight, encoder.state_dict()[name]) for name, weight in found.encoder.state_dict().items())
    with pytest.raises(InputError, match="no speech encoder"):
        load_encoder(tmp_path / "elsewhere")


def test_frames_have_mean_0_and_deviation_1_over_the_training_data() -> None:
    recordings = [log_mel(wave(0.3 + 0.2 * seed, seed)) for seed in range(4)]
    sound = measured(recordings)
    together = torch.cat([frames_of(wave(0.3 + 0.2 * seed, seed), sound) for seed in range(4)])
    assert together.mean(0).abs().max() < 1e-4 and (together.std(0, correction=0) - 1).abs().max() < 1e-4
    assert torch.equal(frames_of(wave(0.3), SoundShape()), log_mel(wave(0.3)))
    with pytest.raises(InputError, match="no sound"):
        measured([])
    still = measured([torch.zeros(3, 80)])
    assert torch.isfinite(frames_of(torch.zeros(800), still)).all()
    with pytest.raises(InputError, match="channels"):
        listening(sound=SoundShape(MelConfig(channels=40)))
