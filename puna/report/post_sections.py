"""The report on sections 4 to 6 of the paper: rounds, reward model, distillation, scores by capability and language, FP8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from puna.core.stage import Artifact
from puna.post.origin import origin
from puna.report import charts
from puna.report.claims import sentence
from puna.report.page import Section
from puna.report.sources import curve, made_by, metrics, number, percent, read_json

LOSSES = {
    "post.sft": ("loss (nats per learnt token)", "Training loss of supervised fine-tuning."),
    "post.dpo": ("DPO loss with its likelihood term", "Training loss of DPO."),
    "post.reward": ("ranking loss", "Training loss of the reward models."),
}
FP8_MEASURES = {
    "bf16_bytes": ("size of the weights in BF16", "bytes", 0),
    "fp8_bytes": ("size of the files in FP8", "bytes", 0),
    "perplexity_reference": ("perplexity in BF16", "per token", 3),
    "perplexity": ("perplexity in FP8", "per token", 3),
    "perplexity_change": ("change of the perplexity", "share", 5),
    "kl_mean": ("divergence of FP8 from BF16, mean over tokens", "nats", 5),
    "kl_max": ("divergence of FP8 from BF16, worst token", "nats", 3),
    "first_choice_agreement": ("tokens with the same first choice", "share", 4),
    "tokens": ("tokens compared", "tokens", 0),
    "greedy.continuations": ("continuations written greedily by both", "texts", 0),
    "greedy.equal": ("of these the same to the end", "texts", 0),
    "greedy.equal_prefix_share": ("part of a continuation before the first difference, mean", "share", 3),
}  # by key of the summary: words, unit, digits
RANDOM_MEASURES = ("perplexity_reference", "perplexity", "perplexity_change", "kl_mean", "kl_max", "first_choice_agreement")
PERPLEXITY_AIM = 0.005  # largest change of a model's perplexity that is thought harmless
SHOWN_ANSWERS = 8


def rounds_section(artifacts: Sequence[Artifact], claims: Sequence[dict[str, Any]]) -> Section | None:
    """Accuracy by round with intervals and controls, what each stage did, reward models."""
    loops = made_by(artifacts, "post.rounds")
    if not loops:
        return None
    section = Section("Post-training rounds", "4.1")
    for loop in loops:
        prefix = f"{loop.name}."
        members = {a.name for a in artifacts if a.name.startswith(prefix)} | {loop.name}
        _accuracy_chart(section, artifacts, members)
        for text in read_json(loop, "rounds.json").get("decisions", []):
            section.text(text)
        _claims(section, claims, members)
        parts = [a for a in artifacts if a.name.startswith(prefix)]
        _sampling(section, parts)
        _rewards(section, parts)
        _preference_training(section, parts)
        section.data[loop.name] = read_json(loop, "rounds.json")
    _losses(section, [a for loop in loops for a in artifacts if a.name.startswith(f"{loop.name}.")])
    return section


def distil_section(artifacts: Sequence[Artifact], claims: Sequence[dict[str, Any]]) -> Section | None:
    """The student with and without the flagship, at equal steps."""
    found = made_by(artifacts, "post.distil")
    if not found:
        return None
    section = Section("The flagship raises the student", "4.2")
    for artifact in found:
        members = {a.name for a in artifacts if a.name.startswith(f"{artifact.name}.")} | {artifact.name}
        _accuracy_chart(section, artifacts, members)
        _claims(section, claims, members)
        section.data[artifact.name] = read_json(artifact, "distil.json")
    return section


def fp8_section(artifacts: Sequence[Artifact], claims: Sequence[dict[str, Any]]) -> Section | None:
    """FP8 beside BF16: divergence, agreement, perplexity, size, accuracy."""
    found = made_by(artifacts, "infer.quantize")
    if not found:
        return None
    section = Section("FP8 against BF16", "6.2")
    for artifact in found:
        summary = artifact.summary()
        section.data[artifact.name] = summary
        rows = [[words, _measure(summary, key, digits), unit] for key, (words, unit, digits) in FP8_MEASURES.items()]
        section.table(["measure", "value", "unit"], rows, f"{artifact.name}, compared on {summary.get('compared_on')}.")
        _layer_errors(section, summary.get("layers"), artifact.name)
        _reward_scores(section, summary.get("rewards"))
        _random_model(section, summary.get("random_model"))
        _claims(section, claims, {artifact.name})
    return section


def _layer_errors(section: Section, layers: dict[str, dict[str, float]] | None, of: str) -> None:
    """The errors of the quantised matrices, by kind over the layers."""
    kinds: dict[str, list[dict[str, float]]] = {}
    for name, errors in (layers or {}).items():
        kinds.setdefault(name.rpartition(".")[2], []).append(errors)
    rows = []
    for kind, found in kinds.items():
        weight, output = ([one[key] for one in found] for key in ("weight_error", "output_error"))
        over = max(one["rows_over_bound"] for one in found)
        rows.append(
            [kind, len(found), *(number(sum(v) / len(v), 4) for v in (weight, output)), number(max(output), 4), number(over, 4)]
        )
    if rows:
        header = [
            "matrix",
            "layers",
            "error of the weights",
            "of the outputs",
            "of the worst layer's outputs",
            "tokens over the bound",
        ]
        section.table(
            header, rows, f"{of}: relative errors (Frobenius norms), mean over the layers; share of tokens in the worst layer."
        )


def _random_model(section: Section, found: dict[str, Any] | None) -> None:
    """The same comparison for a random model, at several sharpnesses of its predictions."""
    if not found:
        return
    shape, greedy, columns = found["shape"], found["greedy"], found["sharpness"]
    name = f"random model of {shape['parameters'] / 1e6:.1f} million parameters"
    section.heading(f"FP8 in a {name}")
    section.text(
        f"{shape['layers']} layers of dim {shape['dim']} with random weights read {found['tokens']} of the tokens above, and "
        "both models' predictions after each are compared. Random weights and predictions are not a trained model's: this shows "
        "what FP8 does to matrices of this size, not to what a model has learned, and features that stand out, which can break "
        "FP8, are absent. The perplexities are those of text that the BF16 model would write itself; the sharper its "
        "predictions, the more of the same error shows in them. "
        f"Layers made {100 * found['layers_share']:.0f} % of the last state's variance; "
        f"FP8 changes that state by {100 * found['state_error']:.1f} %."
    )
    rows = []
    for key in RANDOM_MEASURES:
        words, unit, digits = FP8_MEASURES[key]
        rows.append([words, *(number(column[key], digits) for column in columns), unit])
    header = ["measure", *(f"logits of std {column['logit_std']:g}" for column in columns), "unit"]
    within = ", ".join(f"{one['logit_std']:g}" for one in columns if abs(one["perplexity_change"]) < PERPLEXITY_AIM)
    aim = f"below {PERPLEXITY_AIM:.1%} are aimed at: {'met at std ' + within if within else 'met at none'}"
    same = f"{greedy['equal']} of {greedy['continuations']} greedy continuations are the same to the end"
    share = number(greedy["equal_prefix_share"], 3)
    section.table(
        header,
        rows,
        f"n = {found['tokens']} tokens. Changes of the perplexity {aim}. {same}; mean part before the first difference {share}.",
    )
    _layer_errors(section, found["layers"], name)


def _reward_scores(section: Section, rewards: dict[str, Any] | None) -> None:
    """The reward scores of answers in BF16 and FP8 (the paper compares 100,000 of each): two distributions and their test."""
    if not rewards:
        return
    curves = {}
    for name in ("bf16", "fp8"):
        quantiles = rewards[name]["quantiles"] or []
        curves[name.upper()] = (quantiles, [i / max(1, len(quantiles) - 1) for i in range(len(quantiles))])
    counts = f"{rewards['bf16']['n']} and {rewards['fp8']['n']} answers to {rewards['prompts']} held-out prompts"
    section.figure(*charts.lines(curves, "reward score", "share of answers below"), f"Reward scores of {counts}.")
    means = [number(rewards[name]["mean"], 3) for name in ("bf16", "fp8")]
    section.text(
        f"Mean score {means[0]} in BF16 and {means[1]} in FP8; the largest distance of the two distributions is "
        f"{number(rewards['ks'], 4)} (Kolmogorov-Smirnov, p = {number(rewards['p_value'], 3)})."
    )


def _measure(summary: dict[str, Any], key: str, digits: int) -> str:
    """A value of the summary, by the path of its keys."""
    value: Any = summary
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return number(value, digits)


def scores_section(artifacts: Sequence[Artifact]) -> Section | None:
    """Held-out accuracy of every model by capability and language, and answers to look at."""
    found = made_by(artifacts, "evals.scores")
    if not found:
        return None
    section = Section("Held-out scores", "5")
    for artifact in found:
        models = read_json(artifact, "scores.json").get("models", {})
        section.data[artifact.name] = models
        rows = [[name, m["overall"]["n"], percent(m["overall"]), m["unfinished"]] for name, m in models.items()]
        section.table(["model", "items", "accuracy (95 %)", "unfinished"], rows, _unchanged(artifacts, list(models)))
        for grouping in ("family", "capability", "lang"):
            groups = sorted({g for m in models.values() for g in m.get(grouping, {})})
            if groups:
                rows = [[name, *(percent(m[grouping].get(g, {})) for g in groups)] for name, m in models.items()]
                section.table(["model", *groups], rows, f"By {grouping}: percent right with its 95 % interval.")
        _answers(section, artifact)
    return section


def _unchanged(artifacts: Sequence[Artifact], models: Sequence[str]) -> str:
    """Which of the models carry the weights of another: a gate refused theirs, or their stage chose among models."""
    known = {artifact.name: artifact for artifact in artifacts}
    sources = {name: origin(known[name], known) for name in models if name in known}
    same = [f"{name} is {source} unchanged" for name, source in sources.items() if name != source]
    return f"Handed on by a gate: {', '.join(same)}." if same else ""


def _accuracy_chart(section: Section, artifacts: Sequence[Artifact], members: set[str]) -> None:
    measured = False
    for artifact in made_by(artifacts, "evals.scores"):
        scores = read_json(artifact, "scores.json").get("models", {})
        shown = {name: score["overall"] for name, score in scores.items() if name in members and score["overall"]["n"]}
        if shown:
            mid, low, high = ([100 * s[key] for s in shown.values()] for key in ("accuracy", "low", "high"))
            section.figure(*charts.bars(list(shown), mid, low, high, "percent right"), "Held-out accuracy with 95 % intervals.")
            measured = True
    if not measured:
        section.text("No held-out task with a verifier: accuracy was not measured.")


def _claims(section: Section, claims: Sequence[dict[str, Any]], members: set[str]) -> None:
    for claim in claims:
        if {claim["better"], claim["control"]} & members:
            section.text(sentence(claim))


def _sampling(section: Section, parts: Sequence[Artifact]) -> None:
    rows = []
    for part in made_by(parts, "post.reject"):
        summary = part.summary()
        passes = ", ".join(f"pass@{k} {100 * value:.1f} %" for k, value in summary.get("pass_at", {}).items())
        rows.append(
            [
                part.name,
                summary.get("prompts", 0),
                summary.get("samples", 0),
                passes,
                summary.get("accepted", 0),
                summary.get("pairs", 0),
            ]
        )
    if rows:
        section.table(["sampling", "prompts", "samples", "right", "accepted", "pairs"], rows)


def _rewards(section: Section, parts: Sequence[Artifact]) -> None:
    rows, sizes = [], []
    for part in made_by(parts, "post.reward"):
        summary = part.summary()
        best = summary.get("best_of_n") or {}
        choices = [_mean(best.get(key)) for key in ("random", "reward", "majority", "oracle", "reward_over_random")]
        pairs, prompts = ((found or {}).get("n", 0) for found in (summary.get("pair_accuracy"), best.get("random")))
        correlation = number(summary.get("length_correlation"), 2)
        sizes.append(f"{part.name} {pairs:,} with pairs, {prompts:,} sampled")
        rows.append([part.name, _mean(summary.get("pair_accuracy")), *choices, correlation])
    if rows:
        header = ["reward model", "pairs in order", "random of n", "best of n by reward", "majority of n", "oracle"]
        header += ["reward minus random", "corr. with length"]
        section.table(header, rows, f"On held-out prompts, percent, with 95 % intervals; prompts: {'; '.join(sizes)}.")
    for part in made_by(parts, "post.reward"):
        _reliability(section, part)


def _reliability(section: Section, reward: Artifact) -> None:
    """How sure the reward model is of pairs against how often it is right, and whether it prefers long answers."""
    summary = reward.summary()
    bins, bias = (summary.get("calibration") or {}).get("bins"), summary.get("length_bias") or {}
    if not bins:
        return
    rows = [
        [f"{100 * found['from']:.0f} to {100 * found['to']:.0f}", found["actual"]["n"], f"{100 * found['predicted']:.1f}",
         _mean(found["actual"])]
        for found in bins
    ]  # fmt: skip
    better, preferred = _mean(bias.get("longer_is_better")), _mean(bias.get("longer_is_preferred"))
    section.table(
        ["certainty, percent", "pairs", "predicted", "in that order"],
        rows,
        f"{reward.name}: calibration on held-out pairs, mean distance {number(summary['calibration']['error'], 3)}. The longer "
        f"answer is better in {better} percent of the pairs of unlike length and preferred in {preferred}.",
    )


def _mean(found: dict[str, Any] | None) -> str:
    if not found or found.get("mean") is None:
        return "–"
    return f"{100 * found['mean']:.1f} ({100 * found['low']:.1f} to {100 * found['high']:.1f})"


def _preference_training(section: Section, parts: Sequence[Artifact]) -> None:
    rows = []
    for part in made_by(parts, "post.dpo"):
        summary = part.summary()
        if summary.get("skipped"):
            outcome = of = f"not trained, {summary['skipped']}"
        else:
            kept, shown = summary["kept_step"], summary["figures_step"]
            outcome = (
                f"step {kept} of {summary['steps']} kept" if kept else f"{summary['steps']} steps discarded, start handed on"
            )
            of = f"step {shown}, {'kept' if shown == kept else 'not kept' if kept else 'discarded'}"
        rows.append([part.name, summary.get("pairs", 0), outcome, of, number(summary.get("preference_accuracy"), 2),
                     number(summary.get("chosen_shift"), 2), number(summary.get("rejected_shift"), 2)])  # fmt: skip
    if rows:
        section.table(
            ["DPO", "pairs", "outcome", "figures of", "preference accuracy", "chosen log-prob shift", "rejected log-prob shift"],
            rows,
            "Accuracy and shifts are those of the training pairs at the step named, against the weights before DPO.",
        )


def _losses(section: Section, parts: Sequence[Artifact]) -> None:
    """A chart for every kind of loss: their values do not compare."""
    for stage, (unit, caption) in LOSSES.items():
        curves = {a.name: curve(metrics(a), "loss") for a in made_by(parts, stage)}
        curves = {name: points for name, points in curves.items() if points[0]}
        if curves:
            section.figure(*charts.lines(curves, "step", unit), caption)


def _answers(section: Section, artifact: Artifact) -> None:
    """The first items with each model's answer, right or wrong."""
    from puna.report.answers import sampled_answers

    for model, texts in sampled_answers(artifact, SHOWN_ANSWERS):
        section.listing(f"answers of {model}", texts)
