"""A frozen text model learns to listen (section 8.3): encoder, adapter and two special tokens, on dialogs with sounds.

The encoder is that of `speech.pretrain` where there is one, else it is drawn anew. What is wanted of a sound is said by the
system prompt, so one model transcribes, translates and answers; what the text model can do with text it does with speech, learnt
or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from puna.core.errors import InputError
from puna.core.stage import Artifact, StageContext
from puna.post import spread
from puna.post.adapters import opened_text
from puna.speech import fit
from puna.speech.encoder import SpeechConfig
from puna.speech.files import TrainedEncoder, load_encoder, speech_tokens
from puna.speech.fit import Learner
from puna.speech.model import SpeechLlama
from puna.speech.shapes import AdapterShape, EncoderShape
from puna.tokenizer.dialog import Dialog

if TYPE_CHECKING:
    from puna.train.parallel.meshes import Meshes

KIND = "speech_model"
REVISION = 1


class Settings(fit.Settings):
    """What is built, and how it learns.

    Attributes:
        encoder: its shape; with a `speech_encoder` input, that encoder's.
        adapter: its shape.
    """

    encoder: EncoderShape = EncoderShape()
    adapter: AdapterShape = AdapterShape()


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Put an encoder and an adapter around the `model` input and train both on the `sounds`."""
    return spread.on_ranks(_train, settings, ctx, rows=settings.batch_rows)


def _train(settings: Settings, ctx: StageContext, meshes: Meshes | None) -> dict[str, Any]:
    sounds, recordings = fit.sounds_of(ctx), fit.recordings_for(settings)
    text, tokenizer, artifact, frozen = opened_text(ctx)
    known = ctx.inputs.optional("speech_encoder")
    trained = None if known is None else _encoder_of(known, settings.encoder.config())
    shape = trained.sound if trained else fit.shape_of(fit.heard_in(sounds, "train", Dialog), recordings, settings, ctx)
    model = SpeechLlama(
        text, settings.encoder.config(), settings.adapter.config(), speech_tokens(tokenizer), sound=shape,
        seed=ctx.stream_seed("weights"),
    )  # fmt: skip
    if trained is not None:
        model.encoder.load_state_dict(trained.encoder.state_dict())
    sizes = {part: sum(w.numel() for w in getattr(model, part).parameters()) for part in ("encoder", "adapter", "text")}
    parents = [artifact] if known is None else [artifact, known]
    return {"parameters": sizes, **fit.fit(Learner(model, tokenizer, frozen, parents, sounds, recordings), settings, ctx, meshes)}


def _encoder_of(source: Artifact, wanted: SpeechConfig) -> TrainedEncoder:
    """A trained encoder; InputError where `encoder` asks for another shape."""
    trained = load_encoder(source.path)
    if trained.encoder.config != wanted:
        raise InputError("the speech encoder has another shape than `encoder` asks for",
                         where=f"{source.name}: {trained.encoder.config}", fix="write its numbers under `encoder`")  # fmt: skip
    return trained
