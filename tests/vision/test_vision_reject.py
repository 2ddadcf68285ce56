"""Rejection sampling on pictures: what is drawn is verified, too lucky questions go, and the result is pictures to learn from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from vision_toys import ENCODER, FIT, pictures, run_stage, summary_of, text_model, toy_tokenizer

from puna.core.errors import InputError
from puna.core.stage import Artifact
from puna.tokenizer.dialog import Dialog, MessageRow, Preference, Sample, media_of, read_rows
from puna.vision.fetch import MediaRules
from puna.vision.reject import VisionScorer, tasks_of
from puna.vision.reward import load_vision_reward
from puna.vision.tile_store import TileStore
from puna.vision.tiles import ImageShape

DRAW = {"temperature": 0.5, "k": 6, "max_tokens": 4, "cap": 3, "pairs_per_prompt": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    """A model that is right about half the time, and its pictures."""
    root = tmp_path_factory.mktemp("reject")
    shown = pictures(root / "pictures", train=32, videos=2)
    settings = {**FIT, "encoder": ENCODER, "cross_layers": 2, "gate": 0.5, "steps": 100, "lr": 2e-2, "log_every": 20}
    return run_stage(root, "vision.pretrain", "seen", [text_model(root / "base"), shown], **settings), shown


def test_right_answers_become_rows_and_pairs(made: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    policy, shown = made
    drawn = run_stage(tmp_path, "vision.reject", "drawn", [policy, shown], **DRAW, capabilities=["colour"])
    found = summary_of(drawn)
    assert found["questions"] == 32 and found["samples"] == 32 * 6 == len(list(read_rows(drawn.path / "samples.jsonl", Sample)))
    wanted = {task.id: task.reference for task in tasks_of(shown)}
    rows = list(read_rows(drawn.path / "train.jsonl", Dialog))
    assert len(rows) == found["accepted"] > 8
    for row in rows:
        (parent,) = row.provenance.parents
        assert row.messages[-1].content.casefold() == wanted[parent] and row.provenance.teacher == policy.digest
        (medium,) = media_of(row.messages)
        assert (drawn.path / medium.url).read_bytes() == (shown.path / medium.url).read_bytes()
    for pair in read_rows(drawn.path / "preferences.jsonl", Preference):
        good, bad = (pair.candidates[i].messages[0].content.casefold() for i in pair.ranking)
        assert good == wanted[pair.provenance.parents[0]] != bad
        assert (drawn.path / media_of(pair.context)[0].url).exists()
    assert json.loads((drawn.path / "policy.json").read_text())["policy"] == policy.digest
    tuned = run_stage(tmp_path, "vision.sft", "tuned", [policy, text_model(tmp_path / "chat", 1), shown, drawn], **FIT)
    assert summary_of(tuned)["rows"] == 34 + len(rows)


def test_questions_rightly_answered_too_seldom_are_dropped(made: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    policy, shown = made
    settings = {**DRAW, "capabilities": ["colour"], "temperature": 0.8}
    every = summary_of(run_stage(tmp_path, "vision.reject", "every", [policy, shown], **settings))
    sure = run_stage(tmp_path, "vision.reject", "sure", [policy, shown], **settings, least_correct=0.5)
    right: dict[str, int] = {}
    for sample in read_rows(sure.path / "samples.jsonl", Sample):
        right[sample.task_id] = right.get(sample.task_id, 0) + int(sample.scores["verifier"])
    lucky = {task for task, times in right.items() if 0 < times < 3}
    assert lucky and summary_of(sure)["too_seldom_right"] == len(lucky)
    kept = {row.provenance.parents[0] for row in read_rows(sure.path / "train.jsonl", Dialog)}
    assert not kept & lucky and len(kept) < every["questions"]
    assert summary_of(sure)["accepted"] < every["accepted"]


def test_no_question_is_refused(made: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    policy, shown = made
    with pytest.raises(InputError, match="no question"):
        run_stage(tmp_path, "vision.reject", "none", [policy, shown], **DRAW, capabilities=["chess"])


def test_a_reward_model_that_sees_chooses(made: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    policy, shown = made
    settings = {"steps": 40, "lr": 1e-2, "pairs_per_step": 16, "least_pairs": 1, "held": 0.0, "log_every": 20}
    reward = run_stage(tmp_path, "vision.reward", "reward", [policy, shown], **settings)
    model = load_vision_reward(reward.path)
    assert model is not None
    tiles = TileStore(ImageShape(16, 2), MediaRules(), frames=1, limit=0)
    scorer = VisionScorer(model, toy_tokenizer(), tiles, shown.path)
    rows = [row for row in read_rows(shown.path / "train.jsonl", Dialog) if row.capability == "colour"][:12]
    right = scorer.score([row.messages for row in rows])
    wrong = scorer.score([[row.messages[0], MessageRow(role="assistant", content="nothing")] for row in rows])
    assert len(right) == 12 and right != wrong
    assert scorer.score([rows[3].messages]) == pytest.approx(right[3:4], abs=1e-5)  # the same in any company
    drawn = run_stage(tmp_path, "vision.reject", "drawn", [policy, reward, shown], **DRAW, capabilities=["colour"])
    assert summary_of(drawn)["accepted"] > 0
