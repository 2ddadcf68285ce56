"""Models that listen, on disk: the text model's own directory, with what listens in two files beside it.

Tools for text read the text model out of such a directory as if nothing else were there. `speech.json` holds shapes, token ids
and the statistics of the training sound; `speech_adapter.safetensors` encoder, adapter and the embeddings of the special tokens.
An encoder by itself (kind `speech_encoder`) is `speech_encoder.json` and `speech_encoder.safetensors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from puna.core.errors import InputError
from puna.model.checkpoint import check_state, load_model, read_json, read_weights, save_model, write_json
from puna.model.llama import Llama
from puna.model.weight_file import COPY_AGAIN
from puna.post.checkpoints import weights_digest
from puna.speech.adapter import SpeechAdapterConfig
from puna.speech.encoder import SpeechConfig, SpeechEncoder
from puna.speech.features import MelConfig
from puna.speech.frames import SoundShape
from puna.speech.model import SpeechLlama, SpeechTokens
from puna.tokenizer.bpe import MODEL_FILE, Tokenizer

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CONFIG, WEIGHTS = "speech.json", "speech_adapter.safetensors"
ENCODER_CONFIG, ENCODER_WEIGHTS = "speech_encoder.json", "speech_encoder.safetensors"
TEXT_PREFIX = "text."

Described = TypeVar("Described", bound="DataclassInstance")


def save_speech(model: SpeechLlama, directory: str | Path, *, tokenizer: Tokenizer | None = None) -> None:
    """Write a model that listens, every tensor in the precision it has.

    Args:
        tokenizer: its files are written beside.

    InputError for a tokenizer with another vocabulary or other speech tokens.
    """
    directory = Path(directory)
    if tokenizer is not None:
        check_tokens(model.tokens, tokenizer, str(directory))
    save_model(model.text, directory, tokenizer=tokenizer)
    _write_weights({name: w for name, w in model.state_dict().items() if not name.startswith(TEXT_PREFIX)}, directory / WEIGHTS)
    described = {
        "encoder": asdict(model.encoder.config), "adapter": asdict(model.adapter.config), "tokens": asdict(model.tokens),
        "sound": asdict(model.sound), "text_digest": weights_digest(model.text),
    }  # fmt: skip
    write_json(directory / CONFIG, described)


def load_speech(
    directory: str | Path, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> SpeechLlama:  # fmt: skip
    """The model of a directory that `save_speech` wrote, its text part frozen.

    Args:
        dtype: what weights are cast to; None keeps what is stored.

    Raises InputError for a text model, another tokenizer or other text weights than at the time of writing, damaged files, and
    tensors that are missing, surplus or of another shape.
    """
    directory = Path(directory)
    if not is_speech(directory):
        raise InputError("this is no model that listens", where=str(directory), fix="give one that speech.listen made")
    found = read_json(directory / CONFIG)
    where = str(directory / CONFIG)
    encoder, adapter = _read(SpeechConfig, found, "encoder", where), _read(SpeechAdapterConfig, found, "adapter", where)
    tokens, sound = _read(SpeechTokens, found, "tokens", where), _sound(found, where)
    if (directory / MODEL_FILE).is_file():
        check_tokens(tokens, Tokenizer.load(directory), str(directory))
    text = load_model(directory, dtype=None)
    if weights_digest(text) != found.get("text_digest"):
        raise InputError("the text weights are not those that the adapter learnt with", where=str(directory),
                         fix="put the files of one save together")  # fmt: skip
    with torch.device("meta"):
        model = SpeechLlama(Llama(text.config, seed=None), encoder, adapter, tokens, sound=sound, seed=None)
    model.swap(text)
    _fill(model, directory / WEIGHTS, "a model that listens", but=TEXT_PREFIX)
    return model.to(device=device, dtype=dtype)


def is_speech(directory: str | Path) -> bool:
    """Whether a directory holds a model that listens."""
    return (Path(directory) / CONFIG).is_file()


def check_tokens(tokens: SpeechTokens, tokenizer: Tokenizer, where: str) -> None:
    """InputError unless the tokenizer's speech tokens are the model's."""
    if tokens != speech_tokens(tokenizer):
        raise InputError("the model's speech tokens are not the tokenizer's", where=where,
                         fix="put the tokenizer back that the model was trained with")  # fmt: skip


def speech_tokens(tokenizer: Tokenizer) -> SpeechTokens:
    """The ids of the tokens around speech and of its placeholder."""
    return SpeechTokens(tokenizer.speech_start_id, tokenizer.speech_end_id, tokenizer.speech_id)


@dataclass(frozen=True)
class TrainedEncoder:
    """An encoder by itself, with what its training data were normalised by."""

    encoder: SpeechEncoder
    sound: SoundShape


def save_encoder(trained: TrainedEncoder, directory: Path) -> None:
    """Write an encoder."""
    write_json(directory / ENCODER_CONFIG, {"encoder": asdict(trained.encoder.config), "sound": asdict(trained.sound)})
    _write_weights(trained.encoder.state_dict(), directory / ENCODER_WEIGHTS)


def load_encoder(directory: Path) -> TrainedEncoder:
    """Read an encoder, float32; InputError for a directory that holds none."""
    if not (directory / ENCODER_CONFIG).is_file():
        raise InputError("this is no speech encoder", where=str(directory), fix="give a speech.pretrain stage")
    found, where = read_json(directory / ENCODER_CONFIG), str(directory / ENCODER_CONFIG)
    config, sound = _read(SpeechConfig, found, "encoder", where), _sound(found, where)
    with torch.device("meta"):
        encoder = SpeechEncoder(config)
    _fill(encoder, directory / ENCODER_WEIGHTS, "a speech encoder")
    return TrainedEncoder(encoder.float().requires_grad_(), sound)


def _write_weights(state: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: weight.detach().cpu().contiguous() for name, weight in state.items()}, path, metadata={"format": "pt"})


def _fill(model: nn.Module, path: Path, what: str, but: str | None = None) -> None:
    """Give a network on `meta` the weights of a file; those whose names begin with `but` it has already."""
    due = {name: w for name, w in model.state_dict().items() if but is None or not name.startswith(but)}
    state = read_weights(path)
    check_state(due, state, path.parent, what)
    model.load_state_dict(state, strict=False, assign=True)


def _sound(found: Mapping[str, Any], where: str) -> SoundShape:
    entry = found.get("sound")
    if not isinstance(entry, dict):
        raise InputError("there is no entry 'sound'", where=where, fix=COPY_AGAIN)
    mel = _read(MelConfig, entry, "mel", where)
    mean, std = entry.get("mean_M"), entry.get("std_M")
    if not all(isinstance(each, list) and all(type(value) is float for value in each) for each in (mean, std)):
        raise InputError("'sound' does not hold lists mean_M and std_M of numbers", where=where, fix=COPY_AGAIN)
    return SoundShape(mel, tuple(mean), tuple(std))  # type: ignore[arg-type]


def _read(kind: type[Described], found: Mapping[str, Any], name: str, where: str) -> Described:
    """A configuration out of its entry; InputError unless it has its fields, all of them numbers or null."""
    entry, due = found.get(name), {field.name for field in fields(kind)}
    whole = isinstance(entry, dict) and entry.keys() == due
    if not whole or not all(type(value) in (int, float, type(None)) for value in entry.values()):  # type: ignore[union-attr]
        raise InputError(f"'{name}' does not hold numbers called {', '.join(sorted(due))}", where=where, fix=COPY_AGAIN)
    return kind(**entry)  # type: ignore[arg-type]
