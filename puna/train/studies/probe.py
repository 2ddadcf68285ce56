"""One arm of a data-value study (paper 3.1.3): a half-trained model annealed on part new data, part default mix.

The learning rate falls linearly to zero over the arm's steps, by the ordinary annealing stage. All arms are given all shards,
also those of data sets they do not train on, so that each is measured on the same held-out rows.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from puna.core.errors import InputError
from puna.core.settings import Settings as BaseSettings
from puna.core.settings import Share
from puna.core.stage import Artifact, Inputs, StageContext, local_artifact
from puna.data.shards import TOKENIZER_FILES
from puna.train import anneal
from puna.train.corpus import open_corpus
from puna.train.optim import OptimSettings
from puna.train.pretrain import Watching
from puna.train.schedule import LearningRate, check_rows
from puna.train.studies.rows import in_study, losses, rounded, row_losses, write_rows

KIND = "model"
REVISION = 1

PROBE_FILE = "probe.json"
SHARD_SUFFIXES = ("bin", "idx", "json", "parquet")


class Annealing(BaseSettings):
    """How every arm is annealed; `optim.lr` is the rate the checkpoint was trained with, from which it falls to zero."""

    steps: PositiveInt
    batch_tokens: PositiveInt = 1024
    seq_len: PositiveInt | None = None
    piece_tokens: PositiveInt | None = None
    optim: OptimSettings = OptimSettings(name="muon", lr=7e-3)
    held_rows: PositiveInt = 64

    @model_validator(mode="after")
    def _rows(self) -> Annealing:
        check_rows(self.batch_tokens, self.seq_len)
        return self


class Settings(Annealing):
    """One arm.

    Attributes:
        study, replicate: name the random streams.
        share: of the tokens that are new data (paper: 0.3).
        data: what the new data is: the name of a `tokens` input, or weights over groups and sources of the first one; None for
            the control, which reads the default mix alone.
    """

    study: str
    replicate: NonNegativeInt = 1
    share: Share = 0.3
    data: str | dict[str, NonNegativeFloat] | None = None


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Anneal the model, measure it row by row, and write `probe.json` and `held_rows.json` beside its weights."""
    from puna.model.checkpoint import load_model

    joined = join_tokens(ctx.inputs.all("tokens"), ctx.scratch / "tokens")
    mix = blended(settings, joined)
    model = ctx.inputs.one("model")
    seq_len = settings.seq_len
    shared = in_study(ctx, f"{settings.study}/{settings.replicate}")
    shared.inputs = Inputs([model, joined])
    trained = anneal.run(
        anneal.Settings(
            steps=settings.steps, batch_tokens=settings.batch_tokens, seq_len=seq_len, piece_tokens=settings.piece_tokens,
            mix=mix, optim=settings.optim, lr=LearningRate(shape="linear", warmup=0, final=0.0), average=False,
            watch=Watching(evaluate_every=0),
        ),
        shared,
    )  # fmt: skip
    annealed = load_model(ctx.out)
    batches = open_corpus(joined.path, settings.piece_tokens).held_batches(
        seq_len or annealed.config.max_seq_len, settings.held_rows
    )
    rows = row_losses(annealed, batches)
    write_rows(rows, ctx.out)
    facts = {
        "mix": mix, "share": settings.share if settings.data else 0.0, "replicate": settings.replicate,
        "parameters": trained["parameters"], "steps": trained["steps"], "tokens": trained["tokens"],
        "held_loss": {group: rounded(float(losses([rows], {group: 1.0})[0])) for group in rows},
    }  # fmt: skip
    (ctx.out / PROBE_FILE).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    return facts


def join_tokens(artifacts: list[Artifact], out: Path) -> Artifact:
    """Several `tokens` artifacts as one, by links: groups of all but the first are called `<artifact>.<group>`.

    Raises InputError when their tokenizers differ.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    first, *others = artifacts
    records = [json.loads((artifact.path / "mix.json").read_text()) for artifact in artifacts]
    for artifact, record in zip(others, records[1:], strict=True):
        if _tokenizer(artifact) != _tokenizer(first):
            raise InputError("these token shards come from different tokenizers", where=f"{first.path} and {artifact.path}",
                             fix="shard the new documents with the first one's tokenizer")  # fmt: skip
        _link_shards(artifact, out, f"{artifact.name}.")
        records[0].setdefault("joined", {})[artifact.name] = prefixed(_default_mix(record), f"{artifact.name}.")
    _link_shards(first, out, "")
    for name in TOKENIZER_FILES:
        if (first.path / name).exists():
            (out / name).symlink_to((first.path / name).resolve())
    (out / "mix.json").write_text(json.dumps(records[0], sort_keys=True))
    return local_artifact(out, "tokens", first.name)


def blended(settings: Settings, joined: Artifact) -> dict[str, float]:
    """The arm's mix: `share` of new data, the rest the default mix; parts that both have are added up.

    Raises InputError for a data set that is not among the inputs.
    """
    record = json.loads((joined.path / "mix.json").read_text())
    default = _default_mix(record)
    if settings.data is None:
        return default
    there = record.get("joined", {})
    if isinstance(settings.data, str) and settings.data not in there:
        raise InputError(f"no input of kind 'tokens' is called '{settings.data}'", where=", ".join(there) or joined.name)
    new = there[settings.data] if isinstance(settings.data, str) else settings.data
    found: dict[str, float] = {}
    for mix, weight in ((default, 1 - settings.share), (new, settings.share)):
        total = sum(mix.values())
        for key, part in mix.items():
            found[key] = found.get(key, 0.0) + weight * part / total
    return found


def prefixed(mix: Mapping[str, float], prefix: str) -> dict[str, float]:
    """A mix over the renamed groups of a joined artifact."""
    return {prefix + key: weight for key, weight in mix.items()}


def _default_mix(record: Mapping[str, Any]) -> dict[str, float]:
    return record["phases"]["pretrain"]["weights"] if "phases" in record else record["mix"]


def _link_shards(artifact: Artifact, out: Path, prefix: str) -> None:
    for file in sorted(artifact.path.glob("*.bin")):
        split, _, group = file.stem.partition("-")
        for suffix in SHARD_SUFFIXES:
            part = file.with_suffix(f".{suffix}")
            if part.exists():
                (out / f"{split}-{prefix}{group}.{suffix}").symlink_to(part.resolve())


def _tokenizer(artifact: Artifact) -> str:
    from puna.tokenizer.bpe import Tokenizer

    return Tokenizer.load(artifact.path).digest
