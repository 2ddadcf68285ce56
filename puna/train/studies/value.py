"""What is a data set worth? Anneal a half-trained model on it and see (paper 3.1.3), cheaper than a scaling law per data set.

    <name>.control.r1 ...    the checkpoint annealed to learning rate zero on the default mix alone
    <name>.<data>.r1 ...     the same steps on 30 % of the data set and 70 % of the default mix
    <name>                   held-out loss per group against the control, with intervals, and a verdict: `value.json`

The paper anneals an 8B model trained to 50 % over 40B tokens and looks at benchmarks. This layer knows losses only; score the
arms, which are models, with `evals.scores` for tasks. A data set's own held-out loss nearly always falls, so the verdict is on
the groups of the default mix.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field, NonNegativeFloat, model_validator

from puna.core.errors import InputError
from puna.core.graph import Source
from puna.core.recipe import STAGE_NAME
from puna.core.rng import numpy_stream
from puna.core.stage import StageContext
from puna.train.studies.probe import PROBE_FILE, Annealing
from puna.train.studies.ranking import verdict
from puna.train.studies.rows import (
    Rows,
    goal_weights,
    losses,
    read_rows,
    redrawn_losses,
    rounded,
    simultaneous,
    training_noise,
)

KIND = "study"
REVISION = 1

CONTROL = "control"
VERDICTS = {"better": "helped", "worse": "hurt"}


class Settings(Annealing):
    """Data sets to judge: every `tokens` input after the first, and `candidates` from within the first.

    Attributes:
        candidates: by name, weights over groups and sources of the first `tokens` input, e.g. {forum: {general/forum: 1}}.
        share: of the tokens that are new data.
        seeds: how often each arm is annealed; from two on, intervals include the chance of training.
        goal: weight of each group in the loss the verdict is on; by default the groups of the first `tokens` input, all the same.
        draws: bootstrap draws.
    """

    candidates: dict[str, dict[str, NonNegativeFloat]] = {}
    share: float = Field(0.3, gt=0, lt=1)
    seeds: int = Field(1, ge=1)
    goal: dict[str, NonNegativeFloat] | None = None
    draws: int = Field(1000, ge=100)

    @model_validator(mode="after")
    def _check(self) -> Settings:
        bad = [name for name in self.candidates if not STAGE_NAME.fullmatch(name) or name == CONTROL]
        if bad:
            raise ValueError(f"'{bad[0]}' cannot name a data set: use letters, digits, - and _, and not '{CONTROL}'")
        return self


def expand(name: str, settings: Settings, sources: Sequence[Source]) -> dict[str, dict[str, Any]]:
    """Every arm as a sub-stage, then this stage.

    Raises InputError unless there is one model, a `tokens`, and at least one data set to judge.
    """
    models = [str(source) for source in sources if source.kind == "model"]
    tokens = [str(source) for source in sources if source.kind == "tokens"]
    arms = data_sets(settings, tokens[1:])
    if len(models) != 1 or not tokens or len(arms) < 2:
        raise InputError(
            f"stage '{name}' takes a half-trained model, token shards, and at least one data set to judge",
            where=", ".join(f"{source} ({source.kind})" for source in sources) or name,
            fix="from: [half, tokens, new-tokens], or name groups or sources of the first under `candidates`",
        )
    common = settings.model_dump(mode="json", include={*Annealing.model_fields, "share"})
    stages = {
        _arm(name, arm, replicate): {
            "uses": "train.studies.probe", "from": [*models, *tokens], "study": name, "replicate": replicate, "data": data,
            **common,
        }
        for (arm, data), replicate in itertools.product(arms.items(), range(1, settings.seeds + 1))
    }  # fmt: skip
    last = {"uses": "train.studies.value", "from": [*models, *tokens, *stages], **settings.model_dump(mode="json")}
    return {**stages, name: last}


def data_sets(settings: Settings, tokens: Sequence[str]) -> dict[str, str | dict[str, float] | None]:
    """The arms by name and what each reads: the control, the further `tokens` inputs, the candidates."""
    given: dict[str, str | dict[str, float] | None] = {source.replace(".", "-"): source for source in tokens}
    return {CONTROL: None, **given, **settings.candidates}


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Compare every arm with the control and write `value.json`."""
    first, *others = ctx.inputs.all("tokens")
    names = list(data_sets(settings, [artifact.name for artifact in others]))
    paths = {name: [ctx.inputs.named(_arm(ctx.name, name, r)).path for r in range(1, settings.seeds + 1)] for name in names}
    runs = {name: [read_rows(path) for path in found] for name, found in paths.items()}
    own = [group for group in sorted(runs[CONTROL][0]) if (first.path / f"held-{group}.bin").exists()]
    goal = goal_weights(settings.goal, own, "goal")
    overall = _against_control(settings, ctx, runs, [goal] * (len(names) - 1), names[1:])
    found: dict[str, Any] = {
        "share": settings.share, "steps": settings.steps, "seeds": settings.seeds, "draws": settings.draws, "goal": goal,
        "held_rows": {group: len(rows) for group, rows in runs[CONTROL][0].items()},
        "checkpoint": ctx.inputs.artifacts[0].name, "checkpoint_tokens": ctx.inputs.artifacts[0].summary().get("tokens"),
        "arms": {name: json.loads((paths[name][0] / PROBE_FILE).read_text()) for name in names},
        "data": {row["data"]: row for row in overall},
    }  # fmt: skip
    groups = sorted(runs[CONTROL][0])
    for name in names[1:]:
        by_group = _against_control(settings, ctx, runs, [{group: 1.0} for group in groups], [name] * len(groups))
        found["data"][name]["groups"] = dict(zip(groups, by_group, strict=True))
    (ctx.out / "value.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    for line in table(found):
        ctx.note(line)
    return {"verdicts": {name: row["verdict"] for name, row in found["data"].items()}, "data": found["data"]}


def table(found: dict[str, Any]) -> list[str]:
    """The study in lines for a console."""
    covers = "held-out rows and seeds" if found["seeds"] > 1 else "held-out rows only (one seed)"
    lines = [
        f"{name}: {row['verdict']}, loss {row['loss']:.4f} against {row['control_loss']:.4f} of the control at equal steps: "
        f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
        for name, row in found["data"].items()
    ]
    rows = sum(n for group, n in found["held_rows"].items() if group in found["goal"])
    return [*lines, f"n {rows} rows, {found['seeds']} seed(s); 95 % intervals cover {covers}"]


def _arm(study: str, name: str, replicate: int) -> str:
    return f"{study}.{name}.r{replicate}"


def _against_control(
    settings: Settings, ctx: StageContext, runs: dict[str, list[Rows]], goals: list[dict[str, float]], names: list[str]
) -> list[dict[str, Any]]:
    """Loss of each named arm minus the control's, each by its own goal, with intervals that hold together with 95 %."""
    points, draws, rows = [], [], []
    seed = ctx.stream_seed("draws")
    rng = numpy_stream(seed, "seeds")
    for name, goal in zip(names, goals, strict=True):
        noise = training_noise(np.stack([losses(found, goal) for found in runs.values()])[None])
        mean = [float(losses(runs[arm], goal).mean()) for arm in (name, CONTROL)]
        redrawn = [redrawn_losses(runs[arm], goal, seed, settings.draws).mean(axis=1) for arm in (name, CONTROL)]
        chance = noise.draws(settings.draws, 1, 2, rng)[:, 0]
        points.append(mean[0] - mean[1])
        draws.append(redrawn[0] - redrawn[1] + chance[:, 0] - chance[:, 1])
        rows.append({"data": name, "loss": rounded(mean[0]), "control_loss": rounded(mean[1]), "difference": rounded(points[-1]),
                     "seed_noise": rounded(noise.own) if noise.own_degrees else None})  # fmt: skip
    low, high = simultaneous(np.array(points), np.stack(draws, axis=1))
    return [
        row | {"low": rounded(low[i]), "high": rounded(high[i]), "verdict": _verdict(low[i], high[i])}
        for i, row in enumerate(rows)
    ]


def _verdict(low: float, high: float) -> str:
    found = verdict(low, high)
    return VERDICTS.get(found, found)
