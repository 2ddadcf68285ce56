"""Pre-training (section 3.4.1): next-token prediction on the mixed token stream, with warm-up, decay and batch ramp as data.

The embedded recipe uses Muon and warm-up / stable / decay because they learn its small language in minutes; the paper's own
recipe (AdamW, peak 8e-5, 8,000 warm-up steps, cosine to 8e-7, 4M tokens ramped to 16M) is the same file with other numbers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from puna.core.errors import InputError
from puna.core.settings import Settings as BaseSettings
from puna.core.settings import execution
from puna.core.stage import StageContext
from puna.model.config import SPECIAL_SLOTS, ModelConfig, ffn_width, preset
from puna.train.corpus import Corpus, held_losses, open_corpus
from puna.train.loop import TrainResult, train
from puna.train.meter import Measuring
from puna.train.objectives import CrossEntropy
from puna.train.optim import OptimSettings
from puna.train.parallel.layout import Layout, Precision
from puna.train.preview import previews
from puna.train.ranks import on_ranks
from puna.train.schedule import Batching, LearningRate, Phase, Schedule, check_rows

if TYPE_CHECKING:
    from puna.model.llama import Llama
    from puna.train.parallel.meshes import Meshes
    from puna.train.parallel.placed import Placed

KIND = "model"
REVISION = 5


class ModelShape(BaseSettings):
    """Shape of a new model; `ffn_dim` None is 8/3 of `dim` rounded up to 32, `max_seq_len` None the longest trained row."""

    layers: PositiveInt
    dim: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    ffn_dim: PositiveInt | None = None
    head_dim: PositiveInt | None = None
    rope_theta: PositiveFloat = 10_000.0
    norm_eps: PositiveFloat = 1e-5
    tied: bool = False
    max_seq_len: PositiveInt | None = None

    @model_validator(mode="after")
    def _fits(self) -> ModelShape:
        try:
            self.config(vocab_size=SPECIAL_SLOTS, seq_len=1)  # the same checks as of a whole configuration
        except InputError as error:
            raise ValueError(error.what) from error
        return self

    def config(self, vocab_size: int, seq_len: int) -> ModelConfig:
        """The model configuration for a vocabulary and a longest row."""
        own = self.model_dump(include=set(ModelShape.model_fields))
        shape = own | {"ffn_dim": self.ffn_dim or ffn_width(self.dim), "max_seq_len": self.max_seq_len or seq_len}
        return ModelConfig(vocab_size=vocab_size, **shape)


class Watching(BaseSettings):
    """What is measured while a model trains, and how often it is saved."""

    log_every: PositiveInt = 10
    evaluate_every: NonNegativeInt = 200
    held_rows: PositiveInt = 16  # rows per held-out group in each evaluation
    previews: tuple[str, ...] = ()
    preview_tokens: NonNegativeInt = 24
    checkpoint_seconds: NonNegativeFloat = execution(20.0)
    device: str = execution("cpu")
    profile_steps: tuple[NonNegativeInt, PositiveInt] | None = execution(None)  # first step and number of steps to trace
    peak_tflops: PositiveFloat | None = execution(None)  # of one device, for the utilisation; None: known or measured

    def measuring(self) -> Measuring:
        """What the loop measures of its speed."""
        return Measuring(self.peak_tflops, self.profile_steps)


class Settings(BaseSettings):
    """Settings of `train.pretrain`.

    `model` is a shape, a preset's name, or None to continue the model among the inputs. `phases` ramps batch, length or mix
    after a number of tokens. `loss_chunk` bounds the positions whose logits exist at once, `micro_rows` the rows run at once.
    With `piece_tokens`, documents are cut at line ends into pieces of about that many tokens, each a document of its own.
    `precision` is that of the products; `parallel` lays the model out over processes.
    """

    model: ModelShape | str | None = None
    steps: PositiveInt
    batch_tokens: PositiveInt = 1024
    seq_len: PositiveInt = 128
    piece_tokens: PositiveInt | None = None
    mix: dict[str, NonNegativeFloat] | None = None
    optim: OptimSettings = OptimSettings(name="muon", lr=7e-3)
    lr: LearningRate = LearningRate()
    phases: tuple[Phase, ...] = ()
    micro_rows: PositiveInt | None = None
    loss_chunk: PositiveInt | None = None
    precision: Precision = "fp32"
    watch: Watching = Watching()
    parallel: Layout = execution(Layout())

    @model_validator(mode="after")
    def _check(self) -> Settings:
        check_rows(self.batch_tokens, self.seq_len, self.phases)
        return self

    @field_validator("model")
    @classmethod
    def _known(cls, value: ModelShape | str | None) -> ModelShape | str | None:
        if isinstance(value, str):
            try:
                preset(value)
            except InputError as error:
                raise ValueError(f"{error.what} ({error.fix})") from error
        return value

    def schedule(self) -> Schedule:
        """The whole run as a function of the step."""
        batching = Batching(batch_tokens=self.batch_tokens, seq_len=self.seq_len, mix=self.mix)
        return Schedule(steps=self.steps, lr=self.lr, phases=self.phases, batching=batching)

    def token_parts(self) -> list[tuple[int, int, int]]:
        """(tokens, row length, tokens of a step) of each stretch with one batching: what a plan counts."""
        schedule = self.schedule()
        ends = [*(start for start, _ in schedule.segments[1:]), self.steps]
        return [((end - start) * batching.rows * batching.seq_len, batching.seq_len, batching.rows * batching.seq_len)
                for (start, batching), end in zip(schedule.segments, ends, strict=True)]  # fmt: skip


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Train a new model (or go on with the one among the inputs) on the `tokens` input."""
    return on_ranks(_train, settings, ctx)


def _train(settings: Settings, ctx: StageContext, meshes: Meshes | None) -> dict[str, Any]:
    corpus = open_corpus(ctx.inputs.one("tokens").path, settings.piece_tokens)
    schedule = settings.schedule()
    longest = max(batching.seq_len for _, batching in schedule.segments)
    model = _start(settings, ctx, corpus, longest, meshes)
    stream = corpus.stream(schedule, ctx.stream_seed("tokens"), micro_rows=settings.micro_rows)
    watcher = Watcher(corpus, settings.watch, settings.seq_len)
    result = train(
        model, CrossEntropy(settings.loss_chunk, stream.names), stream, schedule, settings.optim, ctx, evaluate=watcher,
        evaluate_every=settings.watch.evaluate_every, log_every=settings.watch.log_every,
        checkpoint_seconds=settings.watch.checkpoint_seconds, device=settings.watch.device, precision=settings.precision,
        measuring=settings.watch.measuring(),
    )  # fmt: skip
    write_model(model, ctx, corpus)
    return training_summary(model, result) | {"mix": stream.segments[-1].shares()}


class Watcher:
    """The evaluation of a training stage: held-out loss per group, and previews if prompts are given."""

    def __init__(self, corpus: Corpus, watch: Watching, seq_len: int):
        self.corpus, self.watch = corpus, watch
        self.batches = corpus.held_batches(seq_len, watch.held_rows)

    def __call__(self, model: Any, step: int) -> list[dict[str, Any]]:
        """Metric rows at `step`."""
        losses = held_losses(model, self.batches)
        samples = previews(model, self.corpus.tokenizer, self.watch.previews, self.watch.preview_tokens)
        return [*([losses] if losses else []), *samples]


def placed(model: Llama, meshes: Meshes | None, precision: Precision) -> Llama | Placed:
    """A model laid out over the processes of `meshes`; itself where there are none."""
    from puna.train.parallel.placed import Placed

    return model if meshes is None else Placed(model.config, meshes, weights=dict(model.named_parameters()), precision=precision)


def write_model(model: Llama | Placed, ctx: StageContext, corpus: Corpus) -> None:
    """Write the whole model with its tokenizer, from process 0."""
    from puna.model.checkpoint import save_model
    from puna.model.llama import Llama
    from puna.train.world import World

    whole = model if isinstance(model, Llama) else model.whole()
    if World.current().process == 0 and whole is not None:
        save_model(whole, ctx.out, tokenizer=corpus.tokenizer)


def training_summary(model: Llama | Placed, result: TrainResult) -> dict[str, Any]:
    """The numbers every training stage reports."""
    held = [row for row in result.rows if "held_loss" in row]
    last = {key: value for key, value in held[-1].items() if key.startswith("held_loss")} if held else {}
    return {
        "parameters": model.config.parameters(), "steps": result.steps, "tokens": result.tokens,
        "first_loss": result.first_loss, "loss": result.loss, "skipped_steps": result.skipped,
        "products": result.products, **last,
    }  # fmt: skip


def load_for(ctx: StageContext, corpus: Corpus) -> Llama:
    """The model among the inputs, if it reads the ids of this corpus; InputError otherwise."""
    from puna.model.checkpoint import load_model
    from puna.tokenizer.bpe import Tokenizer

    artifact = ctx.inputs.one("model")
    if Tokenizer.load(artifact.path).digest != corpus.tokenizer.digest:
        raise InputError(
            "the model and the token shards come from different tokenizers",
            where=f"{artifact.path} and {corpus.path}",
            fix="shard the documents with the model's tokenizer",
        )
    return load_model(artifact.path, dequantize=True)  # weights of an FP8 model cannot be trained as they lie


def _start(settings: Settings, ctx: StageContext, corpus: Corpus, longest: int, meshes: Meshes | None) -> Llama | Placed:
    from puna.model.llama import Llama
    from puna.train.parallel.placed import Placed

    model: Llama | Placed
    if ctx.inputs.optional("model") is not None:
        if settings.model is not None:
            ctx.note("continuing the model among the inputs; its shape is kept and the setting `model` is not used")
        model = placed(load_for(ctx, corpus), meshes, settings.precision)
    else:
        if settings.model is None:
            fix = "give `model:` a shape or a preset, or name a model under `from`"
            raise InputError("there is no model to continue", fix=fix)
        shape, seed = _shape(settings.model, corpus.tokenizer.vocab_size, longest), ctx.stream_seed("init")
        model = Llama(shape, seed=seed) if meshes is None else Placed(shape, meshes, seed=seed, precision=settings.precision)
    if longest > model.config.max_seq_len:
        raise InputError(f"rows of {longest} tokens are longer than the model's {model.config.max_seq_len}", where="seq_len",
                         fix="shorten the rows, or extend the model with train.long_context")  # fmt: skip
    return model


def _shape(model: ModelShape | str, vocab_size: int, longest: int) -> ModelConfig:
    if isinstance(model, ModelShape):
        return model.config(vocab_size, longest)
    config = preset(model).with_vocab(vocab_size)
    return replace(config, max_seq_len=max(config.max_seq_len, longest))
