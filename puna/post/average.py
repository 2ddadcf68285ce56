"""Averaging: the uniform mean of the weights of several runs of one stage (section 4.1.5).

The paper averages models trained on other versions of the data or with other hyper-parameters, at each reward, SFT and DPO stage.
The mean is taken in fp32. At the size of the embedded recipe it was at or above the mean of its parts and not always above the
best of them, so it is kept only if it answers at least as many dev tasks as the best single model; the summary says which it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from puna.core.errors import InputError
from puna.core.settings import Settings as BaseSettings
from puna.core.stage import Artifact, StageContext
from puna.model.llama import Llama
from puna.post import checkpoints
from puna.post.gate import Judge, Verdict, comparison, open_judge, read_verdict, write_verdict

KIND = "model"
REVISION = 2


class Settings(BaseSettings):
    """`dev` tasks that judge, answers of at most `max_tokens`."""

    dev: PositiveInt = 500
    max_tokens: int = Field(64, ge=1)


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Average every model input; write the average or the best single model, whichever does better on the dev tasks."""
    parts, tasks = ctx.inputs.all("model"), ctx.inputs.one("tasks")
    if not parts:
        raise InputError("there is no model to average", where=ctx.name, fix="name at least one model under `from`")
    loaded = [checkpoints.load(part) for part in parts]
    tokenizer = loaded[0][1]
    models = [model for model, _ in loaded]
    _refuse_unlike(parts, loaded)
    judge = open_judge(tasks, tokenizer, limit=settings.dev, max_tokens=settings.max_tokens)
    verdicts = [_known(part, model, judge) for part, model in zip(parts, models, strict=True)]
    best = max(range(len(parts)), key=lambda i: (verdicts[i].value, -i))
    mean = averaged(models)
    verdict = judge(mean) if len(parts) > 1 else verdicts[0]
    keep = len(parts) > 1 and verdict.value >= verdicts[best].value
    if keep:
        checkpoints.save(mean, tokenizer, ctx, parts)
    else:
        checkpoints.carry(parts[best], ctx, parts)
        if len(parts) > 1:
            ctx.note(f"the average ({verdict.text()}) is worse than {parts[best].name} ({verdicts[best].text()}), which is kept")
    kept = verdict if keep else verdicts[best]
    write_verdict(kept, ctx.out)
    return {
        "kept": "average" if keep else parts[best].name,
        "average": verdict.summary(),
        "dev": kept.summary(),
        "parts": {part.name: each.summary() for part, each in zip(parts, verdicts, strict=True)},
        "against_best": comparison(verdict, verdicts[best]),
    }


def averaged(models: Sequence[Llama]) -> Llama:
    """A model whose weights are the fp32 mean of those of `models`, which must be of one shape."""
    mean = Llama(models[0].config)
    with torch.no_grad():
        for name, target in mean.named_parameters():
            target.copy_(mean_weight([dict(model.named_parameters())[name] for model in models]))
    return mean.eval()


def mean_weight(weights: Sequence[Tensor]) -> Tensor:
    """Mean in float64, rounded once: equal inputs come back to the bit and the order does not matter at fp32."""
    return torch.stack([weight.detach().double() for weight in weights]).mean(0).float()


def _refuse_unlike(parts: Sequence[Artifact], loaded: Sequence[tuple[Llama, Any]]) -> None:
    for part, (model, tokenizer) in zip(parts[1:], loaded[1:], strict=True):
        if model.config != loaded[0][0].config or tokenizer.digest != loaded[0][1].digest:
            raise InputError(
                "models of different shapes or tokenizers cannot be averaged",
                where=f"{parts[0].name} and {part.name}",
                fix="average runs that start from one base",
            )


def _known(part: Artifact, model: Llama, judge: Judge) -> Verdict:
    """The verdict that lies beside a model if it is on the same items, else a fresh one."""
    found = read_verdict(part.path)
    same = found is not None and found.measure == "accuracy" and len(found.passed) == len(judge.tasks) > 0
    return found if found is not None and same else judge(model)
