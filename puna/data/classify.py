"""Trains a classifier of documents from labels: quality, code, reasoning, kinds of knowledge (paper sections 3.1.1 and 3.1.2).

Labels come from files (a field of every row, or one label for a whole file: "pages that Wikipedia refers to"), from the input
documents as a class of their own ("any page of the web"), and from a language model that is asked about a sample of the
documents. A share of the labelled texts, chosen by the hash of the text, is held out and makes the report. `data.curate` takes
the artifact among its inputs and writes the scores beside the documents.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xxhash
from pydantic import Field, PositiveInt, field_validator, model_validator

from puna.core.errors import InputError
from puna.core.licences import licence_of_model
from puna.core.settings import Settings as StageSettings
from puna.core.stage import StageContext
from puna.data.classify_judge import Judge, judge_texts, load_prompt, prompt_digest
from puna.data.classify_scores import report
from puna.data.columns import documents
from puna.data.linear import Linear, LinearSettings, train_linear
from puna.data.local_files import text_of_record
from puna.data.open_file import STREAM_ERRORS, open_bytes
from puna.data.transformer import Transformer, TransformerSettings, train_transformer

if TYPE_CHECKING:
    import pyarrow as pa

KIND = "classifier"
REVISION = 3  # the judge is a judge in the lineage

HELD_SLOTS = 10_000  # hashes of texts are sorted into so many slots to choose the held-out share
NAMED_BAD = 100  # bad rows that are listed; all are counted


class LabelFile(StageSettings):
    """A JSONL file of labelled texts, compressed or not.

    Attributes:
        path: the file.
        label: the label of every row; None to read it from `label_field`.
        text_field: where the text is; None to find it by its usual names.
        licence: of the texts, for the lineage.
        rows: at most so many rows, from the beginning; None for all.
    """

    path: str
    label: str | None = None
    label_field: str = "label"
    text_field: str | None = None
    licence: str = "unknown"
    rows: PositiveInt | None = None


class Settings(StageSettings):
    """Which labels, which classes, which classifier.

    Attributes:
        labels: files of labelled texts.
        judge: a language model to label a sample of the input documents.
        documents_label: a class that a sample of the input documents stands for, `documents` of them.
        classes: the classes in order; by default those of the judge's prompt, else all labels in alphabetical order. Rows with
            another label are counted and left out.
        positive: the class whose probability is the score; by default the prompt's.
        held: share of the labelled texts held out for the report.
        model: `linear`, cheap enough for every document, or `transformer`, which reads words in their places.
        linear: features and training of the one.
        transformer: shape and training of the other.
    """

    labels: tuple[LabelFile, ...] = ()
    judge: Judge | None = None
    documents_label: str | None = None
    documents: PositiveInt = 5000
    classes: tuple[str, ...] = ()
    positive: str | None = None
    held: float = Field(0.2, ge=0, lt=1)
    model: Literal["linear", "transformer"] = "linear"
    linear: LinearSettings = LinearSettings()
    transformer: TransformerSettings = TransformerSettings()

    @field_validator("labels", mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        entries = [value] if isinstance(value, str | dict) else value
        return [{"path": entry} if isinstance(entry, str) else entry for entry in entries]

    @model_validator(mode="after")
    def _some_labels(self) -> Settings:
        if not self.labels and self.judge is None:
            raise ValueError("labels come from `labels` (files) or `judge` (a language model); give one")
        if self.positive is not None and self.classes and self.positive not in self.classes:
            raise ValueError("`positive` is one of `classes`")
        return self


def outside(settings: Settings) -> dict[str, Any]:
    """What the classifier depends on besides its settings: the label files and the prompt."""
    found: dict[str, Any] = {}
    for index, source in enumerate(settings.labels):
        try:
            found[f"{index}:{Path(source.path).name}"] = xxhash.xxh3_128_hexdigest(Path(source.path).read_bytes())
        except OSError as error:
            raise InputError(f"this file of labels cannot be read: {error}", where=source.path) from error
    if settings.judge is not None:
        found["prompt"] = prompt_digest(settings.judge.prompt)
    return found


class Labelled:
    """Texts with labels, and what became of the rows that gave none."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.labels: list[str] = []
        self.origins: list[str] = []
        self.bad: Counter[str] = Counter()
        self.bad_rows: list[dict[str, Any]] = []

    def add(self, text: str, label: str, origin: str) -> None:
        """One labelled text."""
        self.texts.append(text)
        self.labels.append(label)
        self.origins.append(origin)

    def refuse(self, origin: str, why: str, **details: Any) -> None:
        """One row without a usable text or label."""
        self.bad[why] += 1
        if len(self.bad_rows) < NAMED_BAD:
            self.bad_rows.append({"origin": origin, "why": why, **details})


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Write the classifier (its own files), `report.json`, `labels.jsonl` and `bad_rows.jsonl`; CPU times lie in `volatile/`.

    Raises:
        InputError: a file cannot be read, a needed `documents` input is missing, or a class has no text to learn from.
    """
    import pyarrow as pa

    rows = Labelled()
    for source in settings.labels:
        _from_file(source, rows, ctx)
    if settings.documents_label is not None:
        for name, text in _sample(ctx, settings.documents):
            rows.add(text, settings.documents_label, f"document:{name}")
    cost = _from_judge(settings.judge, rows, ctx) if settings.judge is not None else {}
    held_out = [_slot(text) < settings.held * HELD_SLOTS for text in rows.texts]
    learned = {label for label, apart in zip(rows.labels, held_out, strict=True) if not apart}
    classes, positive = _classes(settings, learned)
    keep = [index for index, label in enumerate(rows.labels) if label in classes]
    for index in sorted(set(range(len(rows.labels))) - set(keep)):
        rows.refuse(rows.origins[index], "label is none of the classes", label=rows.labels[index])
    texts = pa.array([rows.texts[index] for index in keep], type=pa.large_string())
    labels = np.array([classes.index(rows.labels[index]) for index in keep], dtype=np.int32)
    held = np.array([held_out[index] for index in keep], dtype=bool)
    started = process_time()
    model = _train(texts.filter(pa.array(~held)), labels[~held], classes, settings, ctx)
    trained = process_time()
    chances = model.score_batch(texts.filter(pa.array(held)))
    ctx.timing(
        training_cpu_s=round(trained - started, 3), scoring_cpu_s=round(process_time() - trained, 3), scored=int(held.sum())
    )
    found = report(chances, labels[held], classes, positive)
    model.about |= {"positive": positive, "trained_on": int((~held).sum()), "held_out": found}
    model.save(ctx.out)
    _write_rows(ctx.out, rows, keep, held)
    summary = {
        "classes": {name: int((labels == index).sum()) for index, name in enumerate(classes)},
        "positive": positive,
        "trained_on": int((~held).sum()),
        "bad_rows": dict(rows.bad),
        "held_out": {"n": found["n"], "accuracy": found["accuracy"], "auc": found["auc"]},
        **({"judge": cost} if cost else {}),
    }
    (ctx.out / "report.json").write_text(json.dumps(summary | {"held_out": found}, indent=1, ensure_ascii=False) + "\n")
    _tell(ctx, found, positive, rows)
    return summary


def _train(
    texts: pa.Array, labels: np.ndarray, classes: list[str], settings: Settings, ctx: StageContext
) -> Linear | Transformer:
    if settings.model == "linear":
        return train_linear(texts, labels, classes, settings.linear, seed=ctx.stream_seed("linear"))

    def after_step(done: int, total: int, save: Callable[[], None]) -> None:
        ctx.progress(done, total)
        ctx.checkpoint_or_stop(save)

    seed, state = ctx.stream_seed("transformer"), ctx.scratch / "transformer_state.safetensors"
    return train_transformer(texts, labels, classes, settings.transformer, seed=seed, state=state, after_step=after_step)


def _from_file(source: LabelFile, rows: Labelled, ctx: StageContext) -> None:
    name, count = Path(source.path).name, 0
    try:
        with open_bytes(Path(source.path)) as file:
            for number, line in enumerate(file, 1):
                if source.rows is not None and count >= source.rows:
                    break
                if line.strip():
                    count += _file_row(line, source, f"{name}:{number}", rows)
    except STREAM_ERRORS as error:
        raise InputError(f"this file of labels cannot be read: {error}", where=source.path) from error
    ctx.add_source(name, source.licence, rows=count)


def _file_row(line: bytes, source: LabelFile, origin: str, rows: Labelled) -> bool:
    try:
        row = json.loads(line)
        text = row.get(source.text_field) if source.text_field else text_of_record(row)
        label = source.label if source.label is not None else row.get(source.label_field)
    except (ValueError, RecursionError, AttributeError):
        rows.refuse(origin, "no JSON object")
        return False
    if not isinstance(text, str) or not text.strip():
        rows.refuse(origin, "no text")
    elif label is None or isinstance(label, dict | list):
        rows.refuse(origin, "no label")
    else:
        rows.add(text, str(label), origin)
        return True
    return False


def _sample(ctx: StageContext, count: int) -> list[tuple[str, str]]:
    """Id and text of `count` input documents, those with the smallest hash of id: the same ones whatever the order."""
    directory = ctx.inputs.one("documents").path
    seed = ctx.stream_seed("sample")
    keyed = (
        (xxhash.xxh3_64_intdigest(row["id"].encode(), seed=seed), row["id"], row["text"])
        for row in documents(directory, ["id", "text"])
    )
    return [(name, text) for _, name, text in heapq.nsmallest(count, keyed)]


def _from_judge(judge: Judge, rows: Labelled, ctx: StageContext) -> dict[str, Any]:
    """Ask the judge about a sample of the documents. Returns requests, tokens and money."""
    if not judge.url:
        raise InputError("`judge` needs the address of the labelling model", fix="judge: {url: http://127.0.0.1:8000/v1, ...}")
    asked = _sample(ctx, judge.documents)

    def done(count: int, total: int) -> None:
        ctx.progress(count, total)
        ctx.checkpoint_or_stop(lambda: None)

    answers = judge_texts([text for _, text in asked], judge, ctx.scratch / "judge.jsonl", done=done)
    for (name, text), answer in zip(asked, answers, strict=True):
        if answer["label"] is None:
            rows.refuse(f"document:{name}", "the answer names no single class", answer=answer["answer"][:200])
        else:
            rows.add(text, answer["label"], f"document:{name}")
    known = licence_of_model(judge.model) if judge.licence == "unknown" else None
    ctx.add_source(judge.model, known[0] if known else judge.licence, rows=len(asked), use="outputs", role="judge")
    tokens_in, tokens_out = (sum(answer[name] for answer in answers) for name in ("tokens_in", "tokens_out"))
    money = (tokens_in * judge.price_in + tokens_out * judge.price_out) / 1e6
    return {
        "model": judge.model,
        "requests": len(answers),
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "cost": round(money, 6),
    }


def _classes(settings: Settings, learned: set[str]) -> tuple[list[str], str | None]:
    """The classes in order and the positive one; a class of the prompt that no text was given is left out."""
    prompt = load_prompt(settings.judge.prompt) if settings.judge is not None else None
    ordered = prompt.classes if prompt else tuple(sorted(learned))
    classes = list(settings.classes) or [name for name in ordered if name in learned]
    positive = settings.positive or (prompt.positive if prompt else None)
    if positive is not None and positive not in classes:
        raise InputError(f"no text is labelled '{positive}', the positive class", where=f"labels: {', '.join(classes) or 'none'}")
    return classes, positive


def _slot(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "replace")) % HELD_SLOTS


def _write_rows(out: Path, rows: Labelled, keep: list[int], held: np.ndarray) -> None:
    with (out / "labels.jsonl").open("w", encoding="utf-8") as file:
        for index, apart in zip(keep, held.tolist(), strict=True):
            row = {"origin": rows.origins[index], "label": rows.labels[index], "held_out": apart}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    with (out / "bad_rows.jsonl").open("w", encoding="utf-8") as file:
        for row in rows.bad_rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _tell(ctx: StageContext, found: dict[str, Any], positive: str | None, rows: Labelled) -> None:
    accuracy = found["accuracy"]
    if accuracy["n"]:
        low, high = accuracy["interval"]
        told = f"held-out accuracy {accuracy['value']:.3f} [{low:.3f}, {high:.3f}] of {accuracy['n']}"
        area = found["auc"].get(positive, {}).get("value")
        ctx.note(told + (f", area under the curve of '{positive}' {area:.3f}" if area is not None else ""))
    if unseen := [name for name, guesses in found["confusion"].items() if not any(guesses.values())]:
        ctx.note(f"no held-out text of {', '.join(unseen)}: the report says nothing of how well it is met")
    if rows.bad:
        ctx.note("rows without a label: " + ", ".join(f"{why} {count}" for why, count in sorted(rows.bad.items())))
