"""What the processes of `test_vision_ranks.py` do: one step's gradient and a whole stage, as one of two processes or alone."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from vision_toys import ENCODER, FIT, finished, picture_row, pictures, run_stage, text_model, text_row, toy_tokenizer

from puna.core.errors import Preempted
from puna.core.modules import load_stage
from puna.core.stage import Artifact, local_context
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.tokenizer.chat import Medium
from puna.tokenizer.dialog import write_rows
from puna.train.objectives import CrossEntropy, Objective
from puna.train.packing import Batch
from puna.train.place import Whole
from puna.train.world import World
from puna.vision.config import AdapterConfig, cross_places
from puna.vision.contrast import InfoNCE, Pair, PairBatches
from puna.vision.encoder import ImageEncoder
from puna.vision.encoder_files import EncoderShape
from puna.vision.fetch import MediaRules
from puna.vision.model import VisionLlama
from puna.vision.rows import MediaBatches, MediaRows
from puna.vision.tile_store import TileStore
from puna.vision.tiles import ImageShape
from puna.vision.two_towers import TwoTowers, caption_ids

LENGTH = 64  # one row of the toy's dialogs each
STAGE = {**FIT, "encoder": ENCODER, "cross_layers": 2, "gate": 0.5, "batch_tokens": 2 * LENGTH, "steps": 4}
DPO = {"lr": 2e-3, "pairs_per_step": 5, "least_pairs": 1, "evaluate_every": 1, "dev": 3, "ema_every": 1, "passes": 3}
REWARD = {"lr": 2e-3, "pairs_per_step": 5, "least_pairs": 1, "steps": 3, "held": 0.3}
SIZES = {"dim": 16, "layers": 2, "heads": 2, "kv_heads": 1, "ffn_dim": 32, "max_seq_len": 128}


def artifacts(root: Path) -> dict[str, Artifact]:
    """A text model, and rows of which every second is about a picture."""
    shown = root / "shown"
    (shown / "media").mkdir(parents=True)
    rows = [picture_row(shown, i) if i % 2 else text_row(i) for i in range(8)]
    for row in rows:
        row.messages[0].content += " " * 40  # so that no two share a row
    write_rows(shown / "train.jsonl", rows)
    write_rows(shown / "dev.jsonl", [])
    base, pictured = text_model(root / "base"), finished(shown, "pictures", "shown")
    seen = run_stage(root, "vision.pretrain", "seen", [base, pictured], **{**STAGE, "steps": 1})
    return {"base": base, "shown": pictured, "seen": seen, "clips": pictures(root / "clips", train=8, dev=3, videos=6)}


def tiles() -> TileStore:
    return TileStore(ImageShape(16, 2), MediaRules(), frames=1, limit=1 << 20)


def step_gradient(model: torch.nn.Module, objective: Objective, batches: list[Batch]) -> dict[str, Any]:
    """Gradients, the loss, and how many media this process had, the way the loop finds them."""
    world = World.current()
    counts: dict[str, float] = {}
    for batch in batches:
        for name, count in objective.counts(batch).items():
            counts[name] = counts.get(name, 0.0) + count
    counts = world.sum_values(counts)
    place = Whole(model, world, "cpu")
    _, loss = place.backward(objective, batches, {name: weight / counts[name] for name, weight in objective.weights.items()})
    total = world.sum_values({"loss": float(loss)})["loss"]
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return {"gradients": found, "loss": total, "media": [len(batch.extra.get("tiles_I", ())) for batch in batches]}


def captioned(made: dict[str, Artifact], scratch: Path) -> dict[str, Any]:
    """A step of an adapter, of which one process has no picture."""
    world, tokenizer = World.current(), toy_tokenizer()
    text = Llama(ModelConfig(vocab_size=tokenizer.vocab_size, **SIZES), seed=3)
    adapter = AdapterConfig(cross_places(2, 2), image_id=tokenizer.image_id)
    model = VisionLlama(text, EncoderShape(**ENCODER).config(), adapter, seed=5, gate=0.5)
    rows = MediaRows(tokenizer, [made["shown"]], "train", LENGTH, scratch / f"rows{world.process}", tiles=tiles(), sees="images")
    batches = MediaBatches(rows, LENGTH, 2 * LENGTH, 11, rank=world.rank, world=world.size)
    alone = MediaBatches(rows, LENGTH, 2 * LENGTH, 11)
    step = next(step for step in range(20) if alone(step)[0].extra.get("row_M", torch.zeros(2)).tolist() == [0])
    return step_gradient(model, CrossEntropy(), batches(step))


def contrasted(made: dict[str, Artifact]) -> dict[str, Any]:
    """A step of the two towers."""
    world, tokenizer, root = World.current(), toy_tokenizer(), made["shown"].path
    text = ModelConfig(vocab_size=tokenizer.vocab_size, **SIZES, tied=True)
    model = TwoTowers(ImageEncoder(EncoderShape(**ENCODER).config()), text, 8, seed=2)
    media = [Medium(at=0, kind="image", url=f"media/{i}.png") for i in (1, 3, 5, 7, 3, 1)]
    pairs = [Pair(tuple(caption_ids(tokenizer, f"{i // 2} red")), medium, root) for i, medium in enumerate(media)]
    return step_gradient(model, InfoNCE(), PairBatches(pairs, 6, LENGTH, 3, tiles(), world.rank, world.size)(0))


def everything(made: dict[str, Artifact], folder: Path) -> dict[str, Any]:
    """Both steps, and stages to their ends: with a copy of the weights in each process, and with the weights cut up."""
    world = World.current()
    root, inputs, out = folder / str(world.process), [made["base"], made["shown"]], {}
    for name, more in (("copies", {}), ("shards", {"shard": True}), ("muon", {"shard": True, "optimizer": "muon"})):
        settings = {**STAGE, **more, "parallel": {"dp": world.processes}}
        out[name] = run_stage(root, "vision.pretrain", name, inputs, scratch=folder / f"{name}.scratch", **settings)
    out["stopped"] = stopped(root, inputs, folder / "stopped.scratch")
    settings = {**FIT, "dim": 16, "layers": 1, "heads": 2, "factor": 2, "gate": 0.5, "batch_tokens": 2 * LENGTH, "shard": True}
    out["clips"] = run_stage(
        root, "vision.clips", "clips", [made["seen"], made["clips"]], scratch=folder / "clips.scratch", **settings,
        parallel={"dp": world.processes},
    )  # fmt: skip
    for name, uses, own in (("dpo", "vision.dpo", DPO), ("reward", "vision.reward", REWARD)):
        settings = {**own, "log_every": 1, "parallel": {"dp": world.processes}}
        out[name] = run_stage(root, uses, name, [made["seen"], made["clips"]], scratch=folder / f"{name}.scratch", **settings)
    return {"captioned": captioned(made, folder), "contrasted": contrasted(made), "out": {k: str(v.path) for k, v in out.items()}}


def stopped(root: Path, inputs: list[Artifact], scratch: Path) -> Artifact:
    """The stage with its weights cut up, stopped after two steps and taken up again."""
    stage, calls = load_stage("vision.pretrain"), iter(range(100))
    scratch.mkdir(parents=True, exist_ok=True)
    ctx = replace(local_context(root / "shards again", name="shards", inputs=inputs, seed=7), scratch=scratch)
    settings = stage.Settings(**STAGE, shard=True, parallel={"dp": World.current().processes})
    with contextlib.suppress(Preempted):
        stage.run(settings, replace(ctx, stopping=lambda: next(calls) >= 2))
        raise AssertionError("it did not stop")
    (ctx.out / "metrics.jsonl").unlink(missing_ok=True)
    stage.run(settings, ctx)
    return finished(ctx.out, stage.KIND, "shards")


def session(process: int, folder: str, made: dict[str, Artifact]) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=process, world_size=2)
    torch.save(everything(made, Path(folder)), Path(folder) / f"found-{process}.pt")
    dist.barrier()
    dist.destroy_process_group()
