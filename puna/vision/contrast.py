"""Contrastive pre-training of the image encoder (section 7.1.1): of all captions of a step, which belongs to which picture?

InfoNCE both ways over the pairs of a whole optimiser step, those of all processes together: each process compares its own with
all, and takes the others' vectors as given, so that two processes find the gradient of one. Equal captions are no negatives of
each other: generated and templated sets have many. Paper: ViT-H/14, 2.5B pairs five times over at 224 pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from puna.core.errors import InputError
from puna.core.rng import derive_seed
from puna.core.stage import StageContext
from puna.model.config import ModelConfig
from puna.post import adapters, spread
from puna.post.examples import row_length
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Medium
from puna.tokenizer.dialog import Dialog, MessageRow, Task, media_of, read_rows
from puna.train.objectives import beside
from puna.train.packing import Batch, epochs
from puna.train.world import World
from puna.vision.encoder import ImageEncoder
from puna.vision.encoder_files import EncoderShape
from puna.vision.tile_store import OWN_FILES, TileStore
from puna.vision.tiles import ImageShape
from puna.vision.two_towers import TwoTowers, caption_ids, load_scorer, pair_batch, save_towers
from puna.world.pictures import CAPTIONS

if TYPE_CHECKING:
    from puna.train.parallel.meshes import Meshes

__all__ = ["InfoNCE", "Settings", "load_scorer", "run"]

KIND = "image_encoder"
REVISION = 1


class Settings(adapters.Rates):
    """The towers, and how they learn.

    Attributes:
        encoder: shape of the image tower; `global_layers` may be 0 here and come with the adapter, as in the paper.
        text_dim, text_layers, text_heads: of the text tower. width: of the common space.
        pairs_per_step: pairs that are told apart, over all processes.
        captions: capabilities of the rows whose answer is a caption.
        longest: tokens of the longest caption; longer ones are left out and counted.
        held: dev captions that the result is measured on, all against each other.
    """

    encoder: EncoderShape = EncoderShape(global_layers=0)
    text_dim: PositiveInt = 64
    text_layers: PositiveInt = 2
    text_heads: PositiveInt = 4
    width: PositiveInt = 64
    steps: int = Field(200, ge=1)
    pairs_per_step: int = Field(64, ge=2)
    captions: tuple[str, ...] = tuple(sorted({kind for kind, _ in CAPTIONS.values()}))
    longest: PositiveInt = 64
    held: PositiveInt = 64


@dataclass(frozen=True)
class Pair:
    """A caption as ids, and its picture in the folder `root`."""

    ids: tuple[int, ...]
    medium: Medium
    root: Path


class InfoNCE:
    """Cross-entropy of the right caption among all for each picture, and of the right picture for each caption, halved."""

    weights = {"infonce": 1.0}

    def counts(self, batch: Batch) -> dict[str, float]:
        """Pairs; and 1 for the temperature."""
        pairs = float(len(batch.extra["caption_P"]))
        return {"infonce": pairs, "accuracy": pairs, "scale": 1.0}

    def sums(self, model: TwoTowers, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The sum over this process's pairs, with the gradient of the sum over all pairs with respect to its vectors."""
        world = World.current()
        images_PW, texts_PW = model(batch)
        images, texts = gathered(images_PW, world), gathered(texts_PW, world)
        captions = gathered(batch.extra["caption_P"], world)
        share = model.scale / world.processes
        cosines = (share + (model.scale - share).detach()) * images @ texts.T
        own = torch.eye(len(captions), dtype=torch.bool, device=cosines.device)
        cosines = cosines.masked_fill((captions[:, None] == captions) & ~own, -torch.inf)
        right = torch.arange(len(captions), device=cosines.device)
        losses = (F.cross_entropy(cosines, right, reduction="none") + F.cross_entropy(cosines.T, right, reduction="none")) / 2
        mine = slice(world.process * len(images_PW), (world.process + 1) * len(images_PW))
        loss, told = losses.sum(), losses.detach()[mine].sum()
        accuracy = (cosines.argmax(1) == right)[mine].sum()
        return {"infonce": loss - loss.detach() + told}, {"accuracy": accuracy, "scale": model.scale.detach().sum()}


def gathered(mine: Tensor, world: World) -> Tensor:
    """The rows of every process in order; those of others without a gradient. All processes have equally many."""
    if world.processes == 1:
        return mine
    found = [torch.empty_like(mine) for _ in range(world.processes)]
    dist.all_gather(found, mine.detach().contiguous())
    found[world.process] = mine
    return torch.cat(found)


class PairBatches:
    """One batch of pairs a step, a pure function of the step, the seed and the process."""

    def __init__(self, pairs: Sequence[Pair], per_step: int, length: int, seed: int, tiles: TileStore, rank: int, world: int):
        self.pairs, self.per_step, self.length, self.tiles = pairs, per_step, length, tiles
        self.rank, self.world = rank, world
        self._order = epochs(len(pairs), seed)

    def __call__(self, step: int) -> list[Batch]:
        """The batch of `step`: neighbours of the order are on one process, as their vectors come back in its order."""
        share = self.per_step // self.world
        first = step * self.per_step + self.rank * share
        return [batch_of([self.pairs[self._order[first + i]] for i in range(share)], self.length, self.tiles)]


def batch_of(pairs: Sequence[Pair], length: int, tiles: TileStore) -> Batch:
    """Pairs as a batch, their pictures decoded."""
    return pair_batch([pair.ids for pair in pairs], [tiles(pair.medium, pair.root) for pair in pairs], length, tiles.shape)


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Train an encoder on the captions of the `pictures`, with the tokenizer of the `tokenizer` or `model` input."""
    if settings.pairs_per_step % settings.parallel.dp:
        raise InputError(f"{settings.parallel.dp} processes cannot share {settings.pairs_per_step} pairs equally",
                         where="parallel.dp", fix="make pairs_per_step a multiple of it")  # fmt: skip
    return spread.on_ranks(_train, settings, ctx)


def _train(settings: Settings, ctx: StageContext, meshes: Meshes | None) -> dict[str, Any]:
    tokenizer = Tokenizer.load((ctx.inputs.optional("tokenizer") or ctx.inputs.one("model")).path)
    pairs, overlong = read_pairs(tokenizer, settings, ctx, "train")
    if not pairs:
        raise InputError("there is not one picture with a caption to learn from", where=ctx.name,
                         fix=f"captions are answers of rows of capability {', '.join(settings.captions)}")  # fmt: skip
    length = row_length(max(len(pair.ids) for pair in pairs), settings.longest)
    text = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=settings.text_dim, layers=settings.text_layers, heads=settings.text_heads,
        kv_heads=settings.text_heads, ffn_dim=4 * settings.text_dim, max_seq_len=settings.longest, tied=True,
    )  # fmt: skip
    model = TwoTowers(ImageEncoder(settings.encoder.config()), text, settings.width, seed=ctx.stream_seed("weights"))
    config = model.encoder.config
    tiles = TileStore(ImageShape(config.tile, config.max_tiles), OWN_FILES, frames=1, limit=settings.cache_mb << 20)
    seed = derive_seed(ctx.seed, "vision.contrast")
    batches = PairBatches(pairs, settings.pairs_per_step, length, seed, tiles, **spread.share())
    result = adapters.optimise(model, InfoNCE(), batches, settings.steps, settings, ctx)
    held, _ = read_pairs(tokenizer, settings, ctx, "dev")
    found = retrieval(model.eval(), held[: settings.held], length, tiles)
    if World.current().process == 0:
        save_towers(model.cpu(), ctx.out, tokenizer)
    return {
        "pairs": len(pairs),
        "overlong": overlong,
        "steps": result.steps,
        "first_loss": result.first_loss,
        "loss": result.loss,
        "scale": round(float(model.scale.detach()), 4),
        **found,
    }


def read_pairs(tokenizer: Tokenizer, settings: Settings, ctx: StageContext, split: str) -> tuple[list[Pair], int]:
    """The captioned pictures of a split, and how many captions were too long."""
    found, overlong = [], 0
    for artifact in ctx.inputs.all("pictures"):
        for kind, messages in _rows(artifact.path / f"{split}.jsonl", split):
            media = media_of(messages)
            if kind not in settings.captions or [medium.kind for medium in media] != ["image"]:
                continue
            ids = caption_ids(tokenizer, messages[-1].content)
            if len(ids) > settings.longest:
                overlong += 1
                continue
            found.append(Pair(tuple(ids), media[0], artifact.path))
    return found, overlong


def _rows(path: Path, split: str) -> Iterator[tuple[str, list[MessageRow]]]:
    """Kind and messages of each row with an answer, one at a time: of dialogs, or of tasks with a worked one."""
    if split == "train":
        yield from ((row.capability, row.messages) for row in read_rows(path, Dialog))
        return
    for task in read_rows(path, Task):
        gold = task.gold_messages()
        if gold:
            yield task.family, [*task.prompt, *gold]


@torch.no_grad()
def retrieval(model: TwoTowers, pairs: Sequence[Pair], length: int, tiles: TileStore) -> dict[str, Any]:
    """How often the caption nearest to a held-out picture is its own, among `n` different captions; chance is 1 in n."""
    different = list({pair.ids: pair for pair in pairs if len(pair.ids) <= length}.values())
    if not different:
        return {"retrieval": None, "retrieval_n": 0}
    images, texts = model(beside(model, batch_of(different, length, tiles)))
    right = (images @ texts.T).argmax(1).cpu() == torch.arange(len(different))
    return {"retrieval": round(float(right.float().mean()), 6), "retrieval_n": len(different)}
