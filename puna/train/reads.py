"""Which training steps read a document: the last link of its path from page to weights (`puna explain`).

Nothing is logged while training. What a step reads follows from the settings, the run's seed and the shards alone, so the
question is answered afterwards from the record of the training stage and the token shards it read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from puna.core.errors import InputError
from puna.core.modules import load_stage
from puna.core.stage import Artifact, Inputs, StageContext
from puna.data.shards import find_document
from puna.model.checkpoint import read_config
from puna.model.config import ModelConfig
from puna.train.corpus import Corpus, Pieces, cut_at_lines, line_end_tokens, open_corpus
from puna.train.long_context import LongBatches
from puna.train.schedule import Batching, Schedule
from puna.train.stream import TokenStream

STAGES = ("train.pretrain", "train.anneal", "train.long_context")


def steps_that_read(trained: Artifact, tokens: Path, document: str) -> list[dict[str, Any]]:
    """Every row of a training stage that read tokens of a document, in order of step and row.

    Args:
        trained: made by `train.pretrain`, `train.anneal` or `train.long_context`, with its record.
        tokens: the `tokens` artifact it trained on.
        document: id of the document.
    Returns: the fields of `puna.train.stream.Reading` (steps from 0), with `group` and `index` of the document in its shard and,
        where documents are cut (`piece_tokens`), the number of its `piece`, to which `start` then refers. Of long context, the
        rows that are not needle rows. Empty for a document that is held out, or is never reached.
    Raises:
        InputError: for a stage of another kind, or a document that is in no shard.
    """
    stage = trained.record.get("stage", "no stage")
    if stage not in STAGES:
        raise InputError(f"'{stage}' does not say which documents it reads", where=trained.name,
                         fix=f"name a stage of {', '.join(STAGES)}")  # fmt: skip
    places = find_document(tokens, document)
    if not places:
        raise InputError(f"there is no document '{document}' in these shards", where=str(tokens), fix="puna explain its URL")
    trained_on = tuple(sorted({group for split, group, _ in places if split == "train"}))
    corpus = _corpus(Path(tokens), trained.record["settings"].get("piece_tokens"), trained_on)
    found = []
    for first, row, stream in _streams(trained, corpus):
        for split, group, index in places:
            found += _rows(corpus, stream, group, index, first, row) if split == "train" else []
    return sorted(found, key=lambda reading: (reading["step"], reading["row"], reading["column"]))


@lru_cache(maxsize=2)
def _corpus(tokens: Path, piece_tokens: int | None, groups: tuple[str, ...]) -> Corpus:
    """The corpus of a stage, of which only some groups are cut: the rows of a group do not depend on what others hold.

    Stages of one run mostly train on the same pieces, and cutting them is most of the time.
    """
    corpus = open_corpus(tokens)
    if piece_tokens is None:
        return corpus
    line_ends = line_end_tokens(corpus.tokenizer)
    bos, eos = corpus.tokenizer.bos_id, corpus.tokenizer.eos_id
    for group in groups:
        corpus.train[group] = cut_at_lines(corpus.train[group], line_ends, piece_tokens, bos, eos)
    return corpus


def _rows(corpus: Corpus, stream: TokenStream, group: str, index: int, first: int, row: int) -> list[dict[str, Any]]:
    shard = corpus.train[group]
    if not isinstance(shard, Pieces):
        return [_row(reading, first, row) | {"group": group, "index": index} for reading in stream.find(group, index)]
    return [
        _row(reading, first, row) | {"group": group, "index": index, "piece": number}
        for number, piece in enumerate(np.flatnonzero(shard.documents == index).tolist())
        for reading in stream.find(group, piece)
    ]


def _row(reading: Any, first: int, row: int) -> dict[str, Any]:
    return asdict(reading) | {"step": first + reading.step, "row": row + reading.row}


def _streams(trained: Artifact, corpus: Corpus) -> list[tuple[int, int, TokenStream]]:
    """(steps before it, rows before its own in a step, token stream) of each part of a training stage."""
    record = trained.record
    ctx = StageContext(record["name"], Inputs([]), Path(), Path(), seed=record["identity"]["seed"])
    settings: Any = load_stage(record["stage"]).Settings.model_validate(record["settings"])
    if record["stage"] == "train.long_context":
        return _long_streams(record, settings, corpus, ctx)
    mix = settings.mix or corpus.anneal_mix if record["stage"] == "train.anneal" else settings.mix
    seq_len = settings.seq_len or ModelConfig.from_hf(read_config(trained.path)).max_seq_len
    batching = Batching(batch_tokens=settings.batch_tokens, seq_len=seq_len, mix=mix)
    schedule = Schedule(steps=settings.steps, phases=getattr(settings, "phases", ()), batching=batching)
    return [(0, 0, corpus.stream(schedule, ctx.stream_seed("tokens")))]


def _long_streams(
    record: Mapping[str, Any], settings: Any, corpus: Corpus, ctx: StageContext
) -> list[tuple[int, int, TokenStream]]:
    """The ordinary rows of every stage of context and of its rounds of more steps; they follow the needle rows of a step."""
    found, before = [], 0
    for stage, steps in zip(record["summary"]["stages"], settings.stage_steps(), strict=True):
        rounds = [f"{stage['seq_len']}-more{extra + 1}" for extra in range(stage["extra_rounds"])]
        parts = [(str(stage["seq_len"]), steps), *((name, settings.gate.round_steps) for name in rounds)]
        for name, count in parts:
            batches = LongBatches(settings, ctx, corpus, stage["seq_len"], name, count)
            if batches.plain is not None:
                found.append((before, batches.needle_rows, batches.plain))
            before += count
    return found
