"""Distillation: a student learns from a larger model's verified answers, beside every control the claim needs (4.2, 4.3).

    samples            answers of the teacher on fresh prompts, verified; the first ones also unchecked
    gold               control: gold dialogs alone, as many steps       verified          gold + verified answers
    unverified         gold + unchecked answers                         logits            gold + KL to the teacher's top k
    verified-logits    both

All runs start from the student's base with equal steps. The stage itself takes the best on the dev tasks and says what beat
what. A teacher's unchecked text is refused for the model it descends from: for its own author it does not help and can hurt.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from puna.core.errors import InputError
from puna.core.settings import Share
from puna.core.stage import Artifact, StageContext
from puna.post import checkpoints, spread
from puna.post.gate import comparison
from puna.post.rounds import one_of_kind, part, verdict_of
from puna.train.parallel.layout import Products

KIND = "model"
REVISION = 1

Mode = Literal["verified", "unverified", "logits", "verified-logits"]
Entry = dict[str, Any]


class Settings(spread.Settings):
    """Equal steps for all; `modes` says which ways to learn are tried beside the control.

    Attributes:
        prompts, prompts_start, prompts_of: the teacher's prompts, by default after those of its own two rounds.
        k, temperature: answers per prompt; the first verified one is taken.
        top_k, weight: of the logit KL.
        precision: of the products of training.
    """

    modes: tuple[Mode, ...] = ("verified", "unverified", "logits", "verified-logits")
    steps: PositiveInt = 200
    lr: NonNegativeFloat = 2e-3
    batch_tokens: PositiveInt = 1024
    length: PositiveInt | None = None
    prompts: NonNegativeInt = 1500
    prompts_start: NonNegativeInt = 9000
    prompts_of: PositiveInt = 12000
    k: PositiveInt = 4
    temperature: NonNegativeFloat = 0.8
    cap: NonNegativeInt = 1
    top_k: int = Field(64, ge=1)
    weight: Share = 0.5
    dev: PositiveInt = 500
    max_tokens: PositiveInt = 48
    precision: Products = "fp32"


def expand(name: str, settings: Settings, sources: Sequence[str]) -> dict[str, Entry]:
    """Student's base first, teacher second, tasks: the runs as sub-stages `name.*`, then the choice."""
    models = [str(source) for source in sources if getattr(source, "kind", "") == "model"]
    if len(models) != 2:
        raise InputError(
            f"stage '{name}' takes a student and a teacher and got {len(models)} models",
            where=", ".join(sources) or name,
            fix="from: [student, teacher, tasks]",
        )
    (student, teacher), tasks = models, one_of_kind(sources, "tasks", name)
    drawn = f"{name}.samples"
    common = {
        "steps": settings.steps,
        "lr": settings.lr,
        "batch_tokens": settings.batch_tokens,
        "length": settings.length,
        "dev": settings.dev,
        "max_tokens": settings.max_tokens,
        "precision": settings.precision,
        **settings.everywhere(),
    }
    kl = {"uses": "post.logits", "k": settings.top_k, "weight": settings.weight, **common}
    possible: dict[str, Entry] = {
        "verified": {"uses": "post.sft", "from": [student, tasks, drawn], "variant": "verified", **common},
        "unverified": {"uses": "post.sft", "from": [student, tasks, drawn], "variant": "unverified", "samples": "raw", **common},
        "logits": {"from": [student, teacher, tasks], "variant": "logits", **kl},
        "verified-logits": {"from": [student, teacher, tasks, drawn], "variant": "verified-logits", **kl},
    }
    stages: dict[str, Entry] = {
        drawn: {
            "uses": "post.reject",
            "from": [teacher, tasks],
            "k": settings.k,
            "temperature": settings.temperature,
            "raw": True,
            "max_tokens": settings.max_tokens,
            "cap": settings.cap,
            "pairs_per_prompt": 0,
            "prompts": {"start": settings.prompts_start, "count": settings.prompts, "of": settings.prompts_of},
        },
        f"{name}.gold": {"uses": "post.sft", "from": [student, tasks], "variant": "control", **common},
    }
    stages |= {f"{name}.{mode}": possible[mode] for mode in settings.modes}
    return {**stages, name: {"uses": "post.distil", "from": [*models, tasks, *stages], **settings.model_dump(mode="json")}}


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Take the best student on the dev tasks and write `distil.json`; a tie goes to the simpler run, the control first."""
    control = ctx.inputs.named(f"{ctx.name}.gold")
    runs: dict[str, Artifact] = {mode: ctx.inputs.named(f"{ctx.name}.{mode}") for mode in settings.modes}
    every = {"gold": control, **runs}
    best = max(every, key=lambda mode: verdict_of(every[mode]).value)
    if best == "gold":
        ctx.note(f"nothing of the teacher's beat gold alone ({verdict_of(control).text()}), which is kept")
    checkpoints.carry(every[best], ctx, ctx.inputs.all("model"))
    manifest: dict[str, Any] = {
        "chosen": best,
        "runs": {mode: part(artifact) for mode, artifact in every.items()},
        "samples": part(ctx.inputs.named(f"{ctx.name}.samples")),
        "dev": verdict_of(every[best]).summary(),
        "over_gold": {mode: comparison(verdict_of(artifact), verdict_of(control)) for mode, artifact in runs.items()},
    }
    if {"verified", "unverified"} <= set(runs):
        manifest["verified_over_unverified"] = comparison(verdict_of(runs["verified"]), verdict_of(runs["unverified"]))
    (ctx.out / "distil.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return {key: value for key, value in manifest.items() if key not in ("runs", "samples")}
