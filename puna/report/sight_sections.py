"""The report on section 7: what models that see answer, beside what they answer with other pictures, and pictures to look at."""

from __future__ import annotations

import html
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from puna.core.rng import numpy_stream
from puna.core.stage import Artifact
from puna.evals.one import ITEMS_FILE, read_items
from puna.report import charts
from puna.report.claims import sentence
from puna.report.page import Section
from puna.report.sources import made_by, percent, read_json
from puna.tokenizer.chat import Medium
from puna.tokenizer.dialog import Task, read_rows

TRAINING = ("vision.pretrain", "vision.anneal", "vision.sft", "vision.clips", "vision.dpo")
CONTROLS = {  # ending of a model's name, and what it was shown
    "": "its own picture", ".shuffled": "another item's picture", ".frames": "its frames in disorder", ".blind": "no picture",
    ".commonest": "(commonest answer of training)",
}  # fmt: skip
SHOWN = {"image": 12, "video": 6}  # items in the gallery
TYPES = {".png": "image/png", ".gif": "image/gif", ".webp": "image/webp", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
MOST_BYTES = 60_000  # of a file in the page


def sight_section(artifacts: Sequence[Artifact], claims: Sequence[dict[str, Any]]) -> Section | None:
    """Accuracy by kind of question with its controls, pictures beside answers, gates, and the proof that texts are as before."""
    scored = made_by(artifacts, "vision.scores")
    if not scored:
        return None
    section = Section("What it sees", "7")
    for scores in scored:
        found = read_json(scores, "scores.json")
        for model in _seeing(found):
            _rates(section, model, found["models"])
        section.data[scores.name] = {"models": found["models"], "gates": found["gates"]}
    models = {model for scores in scored for model in _seeing(read_json(scores, "scores.json"))}
    for claim in claims:
        if claim["better"] in models:
            section.text(sentence(claim))
    _gallery(section, scored, artifacts)
    _gates(section, scored)
    _frozen(section, artifacts)
    return section


def _seeing(scores: Mapping[str, Any]) -> list[str]:
    """The models among the names, without their controls."""
    return list(scores["gates"])


def _rates(section: Section, model: str, models: Mapping[str, Any]) -> None:
    shown = {ending: models[model + ending]["family"] for ending in CONTROLS if model + ending in models}
    kinds = list(shown[""])
    series = {CONTROLS[ending]: [of.get(kind, {}) for kind in kinds] for ending, of in shown.items()}
    section.heading(model)
    section.figure(
        *charts.grouped_rates(kinds, series, "right, percent"),
        f"{model}: held-out questions answered right by kind (95 % intervals), and what it answers without the right picture.",
    )
    rows = [[kind, shown[""][kind]["n"], *(percent(of.get(kind, {})) for of in shown.values())] for kind in kinds]
    section.table(["question", "n", *(CONTROLS[ending] for ending in shown)], rows, "Percent right (95 %).")


def _gallery(section: Section, scored: Sequence[Artifact], artifacts: Sequence[Artifact]) -> None:
    """Items drawn at random, right and wrong ones, with their pictures; the answer is that of the first model asked."""
    items: dict[str, Mapping[str, Any]] = {}
    for scores in scored:
        model = _seeing(read_json(scores, "scores.json"))[0]
        found = (item for item in read_items(scores.path / ITEMS_FILE) if item["model"] == model)
        items = {item["task_id"]: item for item in found} | items
    known = [(task, medium, root) for task, medium, root in _tasks(artifacts) if task.id in items]
    order = numpy_stream(0, "report.sight").permutation(len(known))
    for kind, title in (("image", "Pictures"), ("video", "Clips")):
        drawn = [known[i] for i in order if known[i][1].kind == kind][: SHOWN[kind]]
        cards = [_card(task, items[task.id], root / medium.url) for task, medium, root in drawn]
        if cards:
            section.heading(f"{title}, drawn at random")
            section.blocks.append(f"<div class='gallery'>{''.join(cards)}</div>")


def _tasks(artifacts: Sequence[Artifact]) -> Iterator[tuple[Task, Medium, Path]]:
    """Held-out questions about one medium, and the folder of their files."""
    for pictures in made_by(artifacts, "vision.pictures"):
        for task in read_rows(pictures.path / "test.jsonl", Task):
            media = [medium for message in task.prompt for medium in message.media]
            if len(media) == 1:
                yield task, media[0], pictures.path


def _card(task: Task, item: Mapping[str, Any], file: Path) -> str:
    kind = TYPES.get(file.suffix.lower())
    small = kind is not None and file.exists() and file.stat().st_size <= MOST_BYTES
    image = f"<img src='data:{kind};base64,{b64encode(file.read_bytes()).decode()}' alt=''>" if small else ""
    truth = task.reference[0] if isinstance(task.reference, list) else task.reference
    said, colour = html.escape(item["text"]), "good" if item["passed"] else "bad"
    wrong = "" if item["passed"] else f"<p class='dim'>truth: {html.escape(str(truth))}</p>"
    asked = html.escape(task.prompt[-1].content)
    return f"<figure>{image}<figcaption><p>{asked}</p><p class='{colour}'>{said}</p>{wrong}</figcaption></figure>"


def _gates(section: Section, scored: Sequence[Artifact]) -> None:
    gates = {name: found for scores in scored for name, found in read_json(scores, "scores.json")["gates"].items()}
    layers = list(dict.fromkeys(layer for found in gates.values() for layer in found))
    rows = [[name, *(f"{found[layer]:.3f}" if layer in found else "–" for layer in layers)] for name, found in gates.items()]
    section.table(
        ["model", *layers], rows,
        "tanh of the gates: how much of each cross-attention layer, and of its feed-forward, is added; 0 is nothing.",
    )  # fmt: skip


def _frozen(section: Section, artifacts: Sequence[Artifact]) -> None:
    """Each stage's own proof that its text model is what it was."""
    trained = [(model, model.summary().get("frozen_text")) for model in made_by(artifacts, *TRAINING)]
    rows = [[model.name, str(proof["digest"])[:12], proof["prompts"]] for model, proof in trained if proof]
    if rows:
        section.table(
            ["stage", "text weights, SHA-256 before and after", "prompts with equal logits"], rows,
            "The text model does not change: each stage hashes its weights and compares its logits to the bit, before and after.",
        )  # fmt: skip
        section.data["frozen_text"] = {model.name: proof for model, proof in trained if proof}
