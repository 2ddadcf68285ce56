"""The directory of a speech-out model: tagger, prosody model, and the lower half of the text model they read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from puna.core.errors import InputError
from puna.model.checkpoint import load_model, save_model
from puna.speech.out.prosody_model import ProsodyModel, ProsodyShape
from puna.speech.out.states import MiddleStates
from puna.speech.out.tagger import Tagger, TaggerShape
from puna.tokenizer.bpe import Tokenizer

CONFIG, WEIGHTS, TEXT = "speech_out.json", "speech_out.safetensors", "text"
PARTS = ("tagger", "prosody")


@dataclass(frozen=True)
class SpeechOut:
    """What reads a text before it is spoken."""

    states: MiddleStates
    tagger: Tagger
    prosody: ProsodyModel


def save_speech_out(models: SpeechOut, directory: Path) -> None:
    """Write the models; of the text model only the layers that are read."""
    shapes = {part: asdict(getattr(models, part).shape) for part in PARTS}
    (directory / CONFIG).write_text(json.dumps({"layer": models.states.layer, **shapes}, indent=1, sort_keys=True) + "\n")
    weights = {
        f"{part}.{name}": weight.detach().cpu().contiguous()
        for part in PARTS
        for name, weight in getattr(models, part).state_dict().items()
    }
    save_file(weights, directory / WEIGHTS)
    save_model(models.states.lower(), directory / TEXT, tokenizer=models.states.tokenizer)


def load_speech_out(directory: Path) -> SpeechOut:
    """Read the models, float32 on the CPU; InputError for a directory that holds none or one that does not fit together."""
    from puna.model.checkpoint import check_state, read_weights

    try:
        found = json.loads((directory / CONFIG).read_text())
        tagger, prosody = Tagger(TaggerShape(**found["tagger"])), ProsodyModel(ProsodyShape(**found["prosody"]))
        layer = int(found["layer"])
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(
            f"this is no speech-out model: {CONFIG} is missing or damaged",
            where=str(directory),
            fix="give what a speech.speak stage made",
        ) from None
    state = read_weights(directory / WEIGHTS)
    for part, model in (("tagger", tagger), ("prosody", prosody)):
        own = {name.removeprefix(f"{part}."): weight for name, weight in state.items() if name.startswith(f"{part}.")}
        check_state(model.state_dict(), own, directory, "a speech-out model")
        model.load_state_dict(own)
    text = load_model(directory / TEXT, dtype=torch.float32)
    return SpeechOut(MiddleStates(text, Tokenizer.load(directory / TEXT), layer), tagger.eval(), prosody.eval())
