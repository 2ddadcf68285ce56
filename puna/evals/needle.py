"""Needle in a haystack: is a key's value found again at the end of a long row, by length of the row and depth of the entry?

The measure of long context in the paper (sections 3.4.2 and 5.2): a stage of context extension counts as done when needles are
found up to the new length. Rows are the same for every model, so before and after can be compared item by item. A value counts as
found when each of its tokens is the model's first choice, given the row up to there.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt, model_validator

from puna.core.errors import InputError
from puna.core.rng import python_stream
from puna.core.settings import Settings as BaseSettings
from puna.core.settings import Share
from puna.core.stage import Artifact, StageContext
from puna.evals.comparison import Comparison, check_names
from puna.evals.stats import rate
from puna.model.checkpoint import load_model
from puna.model.llama import Llama
from puna.tokenizer.bpe import Tokenizer
from puna.world.needle import needle_ids

KIND = "needle"
REVISION = 2
BATCH_TOKENS = 8192  # positions per forward pass
RUN_TOKENS = 64  # longest piece of filler: entries stand between pieces
FILLER_TOKENS = 10_000  # less filler than this would repeat itself within a few rows


class Settings(BaseSettings):
    """`n` rows per length and depth (one number, or one for each length), each with `pairs` entries of which `queries` are asked;
    `compare` names paired tests."""

    lengths: tuple[PositiveInt, ...] = (128, 256, 512, 1024)
    depths: tuple[Share, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    n: PositiveInt | dict[PositiveInt, PositiveInt] = 16
    pairs: PositiveInt = 4
    queries: PositiveInt = 2
    compare: tuple[Comparison, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if isinstance(self.n, dict) and set(self.n) != set(self.lengths):
            raise ValueError(f"n must name every length: {', '.join(map(str, self.lengths))}")
        if self.queries > self.pairs:
            raise ValueError(f"queries {self.queries} is more than pairs {self.pairs}")
        return self

    def rows_at(self, length: int) -> int:
        """Rows of one length and depth."""
        return self.n[length] if isinstance(self.n, dict) else self.n


@dataclass
class Row:
    """Token ids of one row, the [start, end) of its answers, and the nearest of the settings' depths for each."""

    ids: list[int]
    answers: list[tuple[int, int]]
    depths: list[int]


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Write `needle.json`: per model a rate for each length and depth, and the comparisons per length."""
    models = ctx.inputs.all("model")
    if not models:
        raise InputError("there is no model to test", where=ctx.name, fix="name at least one under `from`")
    check_names(settings.compare, [model.name for model in models], ctx.name)
    rows = draw_rows(settings, ctx)
    found: dict[str, dict[int, list[bool]]] = {}
    trained: dict[str, int] = {}
    for done, artifact in enumerate(models):
        model = load_model(artifact.path).eval()
        trained[artifact.name] = model.config.max_seq_len
        found[artifact.name] = {length: find(model, rows[length]) for length in settings.lengths}
        ctx.progress(done + 1, len(models), model=artifact.name)
    result: dict[str, Any] = {
        "lengths": settings.lengths,
        "depths": settings.depths,
        "chance": 1 / settings.pairs,
        "models": {name: {"max_seq_len": trained[name], **_map(settings, rows, by_length)} for name, by_length in found.items()},
        "comparisons": [
            {"length": length, **c.test(found[c.better][length], found[c.control][length])}
            for c in settings.compare
            for length in settings.lengths
        ],
    }
    (ctx.out / "needle.json").write_text(json.dumps(result, indent=1) + "\n")
    return {
        "by_length": {name: model["by_length"] for name, model in result["models"].items()},
        "comparisons": result["comparisons"],
    }


def draw_rows(settings: Settings, ctx: StageContext) -> dict[int, list[Row]]:
    """Rows by length, `n` per depth, beginning with BOS; filler is held-out text."""
    tokens = ctx.inputs.one("tokens")
    tokenizer = Tokenizer.load(tokens.path)
    runs = filler_runs(tokens, tokenizer, ctx)

    def filler(rng: random.Random) -> list[int]:
        return runs[rng.randrange(len(runs))]

    rows: dict[int, list[Row]] = {}
    for length in settings.lengths:
        rows[length] = []
        for depth in settings.depths:
            for number in range(settings.rows_at(length)):
                rng = python_stream(ctx.seed, "needle", length, str(depth), number)
                needle = needle_ids(
                    rng, length - 1, filler, tokenizer.encode, pairs=settings.pairs, queries=settings.queries, depth=depth
                )
                answers = [(start + 1, end + 1) for start, end in needle.answers]
                nearest = [_nearest(settings.depths, where) for where in needle.depths]
                rows[length].append(Row([tokenizer.bos_id, *needle.ids], answers, nearest))
    return rows


def filler_runs(tokens: Artifact, tokenizer: Tokenizer, ctx: StageContext) -> list[list[int]]:
    """Lines of the held-out documents as ids, special tokens left out; the training documents' where too little is held out."""
    runs = _lines(tokens, tokenizer, "held")
    if sum(map(len, runs)) < FILLER_TOKENS:
        ctx.note("too little held-out text for haystacks: the filler is training text")
        runs += _lines(tokens, tokenizer, "train")
    if not runs:
        raise InputError("the token shards hold no text to build haystacks from", where=str(tokens.path))
    return runs


def _lines(tokens: Artifact, tokenizer: Tokenizer, split: str) -> list[list[int]]:
    """Pieces of every shard of a split, at most `FILLER_TOKENS` ids per shard, cut after line breaks."""
    from puna.data.shards import open_shard

    ends_line = np.array([b"\n" in tokenizer.token_bytes(i) for i in range(tokenizer.base_size)])
    runs: list[list[int]] = []
    for file in sorted(tokens.path.glob(f"{split}-*.bin")):
        ids = np.asarray(open_shard(file.with_suffix("")).tokens[:FILLER_TOKENS], dtype=np.int64)
        ids = ids[ids < tokenizer.base_size]
        for line in np.split(ids, np.flatnonzero(ends_line[ids]) + 1):
            runs += [line[at : at + RUN_TOKENS].tolist() for at in range(0, len(line), RUN_TOKENS)]
    return runs


@torch.no_grad()
def find(model: Llama, rows: Sequence[Row]) -> list[bool]:
    """For every answer of every row in order (rows of one length): was each of its tokens the first choice?"""
    found: list[bool] = []
    batch = max(1, BATCH_TOKENS // len(rows[0].ids)) if rows else 1
    for first in range(0, len(rows), batch):
        part = rows[first : first + batch]
        places = [(r, p) for r, row in enumerate(part) for start, end in row.answers for p in range(start, end)]
        which, where = (torch.tensor(column) for column in zip(*places, strict=True))
        ids_BT = torch.tensor([row.ids for row in part])
        choices = model.lm_head(model.hidden(ids_BT[:, :-1])[which, where - 1]).argmax(-1)
        hits = (choices == ids_BT[which, where]).tolist()
        for start, end in (answer for row in part for answer in row.answers):
            found.append(all(hits[: end - start]))
            hits = hits[end - start :]
    return found


def _map(settings: Settings, rows: dict[int, list[Row]], found: dict[int, list[bool]]) -> dict[str, Any]:
    """`cells[length][depth]` and `by_length`, pass rates with Wilson intervals."""
    cells, by_length = [], {}
    for length in settings.lengths:
        depth_of = [depth for row in rows[length] for depth in row.depths]
        hits = list(zip(depth_of, found[length], strict=True))
        counts = [[hit for depth, hit in hits if depth == wanted] for wanted in range(len(settings.depths))]
        cells.append([rate(sum(column), len(column)) for column in counts])
        by_length[str(length)] = rate(sum(found[length]), len(found[length]))
    return {"by_length": by_length, "cells": cells}


def _nearest(depths: Sequence[float], where: float) -> int:
    return min(range(len(depths)), key=lambda i: abs(depths[i] - where))
