"""Both kinds of classifier on the same labels: held-out accuracy, area under the ROC curve, CPU seconds.

    python bench/scorers.py ../shared/data [kinds refusals order]

Writes bench/results/scorers.json. Kinds of text (maths problems, dialogs, plays) and refusals (did the model comply, refuse, or
refuse in part) are what real labels are at hand for; `order` is made up: a sun and a moon among colours, and the class is which
of the two comes first. One thread. Five shares of the texts are held out in turn, so each text is judged once by a model that did
not see it.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from time import process_time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa

import puna.data.transformer_network  # noqa: F401  # loading torch is no part of the times
from puna.data.classify_scores import report
from puna.data.linear import LinearSettings, train_linear
from puna.data.transformer import TransformerSettings, learn_tokenizer, train_transformer

PER_KIND = 680
FOLDS = 5
TRAINERS: dict[str, Any] = {
    "linear": lambda *given: train_linear(*given, LinearSettings()),
    "transformer": lambda *given: train_transformer(*given, TransformerSettings()),
}


def main() -> None:
    data, out = Path(sys.argv[1]), Path(__file__).parent / "results" / "scorers.json"
    found = json.loads(out.read_text()) if out.exists() else {}
    tasks = {"kinds": kinds(data), "refusals": refusals(data), "order": orders()}
    for task in sys.argv[2:] or tasks:
        rows = tasks[task]
        order = np.random.default_rng(0).permutation(len(rows))
        texts, names = pa.array([rows[i][0] for i in order]), [rows[i][1] for i in order]
        TRAINERS["linear"](texts, *coded(names)).score_batch(texts)  # compiles what is needed, and so does the next line
        learn_tokenizer(texts, TransformerSettings())
        for name, train in TRAINERS.items():
            found[f"{task}, {name}"] = measured(texts, names, train)
            print(task, name, json.dumps(found[f"{task}, {name}"]), flush=True)
    out.write_text(json.dumps(found, indent=1) + "\n")


def measured(texts: pa.Array, names: list[str], train: Any) -> dict[str, Any]:
    labels, classes = coded(names)
    chances, training, scoring = np.zeros((len(labels), len(classes)), dtype=np.float32), 0.0, 0.0
    for fold in range(FOLDS):
        held = np.arange(len(labels)) % FOLDS == fold
        start = process_time()
        model = train(texts.filter(pa.array(~held)), labels[~held], classes)
        trained = process_time()
        chances[held] = model.score_batch(texts.filter(pa.array(held)))
        training, scoring = training + trained - start, scoring + process_time() - trained
    judged = report(chances, labels, classes, None)
    return {
        "n": judged["n"],
        "accuracy": judged["accuracy"],
        "auc": {name: area["value"] for name, area in judged["auc"].items()},
        "confusion": judged["confusion"],
        "training_cpu_s": round(training / FOLDS, 2),
        "scoring_cpu_ms_per_text": round(1e3 * scoring / len(labels), 3),
    }


def coded(names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Labels as numbers, and the classes."""
    classes, labels = np.unique(names, return_inverse=True)
    return labels.astype(np.int32), classes.tolist()


def kinds(data: Path) -> list[tuple[str, str]]:
    """Word problems (GSM8K), messages of dialogs (OASST), speeches of plays (tiny Shakespeare)."""
    problems = [json.loads(line)["question"] for line in (data / "gsm8k" / "train.jsonl").open()]
    messages = [
        text for line in (data / "oasst_trees" / "en_60_tree.jsonl").open() for text in messages_of(json.loads(line)["prompt"])
    ]
    plays = (data / "text_en" / "tinyshakespeare.txt").read_text().split("\n\n")
    plays = [text for text in plays if len(text) > 60]
    of_kind = {"maths": problems, "dialog": messages, "general": plays}
    return [(text, kind) for kind, texts in of_kind.items() for text in texts[:PER_KIND]]


def messages_of(message: dict[str, Any]) -> Iterator[str]:
    yield message["text"]
    for reply in message.get("replies", []):
        yield from messages_of(reply)


def refusals(data: Path) -> list[tuple[str, str]]:
    """Answers to prompts of XSTest with what people said of them."""
    file = data / "safety_xstest" / "completions" / "xstest_v2_completions_llama2orig.csv"
    return [(row["completion"], row["final_label"][2:]) for row in csv.DictReader(file.open())]


def orders() -> list[tuple[str, str]]:
    """1,200 rows of nine words; neither a word nor a pair of words tells the class, unless the two are neighbours."""
    draws, rows = np.random.default_rng(4), []
    for index in range(1200):
        words = draws.choice(("red", "blue", "green", "black", "white", "brown", "grey", "pink"), 9).tolist()
        first, second = sorted(draws.choice(9, 2, replace=False).tolist())
        words[first], words[second] = ("sun", "moon") if index % 2 else ("moon", "sun")
        rows.append((" ".join(words), "sun" if index % 2 else "moon"))
    return rows


if __name__ == "__main__":
    main()
