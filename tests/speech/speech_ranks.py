"""What the processes of `test_speech_ranks.py` do: whole stages, as one of two processes or alone."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from speech_toys import ENCODER, LISTEN, PLAIN, run_stage, sounds, text_model

from puna.core.stage import Artifact
from puna.train.world import World

LABELS = {**PLAIN, "encoder": ENCODER, "books": 2, "codes": 8}
STAGES = {  # name: (stage file, settings); five rows to a step, of which one process has two
    "listen": ("speech.listen", {**LISTEN, "batch_rows": 5, "steps": 4}),
    "parts": ("speech.listen", {**LISTEN, "batch_rows": 5, "steps": 4, "micro_rows": 1}),
    "shards": ("speech.listen", {**LISTEN, "batch_rows": 5, "steps": 4, "micro_rows": 1, "shard": True}),
    "pretrain": ("speech.pretrain", {**LABELS, "batch_rows": 5, "steps": 4}),
}


def artifacts(root: Path) -> list[Artifact]:
    """A text model, and sounds."""
    return [text_model(root / "base"), sounds(root / "sounds")]


def everything(made: list[Artifact], folder: Path) -> dict[str, str]:
    """Every stage to its end; the folders of what came out."""
    world = World.current()
    out = {}
    for name, (uses, settings) in STAGES.items():
        layout = {"dp": world.processes}
        inputs = made[1:] if name == "pretrain" else made
        found = run_stage(
            folder / str(world.process), uses, name, inputs, scratch=folder / f"{name}.scratch", **settings, parallel=layout
        )
        out[name] = str(found.path)
    return out


def session(process: int, folder: str, made: list[Artifact]) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=process, world_size=2)
    torch.save(everything(made, Path(folder)), Path(folder) / f"found-{process}.pt")
    dist.barrier()
    dist.destroy_process_group()
