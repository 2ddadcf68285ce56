"""Which run and which model a verb means when the user names none: the last run, and its chat model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from puna.core.errors import InputError


def run_dir(root: Path, name: str | None) -> Path:
    """The run's directory by name or path; the one that was last active when none is named."""
    from puna.core.journal import STATUS
    from puna.core.modules import did_you_mean

    folder = root / "runs"
    known = {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{STATUS}"), key=lambda p: p.stat().st_mtime)}
    if name is None:
        if not known:
            raise InputError("there is no run here", where=str(folder), fix="puna up")
        return list(known.values())[-1]
    if name in known:
        return known[name]
    if (Path(name) / STATUS).is_file():
        return Path(name)
    raise InputError(f"there is no run '{name}'", where=str(folder), fix=did_you_mean(name, known) if known else "puna up")


def loaded(root: Path, name: str | None) -> tuple[Any, Any, Path]:
    """Recipe, graph and directory of a run, as the run itself recorded them."""
    from puna.core.graph import build_graph
    from puna.core.layout import LOCK_RECIPE
    from puna.core.recipe import load_recipe

    directory = run_dir(root, name)
    recipe = load_recipe(directory / LOCK_RECIPE)
    return recipe, build_graph(recipe), directory


def model_dir(root: Path, model: str | None) -> Path:
    """A model's directory: a path, a stage of the last run (`flagship-chat`), `RUN/STAGE`, or the last run's chat model."""
    if model is not None and Path(model).is_dir():
        return _checked(Path(model))
    run, slash, stage = (model or "").rpartition("/")
    try:
        directory = run_dir(root, run if slash else None)
    except InputError as error:
        if model is None:
            raise
        fix = "name a directory with config.json, a stage of the last run, or RUN/STAGE"
        raise InputError(
            f"there is no model '{model}': no such directory, and {error.what}", where=error.where, fix=fix
        ) from error
    return model_of(directory, stage)


def model_of(run_dir: Path, stage: str) -> Path:
    """The directory of one model of a run; with an empty name its chat model, or the last one."""
    from puna.core.explain import pointed
    from puna.core.journal import read_status
    from puna.core.modules import did_you_mean

    models = {name: a for name, a in pointed(run_dir).items() if a.kind in ("model", "vision_model", "speech_model")}
    texts = [name for name, a in models.items() if a.kind == "model"]
    if not models:
        raise InputError("this run has made no model yet", where=str(run_dir), fix="puna up, or name a model's directory")
    wanted = stage or read_status(run_dir).get("chat") or (texts or list(models))[-1]
    if wanted not in models:
        raise InputError(f"there is no model '{wanted}'", where=str(run_dir), fix=did_you_mean(wanted, models))
    return models[wanted].path


def voice_dir(root: Path, name: str) -> Path:
    """A `speech_out` directory: a path, or a stage of the last run."""
    if Path(name).is_dir():
        return Path(name)
    from puna.core.explain import pointed
    from puna.core.modules import did_you_mean

    directory = run_dir(root, None)
    voices = {stage: artifact for stage, artifact in pointed(directory).items() if artifact.kind == "speech_out"}
    if name not in voices:
        fix = did_you_mean(name, voices) if voices else "make one with `puna run speech.speak`"
        raise InputError(f"there is no speech-out model '{name}'", where=str(directory), fix=fix)
    return voices[name].path


def _checked(path: Path) -> Path:
    if not (path / "config.json").is_file():
        raise InputError(
            "this directory holds no model", where=str(path), fix="name a directory with config.json and safetensors"
        )
    return path
