"""What the adapter stages of section 7 have in common: which parts learn, on which rows, and what each stage must show.

Encoder and adapter learn together (section 7.4), and all they add up is float32 (`puna.post.adapters`): pictures enter at every
cross-attention layer, and the paper found accumulation in BF16 to be unstable. The gates are in the metrics; a gate that stays
near 0 is an adapter that does not learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from puna.core.errors import InputError
from puna.core.rng import derive_seed
from puna.core.settings import execution
from puna.core.stage import Artifact, StageContext
from puna.model.llama import Llama
from puna.post import checkpoints, spread
from puna.post.adapters import Rates, free, optimise
from puna.post.frozen import FrozenText, text_prompts
from puna.post.gate import Verdict, write_verdict
from puna.tokenizer.bpe import Tokenizer
from puna.train.objectives import CrossEntropy
from puna.train.world import World
from puna.vision.dev import judged, questions
from puna.vision.gates import Gates, gates_of
from puna.vision.hf import image_shape_of, load_vision, save_vision
from puna.vision.model import VisionLlama
from puna.vision.rows import Form, MediaBatches, MediaRows, Sees
from puna.vision.sharded import ShardedSight
from puna.vision.tile_store import OWN_FILES, TileStore
from puna.vision.tiles import ImageShape

if TYPE_CHECKING:
    from puna.train.parallel.meshes import Meshes

SHAPE = ("vocab_size", "dim", "layers", "heads", "kv_heads", "ffn_dim", "head_size", "tied")  # shared by text models swapped

Part = Literal["encoder", "adapter", "video"]


class Settings(Rates):
    """How long, and on what.

    Attributes:
        batch_tokens: tokens of a step over all processes.
        length: tokens of a packed row; None is the shortest power of two times 128 that holds the longest row.
        micro_rows: rows of a forward pass (None: all of a step that a process has).
        frames: frames of a video that does not say how many.
        shard: cut the weights over the processes of `parallel` (FSDP) instead of keeping a copy in each.
        form: rows as dialogs, or captions alone as documents (`puna.vision.picture_rows.encode_pair`), for a text model that has
            seen no dialog yet.
        dev: dev questions that the result is judged on, 0 for none.
        seed_offset: another order of the same data, for variants to average; `variant` is a label for the report.
    """

    steps: int = Field(200, ge=1)
    batch_tokens: PositiveInt = 2048
    length: PositiveInt | None = None
    micro_rows: PositiveInt | None = None
    frames: PositiveInt = 16
    shard: bool = execution(False)
    form: Form = "dialogs"
    dev: NonNegativeInt = 500
    seed_offset: int = 0
    variant: str = ""


@dataclass
class Learner:
    """A model that sees, as a stage trains it.

    Attributes:
        frozen: what its text model was known by before.
        parents: the artifacts it is made of, a model that saw before first.
    """

    model: VisionLlama
    tokenizer: Tokenizer
    frozen: FrozenText
    parents: list[Artifact]

    @property
    def shape(self) -> ImageShape:
        """How its pictures are cut."""
        return image_shape_of(self.model, self.parents[0].path if self.parents else None)


def opened(ctx: StageContext, artifact: Artifact) -> Learner:
    """A `vision_model`, with what its text model is known by."""
    model, tokenizer = load_vision(artifact.path).eval(), Tokenizer.load(artifact.path)
    prompts = text_prompts(tokenizer, ctx, model.config.max_seq_len)
    return Learner(model, tokenizer, FrozenText.of(model.text, prompts), [artifact])


def swapped(learner: Learner, text: Llama, tokenizer: Tokenizer, source: Artifact, frozen: FrozenText) -> Learner:
    """The model around another text model, the one of `source`, known by `frozen`.

    InputError if that text model has another shape or another tokenizer.
    """
    model = learner.model
    same = all(getattr(text.config, name) == getattr(model.config, name) for name in SHAPE)
    if tokenizer.digest != learner.tokenizer.digest or not same:
        raise InputError("the text model has another shape or another tokenizer than the one inside",
                         where=f"{source.name} and {learner.parents[0].name}",
                         fix="take one that was trained on from the text model the adapter learnt with")  # fmt: skip
    model.swap(text)
    return Learner(model, tokenizer, frozen, [*learner.parents, source])


def tiles_for(learner: Learner, frames: int, cache_mb: int) -> TileStore:
    """What decodes media for this model: so many frames of a video that does not say how many."""
    video = learner.model.video
    rules = replace(OWN_FILES, max_frames=video.config.frames if video else 1)
    return TileStore(learner.shape, rules, frames=frames, limit=cache_mb << 20)


def longest_row(learner: Learner, settings: Settings) -> int:
    """Tokens of the longest row that is trained on."""
    return min(settings.length or learner.model.config.max_seq_len, learner.model.config.max_seq_len)


def fit(
    learner: Learner, learns: Sequence[Part], settings: Settings, ctx: StageContext, meshes: Meshes | None, sees: Sees = "images"
) -> dict[str, Any]:  # fmt: skip
    """Train the parts `learns` of a model on the train rows, judge it, prove that its text is as it was, and write it."""
    model, tokenizer, pictures = learner.model, learner.tokenizer, ctx.inputs.all("pictures")
    if not pictures:
        raise InputError("there are no pictures to learn from", where=ctx.name, fix="name a `pictures` stage under `from`")
    tiles, scratch = tiles_for(learner, settings.frames, settings.cache_mb), ctx.scratch / f"rows{World.current().process or ''}"
    limit = longest_row(learner, settings)
    rows = MediaRows(tokenizer, pictures, "train", limit, scratch, tiles=tiles, sees=sees, form=settings.form)
    seed, tokens = derive_seed(ctx.seed, "vision", settings.seed_offset), max(settings.batch_tokens, rows.row_length)
    batches = MediaBatches(rows, rows.row_length, tokens, seed, micro_rows=settings.micro_rows, **spread.share())
    free(model, settings.learning(learns))
    place = ShardedSight(model, meshes, settings.precision) if settings.shard and meshes is not None else model
    result = optimise(place, Gates(CrossEntropy(), model), batches, settings.steps, settings, ctx)
    if isinstance(place, ShardedSight):
        learner.model = model = place.copy().to(settings.device)
    left = rows.left()
    if left.overlong or left.empty or left.other:
        ctx.note(f"{left.text(len(rows), rows.row_length)}; {left.other} have other media than {sees}")
    asked = questions(pictures, tokenizer, model.config.max_seq_len, sees, settings.dev, settings.form)
    return {
        "rows": len(rows),
        "left": vars(left),
        "row_length": rows.row_length,
        "variant": settings.variant,
        "steps": result.steps,
        "tokens": result.tokens,
        "first_loss": result.first_loss,
        "loss": result.loss,
        "products": result.products,
        **finish(learner, judged(model, asked, tokenizer, tiles), ctx),
    }


def finish(learner: Learner, verdict: Verdict, ctx: StageContext) -> dict[str, Any]:
    """Prove that the text model is as it was, then write the model and its verdict.

    The proof is asked where the fingerprint was taken, on the CPU: another device rounds logits otherwise.
    """
    model = learner.model.cpu().eval()
    proof = learner.frozen.check(model.text, model, ctx)
    write_verdict(verdict, ctx.out)
    write(learner, ctx)
    return {"dev": verdict.summary(), "frozen_text": proof, "gates": gates_of(model)}


def write(learner: Learner, ctx: StageContext) -> None:
    """The model and what it descends from, from process 0."""
    if World.current().process == 0:
        save_vision(learner.model.cpu(), ctx.out, tokenizer=learner.tokenizer, image_shape=learner.shape)
        checkpoints.write_ancestors(ctx, learner.parents)
