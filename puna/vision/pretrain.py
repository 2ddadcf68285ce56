"""Adapter pre-training (section 7.3): an image encoder and cross-attention layers learn to speak through a frozen text model.

The encoder is that of `vision.contrast` where there is one, with gated global layers put on top, else it is drawn anew. Paper: 6B
pairs, at most four tiles of 336 pixels, batch 16,384, cosine from 10e-4, weight decay 0.01. Encoder and adapter both learn.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeFloat, PositiveInt

from puna.core.errors import InputError
from puna.core.stage import Artifact, StageContext
from puna.post import adapters, spread
from puna.vision import fit
from puna.vision.config import AdapterConfig, cross_places
from puna.vision.encoder import ImageEncoder
from puna.vision.encoder_files import EncoderShape, load_encoder
from puna.vision.fit import Learner
from puna.vision.hf import check_sayable
from puna.vision.model import VisionLlama
from puna.vision.resize import resized

if TYPE_CHECKING:
    from puna.train.parallel.meshes import Meshes

KIND = "vision_model"
REVISION = 1


class Settings(fit.Settings):
    """What is built, and how it learns.

    Attributes:
        encoder: its shape; with an `image_encoder` input all but tile, taps and global layers must be those of that encoder.
        cross_layers: cross-attention layers, placed as Meta's schedule says (paper: one to four text layers).
        gate: where their gates start (paper: 0, which changes nothing at first).
    """

    encoder: EncoderShape = EncoderShape()
    cross_layers: PositiveInt = 8
    gate: NonNegativeFloat = 0.0


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Put an encoder and an adapter around the `model` input and train both on the `pictures`."""
    return spread.on_ranks(_train, settings, ctx)


def _train(settings: Settings, ctx: StageContext, meshes: Meshes | None) -> dict[str, Any]:
    text, tokenizer, artifact, frozen = adapters.opened_text(ctx)
    adapter = AdapterConfig(cross_places(text.config.layers, settings.cross_layers), image_id=tokenizer.image_id)
    model = VisionLlama(text, settings.encoder.config(), adapter, seed=ctx.stream_seed("weights"), gate=settings.gate)
    check_sayable(model, ctx.out, tokenizer)
    parents, known = [artifact], ctx.inputs.optional("image_encoder")
    if known is not None:
        take_encoder(model, load_encoder(known.path), known)
        parents.append(known)
    sizes = {part: sum(w.numel() for w in getattr(model, part).parameters()) for part in ("encoder", "adapter", "text")}
    learner = Learner(model, tokenizer, frozen, parents)
    return {"parameters": sizes, **fit.fit(learner, ("encoder", "adapter"), settings, ctx, meshes)}


def take_encoder(model: VisionLlama, encoder: ImageEncoder, source: Artifact) -> None:
    """Give `model` the weights of a trained encoder; global layers that it has none of stay as they were drawn."""
    wanted, have = model.encoder.config, encoder.config
    taken = {name: getattr(wanted, name) for name in ("tile", "taps", "taps_at", "attend_padding", "global_layers")}
    if replace(have, **taken) != wanted:
        raise InputError("the image encoder has another shape than `encoder` asks for", where=f"{source.name}: {have}",
                         fix="write its dim, layers, heads, mlp_dim, patch and max_tiles under `encoder`")  # fmt: skip
    state = model.encoder.state_dict() | resized(encoder, wanted.tile).state_dict()
    model.encoder.load_state_dict({name: state[name] for name in model.encoder.state_dict()})
