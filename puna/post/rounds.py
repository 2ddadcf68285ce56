"""The paper's loop as a graph of small stages: samples, reward model, SFT variants, average, pairs, DPO; again (4.1.6).

    sft                    gold alone, the first policy           control        gold alone for as many steps as a round's SFT
    r1.samples             answers of the policy, verified        r1.reward      from the pairs so far, chooses in the next round
    r1.sft-a, r1.sft-b     from the base: gold + all samples      r1.average     their mean, if it is no worse
    r1.pairs               fresh prompts, answers of the average  r1.dpo         the round's model and the next policy

Each of these is cached, restarted and inspected by itself. The stage that carries the name itself only decides: a round's model
is kept when it answers at least as many dev tasks as the one before, and `rounds.json` records inputs, outputs, figures and
decisions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from puna.core.errors import InputError
from puna.core.settings import Settings as BaseSettings
from puna.core.stage import Artifact, StageContext
from puna.post import checkpoints, dpo, reward, spread
from puna.post.answer_rows import Form
from puna.post.gate import Verdict, comparison, read_verdict
from puna.post.lora import Lora
from puna.post.losses import PairLossKind
from puna.post.origin import origin
from puna.train.parallel.layout import Products

KIND = "model"
REVISION = 2

WEAK_POLICY = 0.4  # pass@k below which rejection sampling was measured to add nothing over the control
Entry = dict[str, Any]


class Variant(BaseSettings):
    """One SFT run of a round: its learning rate and its order of the data."""

    lr: NonNegativeFloat = 2e-3
    seed_offset: int = 0


class Settings(spread.Settings):
    """The whole loop. Defaults are those with which each stage showed a controlled gain in the embedded recipe.

    Attributes:
        gold_steps: SFT steps of the first policy; `rs_steps` of each round's variants and of the control.
        prompts, k, temperature, cap: rejection sampling per round.
        dpo_prompts, dpo_k, pairs_per_prompt: sampling of preference pairs, on prompts of their own.
        prompts_start, prompts_of: where this loop's prompts begin, and how many prompts the numbers are meant for: a smaller file
            shrinks every slice alike. Slices of different rounds and purposes never overlap.
        reward: train a reward model each round; `reward_start` from the base (the paper), from the first SFT model or from the
            average of its round. `reward_likelihood` lets it read how likely its trunk finds an answer, besides the last state.
        reward_first: train one on the tasks' own preferences too, before the first round samples, from the first SFT model where
            there is no average yet. `reward_least_pairs` is the fewest pairs that any of them is trained on, `reward_form` how
            answers lie in its rows, `reward_micro_pairs` how many pairs a forward pass reads.
        dpo_loss: of a pair, with `beta` and, for simpo, `gamma`.
        dev: dev tasks of every gate; max_tokens: longest answer.
        lora: SFT and DPO train adapters alone (`puna.post.lora`).
        precision: of the products of SFT and reward models; DPO, whose start must equal its reference, is fp32.
    """

    rounds: int = Field(2, ge=1)
    gold_steps: PositiveInt = 80
    rs_steps: PositiveInt = 200
    lr: NonNegativeFloat = 2e-3
    batch_tokens: PositiveInt = 1024
    length: PositiveInt | None = None
    variants: tuple[Variant, ...] = Field((Variant(lr=2e-3), Variant(lr=1.4e-3, seed_offset=1)), min_length=1, max_length=26)
    prompts: NonNegativeInt = 1500
    k: PositiveInt = 8
    temperature: NonNegativeFloat = 1.0
    cap: PositiveInt = 2
    dpo_prompts: NonNegativeInt = 3000
    dpo_k: PositiveInt = 8
    pairs_per_prompt: NonNegativeInt = 1
    prompts_start: NonNegativeInt = 0
    prompts_of: PositiveInt = 12000
    reward: bool = True
    reward_start: Literal["base", "sft", "average"] = "average"
    reward_likelihood: bool = True
    reward_first: bool = False
    reward_least_pairs: NonNegativeInt = 100
    reward_form: Form = "blocks"
    reward_steps: PositiveInt = 100
    reward_micro_pairs: PositiveInt | None = None
    reward_lr: NonNegativeFloat = 1e-3
    dpo_loss: PairLossKind = "sigmoid"
    beta: NonNegativeFloat = 0.1
    gamma: NonNegativeFloat = 0.5
    nll: NonNegativeFloat = 0.2
    dpo_lr: NonNegativeFloat = 2e-4
    dpo_passes: PositiveFloat = 1.0
    least_pairs: NonNegativeInt = 200
    dev: PositiveInt = 500
    max_tokens: PositiveInt = 48
    lora: Lora | None = None
    precision: Products = "fp32"


def expand(name: str, settings: Settings, sources: Sequence[str]) -> dict[str, Entry]:
    """The loop as sub-stages `name.*`; the last entry is the deciding stage itself.

    Samples among the sources, such as a capability expert's, join those of every round in SFT and reward models. A layout that
    DPO or the reward model cannot take is refused here, not hours later.
    """
    rows = [dpo.Settings.model_validate({}).pairs_per_step]
    rows += [reward.Settings.model_validate({}).pairs_per_step] if settings.reward else []
    spread.check_layout(settings, name, rows=min(rows))
    base, tasks = one_of_kind(sources, "model", name), one_of_kind(sources, "tasks", name)
    given = [str(source) for source in sources if getattr(source, "kind", "") == "samples"]
    stages: dict[str, Entry] = {}
    stages[f"{name}.sft"] = _sft(settings, [base, tasks], settings.gold_steps, Variant(lr=settings.lr), "gold")
    stages[f"{name}.control"] = _sft(settings, [base, tasks], settings.rs_steps, Variant(lr=settings.lr), "control")
    if settings.reward and settings.reward_first:
        stages[f"{name}.reward"] = _reward(settings, base if settings.reward_start == "base" else f"{name}.sft", tasks, [])
    policy, start = f"{name}.sft", settings.prompts_start
    for number in range(1, settings.rounds + 1):
        _add_round(stages, name, number, base, tasks, policy, start, given, settings)
        policy, start = f"{name}.r{number}.dpo", start + settings.prompts + settings.dpo_prompts
    last = {"uses": "post.rounds", "from": [base, tasks, *given, *stages], **settings.model_dump(mode="json")}
    return {**stages, name: last}


def one_of_kind(sources: Sequence[str], kind: str, name: str) -> str:
    """The only source of one kind, by the `kind` that the graph gives each source's name."""
    found = [source for source in sources if getattr(source, "kind", "") == kind]
    if len(found) != 1:
        raise InputError(
            f"stage '{name}' takes one input of kind '{kind}' and got {len(found)}",
            where=", ".join(sources) or name,
            fix=f"name one stage that makes {kind} under `from`",
        )
    return str(found[0])


def _add_round(
    stages: dict[str, Entry], name: str, number: int, base: str, tasks: str, policy: str, start: int, given: list[str],
    settings: Settings,
) -> None:  # fmt: skip
    """Add the sub-stages of round `number`, whose prompts begin at `start`; `given` are samples from outside the loop."""
    here = f"{name}.r{number}"
    earlier = [stage for stage in stages if stage.endswith(".reward")][-1:]
    stages[f"{here}.samples"] = {
        "uses": "post.reject",
        "from": [policy, tasks, *earlier],
        "prompts": _slice(start, settings.prompts, settings),
        "device": settings.device,
        "k": settings.k,
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
        "cap": settings.cap,
        "pairs_per_prompt": 2,
        "round": number,
    }
    pool = [*given, *(stage for stage in stages if stage.endswith(".samples"))]
    variants = []
    for letter, variant in zip("abcdefghijklmnopqrstuvwxyz", settings.variants, strict=False):
        variants.append(f"{here}.sft-{letter}")
        stages[variants[-1]] = _sft(settings, [base, tasks, *pool], settings.rs_steps, variant, letter)
    stages[f"{here}.average"] = {"uses": "post.average", "from": [*variants, tasks], **_judging(settings)}
    stages[f"{here}.pairs"] = {
        "uses": "post.reject",
        "from": [f"{here}.average", tasks],
        "k": settings.dpo_k,
        "temperature": 1.0,
        "cap": 0,
        "round": number,
        "prompts": _slice(start + settings.prompts, settings.dpo_prompts, settings),
        "device": settings.device,
        "max_tokens": settings.max_tokens,
        "pairs_per_prompt": settings.pairs_per_prompt,
    }
    stages[f"{here}.dpo"] = {
        "uses": "post.dpo",
        "from": [f"{here}.average", f"{here}.pairs", tasks],
        "loss": settings.dpo_loss,
        "beta": settings.beta,
        "gamma": settings.gamma,
        "nll": settings.nll,
        "lr": settings.dpo_lr,
        "passes": settings.dpo_passes,
        "least_pairs": settings.least_pairs,
        **_training(settings),
        **_judging(settings),
    }
    if settings.reward:
        paired = [*given, *(stage for stage in stages if stage.endswith((".samples", ".pairs")))]
        trunk = {"base": base, "sft": f"{name}.sft", "average": f"{here}.average"}[settings.reward_start]
        stages[f"{here}.reward"] = _reward(settings, trunk, tasks, paired)


def _sft(settings: Settings, sources: list[str], steps: int, variant: Variant, label: str) -> Entry:
    return {
        "uses": "post.sft",
        "from": sources,
        "steps": steps,
        "lr": variant.lr,
        "seed_offset": variant.seed_offset,
        "variant": label,
        "batch_tokens": settings.batch_tokens,
        "precision": settings.precision,
        **_training(settings),
        **_judging(settings),
    }


def _reward(settings: Settings, trunk: str, tasks: str, paired: list[str]) -> Entry:
    return {
        "uses": "post.reward",
        "from": [trunk, tasks, *paired],
        "likelihood": settings.reward_likelihood,
        "micro_pairs": settings.reward_micro_pairs,
        "steps": settings.reward_steps,
        "lr": settings.reward_lr,
        "form": settings.reward_form,
        "least_pairs": settings.reward_least_pairs,
        "length": settings.length,
        "precision": settings.precision,
        **settings.everywhere(),
    }


def _slice(start: int, count: int, settings: Settings) -> dict[str, int]:
    return {"start": start, "count": count, "of": settings.prompts_of}


def _training(settings: Settings) -> dict[str, Any]:
    """What SFT and DPO have in common."""
    adapters = None if settings.lora is None else settings.lora.model_dump(mode="json")
    return {"length": settings.length, "lora": adapters, **settings.everywhere()}


def _judging(settings: Settings) -> dict[str, int]:
    return {"dev": settings.dev, "max_tokens": settings.max_tokens}


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Decide which round's model is the result, copy it, and write the manifest."""
    first, control = (ctx.inputs.named(f"{ctx.name}.{part}") for part in ("sft", "control"))
    chosen, decisions = first, [f"starts from {first.name}: {verdict_of(first).text()}"]
    rounds: list[dict[str, Any]] = []
    for number in range(1, settings.rounds + 1):
        candidate = ctx.inputs.named(f"{ctx.name}.r{number}.dpo")
        keep = verdict_of(candidate).value >= verdict_of(chosen).value
        source = origin(candidate, {artifact.name: artifact for artifact in ctx.inputs.artifacts})
        decisions.append(_decision(number, candidate, source, chosen, keep))
        if not keep:
            ctx.note(decisions[-1])
        rounds.append(_round(ctx, number, control, chosen, keep))
        chosen = candidate if keep else chosen
    checkpoints.carry(chosen, ctx, ctx.inputs.all("model"))
    manifest = {
        "chosen": chosen.name,
        "decisions": decisions,
        "sft": part(first),
        "control": part(control),
        "rounds": rounds,
        "over_control": comparison(verdict_of(chosen), verdict_of(control)),
        "dev": verdict_of(chosen).summary(),
    }
    (ctx.out / "rounds.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return {key: manifest[key] for key in ("chosen", "decisions", "over_control", "dev")}


def verdict_of(artifact: Artifact) -> Verdict:
    """The verdict beside a model made by a post-training stage."""
    found = read_verdict(artifact.path)
    if found is None:
        raise InputError(f"'{artifact.name}' carries no verdict on the dev tasks", where=str(artifact.path), fix="build it again")
    return found


def part(artifact: Artifact) -> dict[str, Any]:
    """One sub-stage in a manifest: name, digests of what it read and made, its figures."""
    inputs = [{"name": e["name"], "digest": e["digest"]} for e in artifact.record.get("inputs", [])]
    return {"name": artifact.name, "inputs": inputs, "output": artifact.digest, "figures": artifact.summary()}


def _decision(number: int, candidate: Artifact, source: str, chosen: Artifact, keep: bool) -> str:
    now, before = verdict_of(candidate).text(), verdict_of(chosen).text()
    model = candidate.name if source == candidate.name else f"{candidate.name}, which is {source} unchanged,"
    if keep:
        return f"round {number}: {model} ({now}) is no worse than {chosen.name} ({before}) and replaces it"
    return f"round {number}: {model} ({now}) fell below {chosen.name} ({before}), which is kept"


def _round(ctx: StageContext, number: int, control: Artifact, before: Artifact, kept: bool) -> dict[str, Any]:
    """The manifest of one round."""
    prefix = f"{ctx.name}.r{number}."
    parts = {a.name.removeprefix(prefix): a for a in ctx.inputs.artifacts if a.name.startswith(prefix)}
    average, tuned = verdict_of(parts["average"]), verdict_of(parts["dpo"])
    rate = max(parts["samples"].summary().get("pass_at", {}).values(), default=None)
    if rate is not None and rate < WEAK_POLICY:
        ctx.note(f"round {number}: pass@k of the policy is {rate:.2f}; below {WEAK_POLICY} rejection sampling has little to add")
    return {
        "round": number,
        "kept": kept,
        "parts": {name: part(artifact) for name, artifact in parts.items()},
        "sampling_over_control": comparison(average, verdict_of(control)),
        "dpo_over_average": comparison(tuned, average),
        "over_before": comparison(tuned, verdict_of(before)),
    }
