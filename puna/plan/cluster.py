"""What the plan says of many GPUs: memory of each under a layout, the pipeline's bubble, interruptions and checkpoints."""

from __future__ import annotations

from typing import Any

from puna.model.config import ModelConfig
from puna.plan import failures, speed
from puna.plan.layout import Axes, Recompute
from puna.plan.layout_memory import RankMemory, Work, peak
from puna.plan.pipeline import bubble
from puna.plan.report import Section, duration, size

RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")
MASTER = 12  # bytes of a checkpoint per parameter: FP32 weights and two moments
# A layer on each of 8 stages of a rank, none beside embedding and output: 126 + 2 = 16 x 8. The paper gives the two lean ends and
# the interleaved schedule; that stages have one layer is how they fit.
PAPER_PIPELINE: dict[str, Any] = {"schedule": "interleaved_1f1b", "virtual_stages": 8, "lean_ends": True}


def published_layouts(name: str) -> list[speed.Cluster]:
    """Layouts a preset was trained in: the paper's three for 405B."""
    return list(speed.TABLE_4) if speed.PUBLISHED[name] in speed.TABLE_4 else [speed.PUBLISHED[name]]


def axes_of(cluster: speed.Cluster, recompute: Recompute = "none") -> Axes:
    """The axes of a published configuration."""
    pipeline = PAPER_PIPELINE if cluster.pp > 1 else {}
    return Axes(dp=cluster.dp, cp=cluster.cp, tp=cluster.tp, pp=cluster.pp, recompute=recompute, **pipeline)


def layout_values(config: ModelConfig, axes: Axes, work: Work) -> dict[str, Any]:
    """Memory of the process that needs most, its place in the pipeline, and the bubble, as numbers."""
    rank, need = peak(config, axes, work)
    parts = {name: getattr(need, name) for name in RankMemory.__dataclass_fields__}
    return {
        "processes": axes.world, "place": rank, "bytes": need.total, "parts": parts, "bubble": bubble(axes, work.micro_batches),
        "recompute": axes.recompute,
    }  # fmt: skip


def layout_section(name: str, config: ModelConfig) -> tuple[Section, list[dict[str, Any]]]:
    """Every published layout of a preset, with and without recomputation; one row a micro-batch."""
    section, values = Section("memory of the GPU that needs most, BF16, one row a micro-batch"), []
    for cluster in published_layouts(name):
        work = Work(cluster.seq_len, cluster.batch_tokens // (cluster.seq_len * cluster.dp))
        for recompute in RECOMPUTE:
            found = layout_values(config, axes_of(cluster, recompute), work) | {"seq_len": cluster.seq_len}
            values.append(found)
            title = (
                f"{cluster.gpus:,} GPUs, TP{cluster.tp} CP{cluster.cp} PP{cluster.pp} DP{cluster.dp}, {cluster.seq_len:,} tokens"
            )
            section.add(title if recompute == "none" else f"  recompute {recompute}", size(found["bytes"]), parts_text(found))
    if name == "llama3.1-405b":
        remark = "it frees what is not needed again; counted here is what torch's eager ones keep"
        section.add("the paper", "80 GB", f"without recomputation at 8,192 tokens: {remark}")
    return section, values


def parts_text(found: dict[str, Any]) -> str:
    """Where the bytes are, and the bubble of a pipeline."""
    parts = found["parts"]
    state = parts["weights"] + parts["gradients"] + parts["moments"]
    text = f"shares {size(state)}, whole weights {size(parts['gathered'])} and gradients {size(parts['summed'])}"
    text += f", activations {size(parts['activations'])}"
    text += f", passed on {size(parts['passed'])}" if parts["passed"] else ""
    text += f", logits {size(parts['logits'])}" if parts["logits"] else ""
    return text + (f"; bubble {found['bubble']:.1%}" if found["bubble"] else "")


def failure_section(config: ModelConfig, gpus: float) -> tuple[Section, dict[str, Any]]:
    """Interruptions at the paper's rate, and the checkpoints that lose least time."""
    written = MASTER * config.parameters()
    found = failures.reliability(gpus, written)
    section = Section("interruptions")
    section.add(
        "between two of them",
        duration(found.mtti),
        f"the paper's {failures.INTERRUPTIONS} in {failures.DAYS} days on 16,384 GPUs",
    )
    section.add("checkpoint", size(written), f"{found.write:.2g} s at {failures.STORAGE_BYTES_PER_SECOND / 1e12:.0f} TB/s")
    section.add("a checkpoint every", duration(found.interval), "Daly's interval, when training waits for it")
    section.add(
        "useful time", f"{found.useful:.1%}", f"with {duration(failures.RESTART_SECONDS)} to start again, which is assumed"
    )
    return section, {"mtti": found.mtti, "checkpoint_bytes": written, "checkpoint_every": found.interval, "useful": found.useful}
