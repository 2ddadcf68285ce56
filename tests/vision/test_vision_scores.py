"""Scores of sight: a model that names colours is right with its pictures and wrong with others', and its items say so."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from vision_toys import (
    COLOURS,
    ENCODER,
    FIT,
    as_task,
    picture_row,
    pictures,
    run_stage,
    text_model,
    toy_tokenizer,
    video_row,
)

from puna.core.errors import InputError
from puna.core.stage import Artifact
from puna.evals.controls import others
from puna.evals.one import ITEMS_FILE, read_items
from puna.infer.request import Completion
from puna.tokenizer.dialog import write_rows
from puna.vision import scores
from puna.vision.ask import MediaFiles
from puna.vision.fetch import MediaRules
from puna.vision.media import Loaded, load
from puna.vision.tiles import ImageShape

TOKENIZER = toy_tokenizer()
SHAPE = ImageShape(tile=16, max_tiles=2)


def named(loaded: Loaded) -> str:
    """The colour of the last frame, from its pixels."""
    pixel = loaded.images[-1].pixels[0].mean((1, 2)) * np.array(SHAPE.std) + np.array(SHAPE.mean)
    return min(COLOURS, key=lambda name: float(np.abs(pixel * 255 - np.array(COLOURS[name])).sum()))


def oracle(engine, tokenizer, tasks, media, **drawing):
    """Names what it is shown; says red where it is shown nothing."""
    texts = [named(shown[-1]) if shown else "red" for shown in media]
    return [[Completion(tokenizer.encode(text), True, tokenizer.eot_id, 0.0)] for text in texts]


@pytest.fixture
def sighted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Artifact, Artifact]:
    """A model whose answers are the oracle's, and squares and clips with a test split."""
    shown = pictures(tmp_path / "shown", train=8, dev=24, videos=8)
    (shown.path / "dev.jsonl").rename(shown.path / "test.jsonl")
    monkeypatch.setattr(scores, "ask", oracle)
    monkeypatch.setattr(
        scores, "seeing_engine", lambda path: (None, TOKENIZER, SimpleNamespace(video=True, shape=SHAPE, model=None))
    )
    monkeypatch.setattr(scores, "gates_of", lambda model: {"1.attn": 0.5})
    return SimpleNamespace(name="seer", path=tmp_path, kind="vision_model"), shown


def scored(root: Path, inputs: list[Artifact], **settings: object) -> dict:
    made = run_stage(root, "vision.scores", "sight", inputs, **settings)
    return json.loads((made.path / "scores.json").read_text()) | {"items": read_items(made.path / ITEMS_FILE)}


def claim(control: str, family: str) -> dict:
    return {"name": f"{family} against {control}", "better": "seer", "control": control, "family": family}


def test_who_sees_is_right_and_is_wrong_with_the_pictures_of_others(tmp_path, sighted):
    claims = [claim("seer.shuffled", "colour"), claim("seer.frames", "order"), claim("seer.blind", "colour")]
    found = scored(tmp_path, list(sighted), compare=claims, frames=3)
    rates = {name: {kind: rate["accuracy"] for kind, rate in model["family"].items()} for name, model in found["models"].items()}
    assert rates["seer"] == {"colour": 1.0, "order": 1.0}
    assert rates["seer.shuffled"] == {"colour": 0.0, "order": 0.0}
    assert rates["seer.blind"]["colour"] == rates["seer.commonest"]["colour"] == 0.25
    assert rates["seer.frames"].keys() == {"order"} and rates["seer.frames"]["order"] < 1
    differences = {test["name"]: (test["difference"], test["n"]) for test in found["comparisons"]}
    assert differences["colour against seer.shuffled"] == (1.0, 24)
    assert differences["colour against seer.blind"] == (0.75, 24)
    assert differences["order against seer.frames"][1] == 8
    assert found["gates"] == {"seer": {"1.attn": 0.5}}


def test_items_of_controls_are_those_of_the_model_in_its_order(tmp_path, sighted):
    items = scored(tmp_path, list(sighted), frames=3)["items"]
    by_model = {
        name: [item["task_id"] for item in items if item["model"] == name] for name in ("seer", "seer.shuffled", "seer.blind")
    }
    assert by_model["seer"] == by_model["seer.shuffled"] == by_model["seer.blind"] and len(by_model["seer"]) == 32


def test_the_same_run_has_the_same_bytes(tmp_path, sighted):
    first, second = (run_stage(tmp_path / name, "vision.scores", "sight", list(sighted), frames=3) for name in "ab")
    assert (first.path / "scores.json").read_bytes() == (second.path / "scores.json").read_bytes()


def test_a_claim_about_no_model_is_refused(tmp_path, sighted):
    with pytest.raises(InputError, match="not among the models scored"):
        scored(tmp_path, list(sighted), compare=[claim("seer.upside-down", "colour")], frames=3)


def swapped(tasks: list) -> list[int]:
    return others([scores._asks(task) for task in tasks], [task.reference for task in tasks], np.random.default_rng(0))


def test_other_pictures_have_other_answers(tmp_path):
    (tmp_path / "media").mkdir()
    tasks = [as_task(picture_row(tmp_path, i)) for i in range(12)]
    found = swapped(tasks)
    assert all(tasks[other].reference != task.reference for task, other in zip(tasks, found, strict=True))
    assert len(set(found)) > 6
    same = [task for task in tasks if task.reference == tasks[0].reference]
    found = swapped(same)
    assert len(same) == 3 and all(i != other for i, other in enumerate(found))
    assert swapped(tasks[:1]) == [0]


def test_other_pictures_are_as_many_and_of_the_same_kinds(tmp_path):
    (tmp_path / "media").mkdir()
    one, clip = picture_row(tmp_path, 1), video_row(tmp_path, 2).model_copy(update={"capability": "colour"})
    asked = one.messages[0]
    two = one.model_copy(update={"messages": [asked.model_copy(update={"media": asked.media * 2}), *one.messages[1:]]})
    tasks = [as_task(row) for row in (one, two, clip, picture_row(tmp_path, 3), clip)]
    assert tasks[0].reference != tasks[3].reference
    assert swapped(tasks) == [3, 1, 4, 0, 2]


def test_what_does_not_fit_is_decoded_again(tmp_path, monkeypatch):
    decoded = []
    monkeypatch.setattr("puna.vision.ask.load", lambda medium, *others: decoded.append(medium.url) or load(medium, *others))
    (tmp_path / "media").mkdir()
    tasks = [as_task(picture_row(tmp_path, i)) for i in (1, 2)]
    files = MediaFiles(SimpleNamespace(shape=SHAPE), MediaRules(), limit=4 * 3 * 16 * 16)  # one tile
    first, again = ([files(task, tmp_path) for task in tasks] for _ in range(2))
    assert decoded == ["media/1.png", "media/2.png", "media/2.png"] and files.bytes == files.limit
    assert [media[0].key for media in first] == [media[0].key for media in again]


def test_metrics_other_than_exact_count_by_degrees(tmp_path, sighted):
    model, shown = sighted
    graded = [as_task(picture_row(shown.path, 1000 + i)) for i in range(8)]
    write_rows(shown.path / "test.jsonl", [task.model_copy(update={"reference": [f"{task.gold}s"]}) for task in graded])
    found = scored(tmp_path, [model, shown], metrics={"colour": "anls"})["models"]["seer"]
    assert found["overall"]["passed"] == 0
    assert found["mean_score"]["colour"]["mean"] == pytest.approx(np.mean([1 - 1 / (len(task.gold) + 1) for task in graded]))


def test_a_model_without_video_is_asked_about_pictures_and_answers_by_itself(tmp_path):
    base, shown = text_model(tmp_path / "base"), pictures(tmp_path / "shown", train=8, dev=6, videos=2)
    (shown.path / "dev.jsonl").rename(shown.path / "test.jsonl")
    seer = run_stage(tmp_path, "vision.pretrain", "seer", [base, shown], encoder=ENCODER, cross_layers=1, gate=0.5,
                     **FIT | {"dev": 0})  # fmt: skip
    found = scored(tmp_path, [seer, shown], max_tokens=4)
    assert found["models"]["seer"]["overall"]["n"] == 6 and "seer.frames" not in found["models"]
    assert set(found["gates"]["seer"]) == {"1.attn", "1.mlp"}
