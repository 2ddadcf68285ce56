"""Mix experiments (paper 3.1.2): small models on each candidate mix predict a bigger one, and the best candidate is then tried.

    <name>.<mix>.s1-r1 ...   one small model per mix, size and seed: stages of their own, side by side and resumable
    <name>.ranking           a scaling law per mix, the order at the target's compute, what was not told apart
    <name>.best, .other      the target trained on the best mix and, at equal compute, on the control (or the runner-up)
    <name>                   prediction against what came out: `mixes.json`

All arms share first weights, order of the data, steps and held-out rows. The choice is made on small models alone; the two
target runs only check it, so their difference is not coloured by having been chosen.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from puna.core.errors import InputError
from puna.core.graph import Source
from puna.core.rng import derive_seed, numpy_stream
from puna.core.stage import StageContext
from puna.train.studies import ranking
from puna.train.studies.ranking import Ladder, arm, predictions, read_ladder, target_flops, verdict
from puna.train.studies.rows import interval, losses, read_rows, redrawn_losses, rounded
from puna.train.studies.trial import TRIAL_FILE, Training

KIND = "study"
REVISION = 1

TARGETS = ("best", "other")  # place in the ranking's `check`


class Settings(ranking.Settings):
    """See `puna.train.studies.ranking`; `train_target` also trains the target on two mixes and compares with the prediction."""

    train_target: bool = True


def expand(name: str, settings: Settings, sources: Sequence[Source]) -> dict[str, dict[str, Any]]:
    """The arms as sub-stages, the ranking over them, the two target runs, then this stage.

    Raises InputError unless there is exactly one `tokens` among the sources.
    """
    tokens = [str(source) for source in sources if source.kind == "tokens"]
    if len(tokens) != 1 or len(sources) != 1:
        raise InputError(f"stage '{name}' takes one stage that makes token shards", where=", ".join(sources) or name,
                         fix="from: tokens")  # fmt: skip
    plain = settings.model_dump(mode="json", exclude={"train_target"})
    training = {key: plain[key] for key in Training.model_fields} | {"uses": "train.studies.trial", "study": name}
    numbered = [(i + 1, *_shape_and_steps(size)) for i, size in enumerate(plain["sizes"])]
    stages: dict[str, dict[str, Any]] = {}
    for (mix, weights), (size, shape, steps), replicate in itertools.product(
        settings.mixes.items(), numbered, range(1, settings.seeds + 1)
    ):
        one = {"mix": weights or None, "model": shape, "steps": steps, "replicate": replicate}
        stages[arm(name, mix, size, replicate)] = {**training, "from": tokens, **one}
    arms = list(stages)
    stages[f"{name}.ranking"] = {"uses": "train.studies.ranking", "from": arms, **plain}
    if settings.train_target:
        shape, steps = _shape_and_steps(plain["target"])
        for rank, target in enumerate(TARGETS):
            one = {"rank": rank, "model": shape, "steps": steps}
            stages[f"{name}.{target}"] = {**training, "from": [*tokens, f"{name}.ranking"], **one}
    return {**stages, name: {"uses": "train.studies.mix", "from": list(stages), **settings.model_dump(mode="json")}}


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Write `mixes.json`: the ranking, and beside it what the target runs really gave."""
    ranked = ctx.inputs.named(f"{ctx.name}.ranking")
    found = json.loads((ranked.path / "ranking.json").read_text())
    if settings.train_target:
        found["target"] = _checked(settings, ctx, found)
    (ctx.out / "mixes.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    for line in table(found):
        ctx.note(line)
    best = found["order"][0]
    return {
        "best": best, "predicted": found["mixes"][best]["predicted"], "order": found["order"],
        "not_told_apart": found["not_told_apart"], "target": found.get("target"),
    }  # fmt: skip


def table(found: dict[str, Any]) -> list[str]:
    """The study in lines for a console: mixes in order, differences to the control, what the target gave."""
    compared = {row["mix"]: row for row in found["against_control"]}
    lines = []
    for place, name in enumerate(found["order"], 1):
        mix = found["mixes"][name]
        row = compared.get(name)
        change = f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}] {row['verdict']}" if row else "the control"
        lines.append(f"{place}. {name}: predicted {mix['predicted']:.4f} [{mix['low']:.4f}, {mix['high']:.4f}]; {change}")
    covers = "held-out rows and seeds" if found["seed_degrees"] else "held-out rows only (one seed)"
    lines.append(f"n {sum(found['held_rows'].values())} rows, {found['seeds']} seed(s); 95 % intervals cover {covers}")
    for run in found.get("target", {}).get("runs", []):
        lines.append(
            f"{run['mix']} at the target: {run['loss']:.4f}, predicted {run['predicted']:.4f}; predicted minus measured "
            f"{run['error']:+.4f} [{run['low']:+.4f}, {run['high']:+.4f}] ({run['percent']:+.2f} %)"
        )
    if "target" in found:
        change = found["target"]["difference"]
        lines.append(f"{' against '.join(found['check'])} at the target: {change['difference']:+.4f} "
                     f"[{change['low']:+.4f}, {change['high']:+.4f}] {change['verdict']}")  # fmt: skip
    return lines


def _shape_and_steps(size: dict[str, Any]) -> tuple[dict[str, Any], int]:
    return {key: value for key, value in size.items() if key != "steps"}, size["steps"]


def _checked(settings: Settings, ctx: StageContext, found: dict[str, Any]) -> dict[str, Any]:
    """The two target runs against their predictions and each other, on the same redrawn rows as the ranking."""
    seed = _ranking_seed(ctx)
    ladder = read_ladder(settings, ctx.inputs.artifacts, ctx.name, seed)
    _, points, draws = predictions(settings, ladder, target_flops(settings, ladder.vocab_size))
    artifacts = [ctx.inputs.named(f"{ctx.name}.{target}") for target in TARGETS]
    rows = [read_rows(artifact.path) for artifact in artifacts]
    measured, redrawn = losses(rows, ladder.goal), _target_draws(settings, ladder, rows, seed)
    runs = []
    for i, name in enumerate(found["check"]):
        mix = ladder.names.index(name)
        facts = json.loads((artifacts[i].path / TRIAL_FILE).read_text())
        low, high = interval(draws[:, mix] - redrawn[:, i])
        runs.append({
            "mix": name, "loss": rounded(measured[i]), "predicted": rounded(points[mix]), "low": rounded(low),
            "high": rounded(high), "error": rounded(points[mix] - measured[i]),
            "percent": rounded(100 * (points[mix] / measured[i] - 1)), "parameters": facts["parameters"],
            "tokens": facts["tokens"], "flops": facts["flops"], "held_loss": facts["held_loss"],
        })  # fmt: skip
    low, high = interval(redrawn[:, 0] - redrawn[:, 1])
    change = {"difference": rounded(measured[0] - measured[1]), "low": rounded(low), "high": rounded(high)}
    return {"runs": runs, "difference": {**change, "verdict": verdict(low, high)}}


def _ranking_seed(ctx: StageContext) -> int:
    """The seed of the ranking's draws, so that the target is compared on the same ones."""
    return derive_seed(ctx.seed, f"{ctx.name}.ranking", "draws")


def _target_draws(settings: Settings, ladder: Ladder, rows: list[Any], seed: int) -> np.ndarray:
    redrawn = redrawn_losses(rows, ladder.goal, seed, settings.draws)
    one = replace(ladder.noise, seeds=1)
    return redrawn + one.draws(settings.draws, 1, len(rows), numpy_stream(seed, "target-seeds"))[:, 0]
