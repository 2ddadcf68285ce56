"""Verbs about a finished model: chat, serve, eval, convert."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from puna.commands import latest
from puna.commands.options import HERE, Dir, Json
from puna.core.errors import InputError

if TYPE_CHECKING:
    from puna.infer.speculate import PromptLookup

Model = Annotated[str | None, typer.Argument(help="A model directory, or a stage of the last run (default: its chat model).")]

Tensor = Annotated[int, typer.Option("--tensor", min=1, help="Ranks that share each layer; start them with torchrun.")]
Pipeline = Annotated[int, typer.Option("--pipeline", min=1, help="Stages of layers, one after the other, on ranks of their own.")]
Lora = Annotated[
    list[str] | None, typer.Option("--lora", help="A PEFT adapter to merge, DIR or DIR:WEIGHT; several are added in order.")
]
Draft = Annotated[
    str | None,
    typer.Option("--draft", help="What guesses ahead: a smaller model of the herd, or `lookup` in the prompt."),
]
Kernels = Annotated[str, typer.Option("--kernels", help="auto, native, int8 (products of 8-bit numbers) or torch.")]
Device = Annotated[str, typer.Option("--device", help="cpu or cuda.")]


def chat(
    model: Model = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Answer this and end.")] = None,
    system: Annotated[str | None, typer.Option("--system", help="System message.")] = None,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 is greedy.")] = 0.0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1)] = 256,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    tensor: Tensor = 1,
    pipeline: Pipeline = 1,
    device: Device = "cpu",
    lora: Lora = None,
    draft: Draft = None,
    kernels: Kernels = "auto",
    image: Annotated[list[str] | None, typer.Option("--image", help="A picture for the first message: file or address.")] = None,
    video: Annotated[list[str] | None, typer.Option("--video", help="A video for the first message.")] = None,
    audio: Annotated[list[str] | None, typer.Option("--audio", help="A sound for the first message.")] = None,
    directory: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Talk to a model in the terminal."""
    if prompt is not None and not prompt.strip():
        raise InputError("the prompt is empty", where="--prompt", fix="give a question, or leave --prompt out to converse")
    path = latest.model_dir(directory, model)  # a wrong name is said before torch is imported
    from puna.infer.shards import Layout
    from puna.serve.terminal import chat as talk

    talk(
        path,
        prompt=prompt,
        system=system,
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
        as_json=as_json,
        layout=Layout(tensor, pipeline),
        device=device,
        lora=_adapters(lora),
        draft=_draft(directory, draft),
        kernels=kernels,
        images=image or (),
        videos=video or (),
        sounds=audio or (),
    )


def serve(
    model: Model = None,
    host: Annotated[str, typer.Option("--host")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8000,
    tensor: Tensor = 1,
    pipeline: Pipeline = 1,
    device: Device = "cpu",
    lora: Lora = None,
    draft: Draft = None,
    kernels: Kernels = "auto",
    log_requests: Annotated[
        bool, typer.Option("--log-requests/--no-log-requests", help="A line on stderr for each request, without its texts.")
    ] = False,
    allow_media_domains: Annotated[
        list[str] | None,
        typer.Option("--allow-media-domains", help="Fetch media from this host; `*.name`: all below it, `*`: any public one."),
    ] = None,
    media_root: Annotated[
        Path | None, typer.Option("--media-root", help="Read media that requests name from this folder.", file_okay=False)
    ] = None,
    speaker: Annotated[
        Path | None,
        typer.Option("--speaker", help="Models of /v1/audio/speech (default: rules).", file_okay=False),
    ] = None,
    directory: Dir = HERE,
) -> None:
    """Serve a model behind the OpenAI API, with a chat page at /."""
    path = latest.model_dir(directory, model)
    from puna.infer.shards import Layout
    from puna.serve.app import serve as serve_model
    from puna.vision.fetch import MediaRules

    serve_model(
        path, host=host, port=port, layout=Layout(tensor, pipeline), device=device, lora=_adapters(lora),
        draft=_draft(directory, draft), kernels=kernels, log_requests=log_requests,
        rules=MediaRules(domains=_words(allow_media_domains)), media_root=media_root, speaker=speaker,
    )  # fmt: skip


def evaluate(
    model: Model = None,
    tasks: Annotated[
        Path | None,
        typer.Option(
            "--tasks", help="JSONL of GSM8K, HumanEval, MBPP or task rows, or a tasks artifact (default: the last run's)."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N tasks.")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Of an answer; a longer one fails.")] = 48,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Answers to a task, for pass@k.")] = 1,
    temperature: Annotated[float, typer.Option("--temperature", min=0, help="0 takes the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="Of answers that are drawn.")] = 0,
    lora: Lora = None,
    directory: Dir = HERE,
    as_json: Json = False,
) -> None:
    """Score a model on verifiable tasks, with 95 % intervals."""
    if samples > 1 and temperature == 0:
        raise InputError("several samples at temperature 0 are all the same", where="--samples", fix="add --temperature 0.8")
    path, file = latest.model_dir(directory, model), tasks or _last_tasks(directory)
    from puna.post.task_files import read_tasks

    rows = read_tasks(file, limit)  # a wrong file is said before torch is imported
    from puna.evals.command import evaluate as score

    drawing: dict[str, Any] = {"samples": samples, "temperature": temperature, "seed": seed}
    score(path, rows, source=file, max_tokens=max_tokens, **drawing, as_json=as_json, lora=_adapters(lora))


def convert(
    source: Annotated[Path, typer.Argument(help="A model directory, or a GGUF file.")],
    destination: Annotated[Path, typer.Argument(help="Where the converted model goes.")],
    to: Annotated[
        str, typer.Option("--to", help="hf, bf16, fp8, meta (Meta's own layout), gguf (llama.cpp) or text (of a vision model).")
    ] = "hf",
    weights: Annotated[
        str | None, typer.Option("--weights", help="Of a gguf: f32, bf16, f16 or q8_0 (default: as stored).")
    ] = None,
    fp8_format: Annotated[str, typer.Option("--format", help="Of fp8: fbgemm_fp8 or compressed-tensors.")] = "fbgemm_fp8",
    linears: Annotated[
        str, typer.Option("--linears", help="Of fp8: ffn (the paper's: no first and last layer) or all (attention too).")
    ] = "ffn",
    shard_mb: Annotated[int, typer.Option("--shard-mb", min=1, help="Largest file of weights.")] = 5000,
) -> None:
    """Write a model in another format; the source may be in Meta's layout or a GGUF file. Killed, the same command goes on."""
    from puna.infer.convert import convert as write
    from puna.vision.convert import convert_vision, is_vision

    report = (convert_vision if is_vision(source) else write)(
        source, destination, to=to, weights=weights, fp8_format=fp8_format, linears=linears,
        max_shard_bytes=shard_mb * 1_000_000, say=lambda line: typer.echo(line, err=True),
    )  # fmt: skip
    for note in report["notes"]:
        typer.echo(note, err=True)
    typer.echo(str(destination))


def _words(texts: list[str] | None) -> tuple[str, ...]:
    """The words of an option that may be repeated and may hold several with commas."""
    return tuple(word.strip() for text in texts or () for word in text.split(",") if word.strip())


def _adapters(texts: list[str] | None) -> list[tuple[str | Path, float]]:
    from puna.infer.lora import adapter_and_weight

    return [adapter_and_weight(text) for text in texts or ()]


def _draft(directory: Path, text: str | None) -> Path | PromptLookup | None:
    from puna.infer.speculate import PromptLookup

    if text is None:
        return None
    return PromptLookup() if text == "lookup" else latest.model_dir(directory, text)


def _last_tasks(root: Path) -> Path:
    from puna.core.explain import pointed

    run_dir = latest.run_dir(root, None)
    found = [artifact.path for artifact in pointed(run_dir).values() if artifact.kind == "tasks"]
    if not found:
        raise InputError("the last run has no tasks", where=str(run_dir), fix="name a file of tasks with --tasks")
    return found[-1]
