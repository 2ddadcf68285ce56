"""`puna eval MODEL --tasks FILE`: the score of one model directory on a file of tasks, as a small table or as JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from puna.evals.stats import bootstrap, pass_at, rate
from puna.evals.tasks import run_tasks
from puna.infer.load import load_engine
from puna.tokenizer.dialog import Task


def evaluate(
    model_dir: str | Path,
    tasks: Sequence[Task],
    *,
    source: str | Path,
    max_tokens: int = 48,
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    as_json: bool = False,
    lora: Sequence[tuple[str | Path, float]] = (),
) -> dict[str, Any]:
    """Print and return pass rates with 95 % intervals, overall and by family and language.

    Of several samples a task, the rates are those of the first; beside them stands pass@k, unbiased (Chen et al. 2021, eq. 1),
    with an interval over the tasks. `source` names the tasks in what is printed.
    """
    engine, tokenizer = load_engine(model_dir, lora=lora)
    answers = run_tasks(engine, tokenizer, tasks, max_tokens=max_tokens, n=samples, temperature=temperature, seed=seed)
    counts: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for task, answer in zip(tasks, answers[::samples], strict=True):
        for key in (("", "overall"), ("family", task.family), ("lang", task.lang)):
            counts[key].append(answer.passed)
    result: dict[str, Any] = {"model": str(model_dir), "tasks": str(source), "family": {}, "lang": {}}
    for (grouping, name), passed in sorted(counts.items()):
        (result[grouping] if grouping else result)[name] = rate(sum(passed), len(passed))
    if samples > 1:
        right = [sum(a.passed for a in answers[i : i + samples]) for i in range(0, len(answers), samples)]
        result["pass_at"] = {str(k): _pass_at(k, samples, right, seed) for k in _powers(samples)}
    print(json.dumps(result, ensure_ascii=False) if as_json else _table(result))
    return result


def _powers(samples: int) -> list[int]:
    return sorted({samples} | {2**i for i in range(samples.bit_length()) if 2**i <= samples})


def _pass_at(k: int, samples: int, right: Sequence[int], seed: int) -> dict[str, float | int]:
    rates = [pass_at(k, samples, count) for count in right]
    low, high = bootstrap(rates, seed)
    return {"accuracy": sum(rates) / len(rates), "low": low, "high": high, "n": len(rates)}


def _table(result: dict[str, Any]) -> str:
    rows = [("overall", result["overall"])]
    rows += [(f"{grouping} {name}", value) for grouping in ("family", "lang") for name, value in result[grouping].items()]
    rows += [(f"pass@{k}", value) for k, value in result.get("pass_at", {}).items()]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'':{width}}  accuracy  95 % interval      n"]
    for name, value in rows:
        interval = f"{100 * value['low']:5.1f} - {100 * value['high']:5.1f}"
        lines.append(f"{name:{width}}  {100 * value['accuracy']:6.1f} %  {interval:13}  {value['n']:5d}")
    return "\n".join(lines)
