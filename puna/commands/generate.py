"""`puna generate`: samples for every prompt of a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from puna.commands import latest
from puna.commands.options import HERE, Dir, Json, show


def generate(
    model: Annotated[str, typer.Argument(help="A model directory, or a stage of the last run.")],
    prompts: Annotated[Path, typer.Argument(help='JSONL: {"prompt": "..."} to continue, {"messages": [...]} to answer.')],
    out: Annotated[Path, typer.Argument(help="JSONL with a line of samples per row; the same command goes on with it.")],
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Samples per prompt.")] = 1,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 is greedy.")] = 1.0,
    top_p: Annotated[float, typer.Option("--top-p", min=0.0, max=1.0)] = 1.0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1)] = 256,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    score: Annotated[
        str, typer.Option("--score", help="verify (the verifier of each row) or reward:DIR (a reward model).", show_default=False)
    ] = "",
    best: Annotated[bool, typer.Option("--best", help="Keep only the sample with the highest score.")] = False,
    ray: Annotated[bool, typer.Option("--ray", help="Replicas are tasks of a Ray cluster.")] = False,
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="Engines at work at once.")] = 1,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Of each engine (default: its share of cores).")] = None,
    kernels: Annotated[
        str, typer.Option("--kernels", help="native (BF16 on a CPU), int8 (native, rounded to 8 bits), torch or auto.")
    ] = "auto",
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    window: Annotated[int, typer.Option("--window", min=0, help="Rows answered together (0: about 512 samples).")] = 0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="List bad rows in OUT.bad.jsonl instead of refusing.")] = False,
    directory: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Sample answers to every prompt of a file, and score them. Killed, the same command goes on."""
    from puna.core.console import listener
    from puna.core.errors import InputError
    from puna.infer.batch import Job
    from puna.infer.batch import generate as answer

    if kernels not in ("native", "int8", "torch", "auto"):
        raise InputError(f"there are no kernels called '{kernels}'", where="--kernels", fix="native, int8, torch or auto")
    if not top_p > 0:
        raise InputError("top_p must be above 0", where="--top-p")
    job = Job(
        latest.model_dir(directory, model), prompts, n=n, temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed,
        score=score, best=best, window=window, kernels=kernels, device=device,  # type: ignore[arg-type]
    )  # fmt: skip
    screen = listener(as_json=False, stages=["generate"], out=sys.stderr)

    def progress(done: int, total: int) -> None:
        screen.event({"event": "progress", "stage": "generate", "done": done, "total": total})

    try:
        found = answer(job, out, replicas=replicas, ray=ray, threads=threads, skip_bad=skip_bad, progress=progress)
    finally:
        screen.close()
    kept = f", {found['kept']} of them finished before" if found["kept"] else ""
    show({"out": str(out), **found}, f"{found['rows']} rows{kept}: {out}{_score(score, found)}", as_json)


def _score(score: str, found: dict[str, Any]) -> str:
    """What the scores say in sum."""
    if not found.get("scored"):
        return ""
    if score == "verify":
        return f"\n{found['mean_score']:.1%} of {found['scored']} samples pass"
    return f"\nmean reward {found['mean_score']:.3f} of {found['scored']} samples"
