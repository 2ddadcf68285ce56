"""What the processes of `test_spread.py` do: every post-training stage once, as one of two processes or alone."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from post_toys import PROVENANCE, base_artifact, finished, run_stage, tasks_artifact, toy_tasks, toy_tokenizer

from puna.core.errors import Preempted
from puna.core.modules import load_stage
from puna.core.stage import Artifact, local_context
from puna.post.steps import LABELS, TOKENS, Labelled
from puna.tokenizer.dialog import Candidate, MessageRow, Preference, write_rows

JUDGED = {"dev": 9, "max_tokens": 6, "log_every": 1}
CASES: dict[str, tuple[list[str], dict[str, Any]]] = {  # inputs and settings by "stage" or "stage, what is special"
    "post.sft": (["base", "tasks"], {"steps": 3, "lr": 1e-2, "batch_tokens": 384, "micro_rows": 1, **JUDGED}),
    "post.sft, adapters": (["base", "tasks"], {"steps": 3, "lr": 1e-2, "batch_tokens": 384, "lora": {"rank": 2}, **JUDGED}),
    "post.logits": (["base", "policy", "tasks"], {"steps": 3, "lr": 1e-2, "batch_tokens": 384, "k": 8, **JUDGED}),
    "post.online": (["base", "policy", "tasks"], {"steps": 3, "lr": 1e-2, "batch_tokens": 384, **JUDGED,
                    "divergence": "jensen-shannon"}),
    "post.online, own answers": (["other", "policy", "tasks"], {"steps": 3, "lr": 1e-2, "batch_tokens": 384, **JUDGED,
                                 "divergence": "reverse", "micro_rows": 1, "own": {"share": 0.5, "prompts_per_step": 25}}),
    "post.dpo": (["policy", "tasks"], {"lr": 1e-3, "pairs_per_step": 7, "micro_pairs": 3, "passes": 1.2, "least_pairs": 1,
                                       "evaluate_every": 2, **JUDGED}),
    "post.dpo, ipo of adapters": (["policy", "tasks"], {"lr": 1e-3, "loss": "ipo", "pairs_per_step": 7, "least_pairs": 1,
                                                        "evaluate_every": 0, "lora": {"rank": 2}, **JUDGED}),
    "post.grpo": (["policy", "tasks"], {"steps": 4, "lr": 1e-3, "updates": 2, "k": 5, "prompts_per_step": 3, "kl": 0.1,
                                        "micro_samples": 2, "evaluate_every": 0, **JUDGED}),
    "post.reward": (["base", "tasks"], {"steps": 3, "pairs_per_step": 7, "least_pairs": 1, "form": "blocks", "likelihood": True,
                                        "log_every": 1}),
    "post.step_reward": (["base", "steps"], {"steps": 3, "answers_per_step": 7, "least_answers": 1, "log_every": 1}),
}  # fmt: skip
STOPPED = "post.grpo"  # in two processes it is asked to stop at a step between two updates on the same answers, and goes on


def artifacts(root: Path) -> dict[str, Artifact]:
    """What the stages read: a random base, a policy that knows the toy's two answers, tasks with preferences, labelled steps."""
    base, tasks = base_artifact(root / "base"), tasks_artifact(root / "tasks")
    write_rows(tasks.path / "preferences.jsonl", [_preference(i) for i in range(20)])
    policy = run_stage(root, "post.sft", "policy", [base, tasks], steps=25, lr=1e-2, batch_tokens=384, **JUDGED)
    other = base_artifact(root / "other", seed=3)
    steps = root / "steps"
    steps.mkdir()
    write_rows(steps / LABELS, [_labelled(i) for i in range(20)])
    (steps / TOKENS).write_text(json.dumps({"tokenizer": toy_tokenizer().digest}))
    return {"base": base, "other": other, "tasks": tasks, "policy": policy, "steps": finished(steps, "steps", "steps")}


def _preference(i: int) -> Preference:
    answers = [[MessageRow(role="assistant", content=text)] for text in ("yes" + "!" * (i % 9), "no" * (1 + i % 5))]
    candidates = [Candidate(messages=messages, origin="toy") for messages in answers]
    prompt = [MessageRow(role="user", content="ab" * (1 + i % 7) + str(i))]
    return Preference(id=str(i), context=prompt, candidates=candidates, ranking=[i % 2, 1 - i % 2], provenance=PROVENANCE)


def _labelled(i: int) -> Labelled:
    ends = [2, 5 + i % 4, 11 + i % 7]
    ids = [(i * 7 + j) % 90 for j in range(ends[-1] + 1)]
    prompt = toy_tasks(20)[i].prompt
    return Labelled(task_id=str(i), prompt=prompt, ids=ids, ends=ends, values=[0.5, i % 3 / 2, float(i % 2)], passed=bool(i % 2))


def run(
    case: str, made: dict[str, Artifact], out: Path, scratch: Path | None = None, stop: int | None = None, **more: Any
) -> Path:
    """Run one case; with `stop`, only until that step."""
    inputs, settings = CASES[case]
    stage: Any = load_stage(case.partition(",")[0])
    ctx = local_context(out, name=case, inputs=[made[name] for name in inputs], seed=7)
    ctx = replace(ctx, scratch=scratch or ctx.scratch, stopping=stopping(stop))
    summary = stage.run(stage.Settings(**settings, **more), ctx)
    (out / "summary.json").write_text(json.dumps(summary, sort_keys=True))
    return out


def stopping(step: int | None) -> Callable[[], bool]:
    """Asks for a stop from the `step`-th time on that it is asked itself."""
    asked = itertools.count()
    return lambda: step is not None and next(asked) >= step


def session(process: int, folder: str, made: dict[str, Artifact]) -> None:
    """All cases as one of two processes; outputs are of each process, the scratch is of both."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=process, world_size=2)
    for case in CASES:
        scratch = Path(folder) / f"{case}.scratch"
        scratch.mkdir(exist_ok=True)
        out = Path(folder) / f"{case}-{process}"
        if case == STOPPED:
            try:
                run(case, made, Path(folder) / f"stopped-{process}", scratch, stop=1, parallel={"dp": 2})
                raise AssertionError("it did not stop")
            except Preempted:
                pass
        run(case, made, out, scratch, parallel={"dp": 2})
    dist.destroy_process_group()
