"""Distillation: a student learns from a larger model's verified answers, beside every control the claim needs (4.2, 4.3).

    samples            answers of the teacher on fresh prompts, verified; the first ones also unchecked
    gold               control: gold dialogs alone, as many steps       verified          gold + verified answers
    unverified         gold + unchecked answers                         logits            gold + KL to the teacher's top k
    verified-logits    both                             online-...        gold + a divergence from all the teacher says
    on-policy          gold, and the student's own answers as the teacher scores them
    preferences        DPO of the best of these: the teacher's right answers over wrong ones
    own                control: the student's own rounds, without a teacher
    rounds             the same rounds with the teacher's verified answers beside the student's own

All runs but the last three start from the student's base with equal steps; equal steps are not equal compute, so what each spent
stands beside. The stage itself takes the best on the dev tasks and says what beat what. A teacher's unchecked text is refused for
the model it descends from: for its own author it does not help and can hurt.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from puna.core.errors import InputError
from puna.core.settings import Share
from puna.core.stage import Artifact, StageContext
from puna.post import checkpoints, dpo, logits, rounds, sft, spread
from puna.post.gate import comparison
from puna.post.online import Own
from puna.post.rounds import one_of_kind, part, verdict_of
from puna.tokenizer.dialog import Sample, read_rows
from puna.train.parallel.layout import Products

KIND = "model"
REVISION = 2
TEACHER = 1  # of the model inputs

Mode = Literal[
    "verified",
    "unverified",
    "logits",
    "verified-logits",
    "online-forward",
    "online-reverse",
    "online-jsd",
    "on-policy",
    "preferences",
    "rounds",
]
DIVERGENCES = {"online-forward": "forward", "online-reverse": "reverse", "online-jsd": "jensen-shannon"}
READ_SAMPLES = ("verified", "unverified", "verified-logits", "preferences", "rounds")  # modes that learn from the teacher's text
Entry = dict[str, Any]


class Settings(spread.Settings):
    """Equal steps for all; `modes` says which ways to learn are tried beside the control.

    Attributes:
        prompts, prompts_start, prompts_of: the teacher's prompts, by default after those of its own two rounds; also those that
            the student answers in `on-policy` and `preferences`.
        k, temperature: answers per prompt; the first verified one is taken.
        top_k, weight: of the logit KL; `weight` also of the other divergences.
        own_share: of the steps of `on-policy` that read own answers, from `own_from` of all steps on. Reverse KL.
        rejected: whose wrong answers `preferences` ranks below the teacher's right ones; the student draws `student_k` a prompt.
        dpo_lr, least_pairs: of `preferences`, whose steps are one pass over the pairs; at the rate of the flagship's rounds the
            embedded student only lost (docs/distil.md).
        own_rounds: settings of the student's own rounds (`post.rounds`), the control without a teacher; None leaves it out. What
            it does not name is as here. The mode `rounds` takes the same, and needs them.
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
    cap: PositiveInt = 1
    top_k: int = Field(64, ge=1)
    weight: Share = 0.5
    own_share: float = Field(0.5, gt=0, le=1)
    own_from: Share = 0.25
    rejected: Literal["student", "teacher"] = "student"
    student_k: PositiveInt = 4
    dpo_lr: NonNegativeFloat = 3e-5
    least_pairs: NonNegativeInt = 200
    own_rounds: rounds.Settings | None = None
    dev: PositiveInt = 500
    max_tokens: PositiveInt = 48
    precision: Products = "fp32"

    def common(self) -> Entry:
        """What every run of SFT or distillation takes."""
        return (
            self.model_dump(include={"steps", "lr", "batch_tokens", "length", "precision"}) | self.judging() | self.everywhere()
        )

    def judging(self) -> Entry:
        """How every model is judged."""
        return {"dev": self.dev, "max_tokens": self.max_tokens}

    def slice(self) -> dict[str, int]:
        """The prompts of teacher and student."""
        return {"start": self.prompts_start, "count": self.prompts, "of": self.prompts_of}


def expand(name: str, settings: Settings, sources: Sequence[str]) -> dict[str, Entry]:
    """Student's base first, teacher second, tasks: the runs as sub-stages `name.*`, then the choice."""
    models = [source for source in sources if getattr(source, "kind", "") == "model"]
    if len(models) != 2:
        raise InputError(
            f"stage '{name}' takes a student and a teacher and got {len(models)} models",
            where=", ".join(sources) or name,
            fix="from: [student, teacher, tasks]",
        )
    _check_layout(name, settings)
    student, teacher, tasks = str(models[0]), str(models[1]), one_of_kind(sources, "tasks", name)
    stages: dict[str, Entry] = {
        f"{name}.samples": _samples(
            settings, [teacher, tasks], k=settings.k, temperature=settings.temperature, raw=True, cap=settings.cap,
            pairs_per_prompt=int("preferences" in settings.modes and settings.rejected == "teacher"),
        ),
        f"{name}.gold": {"uses": "post.sft", "from": [student, tasks], "variant": "control", **settings.common()},
    }  # fmt: skip
    possible = _runs(settings, student, teacher, tasks, f"{name}.samples")
    stages |= {f"{name}.{mode}": possible[mode] for mode in settings.modes if mode in possible}
    if "preferences" in settings.modes:
        stages |= _preferences(name, settings, [stage for stage in stages if not stage.endswith(".samples")], tasks)
    stages |= _loops(name, settings, [source for source in sources if source in (student, tasks)])
    last = {"uses": "post.distil", "from": [student, teacher, tasks, *stages], **settings.model_dump(mode="json")}
    return {**stages, name: last}


def _check_layout(name: str, settings: Settings) -> None:
    """InputError, before any work, for a layout that one of the modes cannot take; own rounds look at theirs."""
    axes: tuple[str, ...] = sft.AXES
    modes = set(settings.modes)
    if modes & {"logits", "verified-logits", *DIVERGENCES}:
        axes = logits.AXES
    if modes & {"on-policy", "preferences"}:
        axes = ()
    rows = dpo.Settings.model_validate({}).pairs_per_step if "preferences" in modes else None
    spread.check_layout(settings, name, rows=rows, axes=axes)


def _samples(settings: Settings, sources: list[str], **how: Any) -> Entry:
    common = {"max_tokens": settings.max_tokens, "prompts": settings.slice(), "device": settings.device}
    return {"uses": "post.reject", "from": sources, **common, **how}


def _runs(settings: Settings, student: str, teacher: str, tasks: str, drawn: str) -> dict[str, Entry]:
    """Every mode that starts from the student's base."""
    sft = {"uses": "post.sft", "from": [student, tasks, drawn], **settings.common()}
    kl = {"uses": "post.logits", "k": settings.top_k, "weight": settings.weight, **settings.common()}
    online = {"uses": "post.online", "from": [student, teacher, tasks], "weight": settings.weight, **settings.common()}
    own = Own(share=settings.own_share, first_step=int(settings.own_from * settings.steps)).model_dump()
    return {
        "verified": {**sft, "variant": "verified"},
        "unverified": {**sft, "variant": "unverified", "samples": "raw"},
        "logits": {"from": [student, teacher, tasks], "variant": "logits", **kl},
        "verified-logits": {"from": [student, teacher, tasks, drawn], "variant": "verified-logits", **kl},
        **{mode: {**online, "variant": mode, "divergence": kind} for mode, kind in DIVERGENCES.items()},
        "on-policy": {**online, "variant": "on-policy", "divergence": "reverse", "own": {**own, "prompts": settings.slice()}},
    }


def _loops(name: str, settings: Settings, given: list[str]) -> dict[str, Entry]:
    """The student's own rounds, and the same with the teacher's samples; `given` are its base and the tasks."""
    if settings.own_rounds is None:
        if "rounds" in settings.modes:
            raise InputError("the mode 'rounds' needs the settings of the student's own rounds, which it is compared with",
                             where=f"stages.{name}.modes", fix=f"stages.{name}.own_rounds={{rounds: 2}}")  # fmt: skip
        return {}
    own = {**settings.common(), **settings.own_rounds.model_dump(exclude_unset=True)}
    loop = {"uses": "post.rounds", "rs_steps": own.pop("steps"), "prompts_of": settings.prompts_of} | own
    stages = {f"{name}.own": {**loop, "from": given}}
    if "rounds" in settings.modes:
        stages[f"{name}.rounds"] = {**loop, "from": [*given, f"{name}.samples"]}
    return stages


def _preferences(name: str, settings: Settings, runs: list[str], tasks: str) -> dict[str, Entry]:
    """DPO of the best of `runs`, on pairs of the teacher's samples or of these and its own."""
    best, pairs = f"{name}.best", f"{name}.samples"
    stages: dict[str, Entry] = {best: {"uses": "post.best", "from": runs}}
    if settings.rejected == "student":
        tries, pairs = f"{name}.tries", f"{name}.pairs"
        stages[tries] = _samples(settings, [best, tasks], k=settings.student_k, temperature=1.0, cap=0, pairs_per_prompt=0)
        stages[pairs] = {"uses": "post.contrast", "from": [best, tasks, f"{name}.samples", tries]}
    stages[f"{name}.preferences"] = {
        "uses": "post.dpo",
        "from": [best, pairs, tasks],
        "lr": settings.dpo_lr,
        "least_pairs": settings.least_pairs,
        "length": settings.length,
        **settings.judging(),
        **settings.everywhere(),
    }
    return stages


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
        "spent": {mode: _spent(mode, artifact, settings, ctx) for mode, artifact in every.items() if mode != "rounds"},
    }
    if {"verified", "unverified"} <= set(runs):
        manifest["verified_over_unverified"] = comparison(verdict_of(runs["verified"]), verdict_of(runs["unverified"]))
    if "preferences" in runs:
        start = ctx.inputs.named(f"{ctx.name}.best")
        manifest["preferences_start"] = start.summary()["kept"]
        manifest["preferences_over_start"] = comparison(verdict_of(runs["preferences"]), verdict_of(start))
    if settings.own_rounds:
        own = ctx.inputs.named(f"{ctx.name}.own")
        manifest["own_rounds"] = part(own)
        manifest["over_own_rounds"] = comparison(verdict_of(every[best]), verdict_of(own))
        if "rounds" in runs:
            manifest["rounds_over_own_rounds"] = comparison(verdict_of(runs["rounds"]), verdict_of(own))
    (ctx.out / "distil.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return {key: value for key, value in manifest.items() if key not in ("runs", "samples", "own_rounds")}


def _spent(mode: str, artifact: Artifact, settings: Settings, ctx: StageContext) -> dict[str, int]:
    """Steps of a run, tokens it was trained on (of SFT and distillation), tokens that the teacher read, and those drawn for it.

    What `preferences` spent is counted from its start on, whose own figures are those of that run.
    """
    summary = artifact.summary()
    spent = {key: int(summary.get(key, 0)) for key in ("steps", "tokens", "teacher_tokens")}
    drawn = int(summary.get("sampled_tokens", 0))
    if mode == "preferences" and settings.rejected == "student":
        drawn += _tokens(ctx.inputs.named(f"{ctx.name}.tries"))
    taught = _tokens(ctx.inputs.named(f"{ctx.name}.samples")) if mode in READ_SAMPLES else 0
    return {**spent, "sampled_by_teacher": taught, "sampled_by_student": drawn}


def _tokens(samples: Artifact) -> int:
    """Tokens of all answers that were drawn."""
    return sum(len(row.ids) for row in read_rows(samples.path / "samples.jsonl", Sample))
