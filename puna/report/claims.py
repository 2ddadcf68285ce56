"""What may be said: each comparison named in the recipe, put into words by its interval alone.

A difference whose 95 % interval excludes zero, with an exact p below 0.05, helped or hurt; anything else did not show a
difference at this size, and is reported as that and not left out. Where a gate refused a stage's result, the model of that name
is the one the gate kept: the line then says what the gate did and carries no verdict on the stage.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from puna.core.stage import Artifact
from puna.evals.seeds import seed_prefixes
from puna.evals.stats import paired
from puna.post.origin import origin
from puna.report.sources import made_by, read_json, stage

SIGNIFICANT = 0.05
LEAST = 6  # items that differ, where a test has no exact p: five wins and no loss have p = 0.06
SHOWN = {1: "helped", 0: "no difference shown", -1: "hurt"}
Claim = dict[str, Any]  # with `verdict`, and either the figures of a test or an `outcome` in words


def collect_claims(artifacts: Iterable[Artifact]) -> list[Claim]:
    """Every paired test of the run's artifacts, each with a `verdict`: of several seeds first, then of each.

    Of adapters that were trained from several seeds, only what holds over all of them.
    """
    known = {artifact.name: artifact for artifact in artifacts}
    several = [seeds for seeds in made_by(known.values(), "evals.seeds") if over_adapters(seeds, known)]
    covered = {name for seeds in several for name in read_json(seeds, "seeds.json")["scores"]}
    claims = []
    for artifact in known.values():
        if artifact.name in covered:
            continue
        for file in ("scores.json", "needle.json"):
            for found in read_json(artifact, file).get("comparisons", []):
                title = f"{found['name']}, {found['length']} tokens" if "length" in found else found["name"]
                claims.append(_told({**found, "name": title, "stage": artifact.name}, artifact, known))
    claims += [claim for reward in made_by(known.values(), "post.reward") for claim in _best_of_n(reward)]
    named = Counter(claim["name"] for claim in claims)
    claims = [{**claim, "name": f"{claim['name']} ({claim['stage']})"} if named[claim["name"]] > 1 else claim for claim in claims]
    return [claim for seeds in made_by(known.values(), "evals.seeds") for claim in _over_seeds(seeds, known)] + claims


def _over_seeds(seeds: Artifact, known: Mapping[str, Artifact]) -> list[Claim]:
    """Claims about several seeds, which say more than those about each; a gate handed on `unchanged` of them."""
    found = read_json(seeds, "seeds.json")
    prefixes = seed_prefixes(found["scores"], seeds.name)
    what = f"{len(prefixes)} {'adapters' if over_adapters(seeds, known) else 'base models'}"
    claims = []
    for one in found["comparisons"]:
        models = [known[prefix + one["better"]] for prefix in prefixes if prefix + one["better"] in known]
        gated = [model for model in models if stage(model) in ("post.average", "post.dpo")]
        unchanged = sum(origin(model, known) != model.name for model in gated)
        told = {**one, "name": f"{what}: {one['name']}", "stage": seeds.name, "unchanged": unchanged}
        refused = unchanged and stage(gated[0]) == "post.average"  # its best part, which was chosen and not averaged
        claims.append({**told, "verdict": f"refused for {unchanged} of {len(prefixes)}" if refused else SHOWN[direction(one)]})
    return claims


def over_adapters(seeds: Artifact, known: Mapping[str, Artifact]) -> bool:
    """Whether these seeds are of adapters that give sight or hearing, and not of base models."""
    first = read_json(seeds, "seeds.json")["scores"][0]
    return first in known and stage(known[first]) in ("vision.scores", "speech.scores")


def _told(claim: Claim, scores: Artifact, known: Mapping[str, Artifact]) -> Claim:
    """The claim with its verdict, or what a gate did where the two models are not what the claim is about."""
    better, control = known.get(claim["better"]), known.get(claim["control"])
    if better and control:
        summary = better.summary()
        parts = summary.get("parts", {}) if stage(better) == "post.average" else {}
        if control.name in parts and len(parts) > 1:  # one part is its own average: no gate decided
            if summary["kept"] != "average":
                return _refused(claim, summary)
            if _has_items(scores):  # a needle artifact has none: the test that the recipe names stands
                return _against_best(claim, summary, scores)
        if stage(better) == "post.dpo" and summary.get("model") == control.name:
            if summary.get("skipped"):
                return _outcome(claim, "not trained", f"not trained, {summary['skipped']}; its start is handed on")
            if summary.get("kept_step") == 0:
                return _discarded(claim, summary)
        if (source := origin(better, known)) == origin(control, known):
            return _outcome(claim, "same weights", f"not compared, both models are {source} unchanged")
    if not claim["n"]:
        return _outcome(claim, "not measured", "not measured, there is no held-out task")
    return {**claim, "verdict": SHOWN[direction(claim)]}


def _outcome(claim: Claim, verdict: str, words: str) -> Claim:
    subject = claim["name"].partition(" against ")[0]
    return {"name": subject, **{key: claim[key] for key in ("better", "control", "stage")}, "verdict": verdict, "outcome": words}


def _refused(claim: Claim, summary: dict[str, Any]) -> Claim:
    """An average that lost on the dev tasks: the model of its name is its best part."""
    kept, dev = summary["kept"], summary["against_best"]
    figures = f"{_level(summary['average'])} against {_level(summary['dev'])}"
    if dev.get("paired"):
        test = dev["paired"]
        points = f"{100 * test['difference']:+.1f} points, {100 * test['low']:+.1f} to {100 * test['high']:+.1f}"
        figures += f" ({points}, n = {summary['dev']['n']})"
    return _outcome(claim, "refused", f"refused on the dev set, {figures}; {kept.rpartition('.')[2]} kept")


def _against_best(claim: Claim, summary: dict[str, Any], scores: Artifact) -> Claim:
    """An average that was kept, tested against the part that did best on the dev tasks, whichever the recipe names."""
    best = max(summary["parts"], key=lambda name: summary["parts"][name]["value"])
    name = f"{claim['name'].partition(' against ')[0]} against its best variant, {best.rpartition('.')[2]}"
    if best == claim["control"]:
        return {**claim, "name": name, "verdict": SHOWN[direction(claim)]}
    averaged, variant = passed_items(scores, claim["better"]), passed_items(scores, best)
    if not variant or list(averaged) != list(variant):
        return _outcome(claim, "not compared", f"kept on the dev set; its best variant, {best}, was not scored")
    test = dataclasses.asdict(paired(list(averaged.values()), list(variant.values())))
    told = {**claim, "name": name, "control": best, "n": len(variant), **test}
    return {**told, "verdict": SHOWN[direction(told)]}


def _has_items(scores: Artifact) -> bool:
    from puna.evals.one import ITEMS_FILE

    return (scores.path / ITEMS_FILE).exists()


def passed_items(scores: Artifact, model: str) -> dict[str, bool]:
    """Whether a model passed, by item, in the order of the items; empty if it was not scored."""
    from puna.evals.one import ITEMS_FILE, read_items

    return {item["task_id"]: item["passed"] for item in read_items(scores.path / ITEMS_FILE) if item["model"] == model}


def _discarded(claim: Claim, summary: dict[str, Any]) -> Claim:
    """A DPO of which no step beat its start on the dev tasks: the model of its name is its start."""
    dev, (step, value) = summary["dev"], summary["looks"][-1]
    last = _level({**dev, "value": value})
    words = f"discarded on the dev set, {_level(dev)} before and {last} after its {step} steps (n = {dev['n']})"
    return _outcome(claim, "discarded", f"{words}; its start is handed on")


def _level(dev: dict[str, Any]) -> str:
    """What a model reached on the dev tasks."""
    return f"{100 * dev['value']:.1f} %" if dev["measure"] == "accuracy" else f"held-out loss {-dev['value']:.3f}"


def _best_of_n(reward: Artifact) -> list[Claim]:
    """Does choosing among samples by this reward model beat choosing at random? No claim where it was not measured."""
    best = reward.summary().get("best_of_n") or {}
    gain = best.get("reward_over_random") or {}
    if not gain.get("n"):
        return []
    claim = {
        "name": f"best of {best['n']} by {reward.name} against a random one", "better": reward.name, "control": "a random sample",
        "stage": reward.name, "difference": gain["mean"], "low": gain["low"], "high": gain["high"], "n": gain["n"],
    }  # fmt: skip
    return [{**claim, "verdict": SHOWN[direction(claim)]}]


def direction(test: dict[str, Any]) -> int:
    """1 when the interval lies above zero and the exact test, where there is one, agrees (p < 0.05), -1 below, 0 otherwise.

    The interval is approximate where few items differ: four wins and no loss exclude zero at p = 0.125.
    """
    if test["n"] == 0 or test.get("p", 0.0) >= SIGNIFICANT or test.get("differ", LEAST) < LEAST:
        return 0
    return 1 if test["low"] > 0 else -1 if test["high"] < 0 else 0


def sentence(claim: Claim) -> str:
    """A claim in words, with its numbers."""
    if "outcome" in claim:
        return f"{claim['name']}: {claim['outcome']}."
    test = f", McNemar p = {claim['p']:.2g}" if "p" in claim else ""
    if "each" in claim:
        test = f" items, each model {', '.join(f'{100 * value:+.1f}' for value in claim['each'])}"
        test += f", {claim['unchanged']} of them handed on by a gate" if claim["unchanged"] else ""
    return (
        f"{claim['name']}: {100 * claim['difference']:+.1f} points ({100 * claim['low']:+.1f} to {100 * claim['high']:+.1f}, "
        f"n = {claim['n']}{test}): {claim['verdict']}."
    )
