"""kill -9 at random moments of a whole run, then `puna up` again: the same digests as an undisturbed run."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import kill_and_resume

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "pages.sources=[{pydoc: {modules: [json, textwrap, string]}}, {world: {pages: 240}}]", "tasks.prompts=240", "tasks.dev=30",
    "tasks.test=40", "flagship.steps=30", "student.steps=30", "flagship-long.steps=4", "student-long.steps=4",
    "flagship-base.steps=10", "student-base.steps=10", "flagship-chat.gold_steps=6", "flagship-chat.rs_steps=8",
    "flagship-chat.reward_steps=4", "flagship-chat.prompts=40", "flagship-chat.dpo_prompts=40", "flagship-chat.prompts_of=240",
    "flagship-chat.dev=20", "student-chat.steps=8", "student-chat.prompts=40", "student-chat.prompts_start=180",
    "student-chat.prompts_of=240", "student-chat.dev=20", "needle.n=2", "needle.lengths=[128, 256]", "perplexity.tokens=600",
    "student-needle.n=2", "student-needle.lengths=[128, 256]", "flagship-fp8.tokens=600", "flagship-fp8.continuations=4",
    "flagship-fp8.reward_answers=40", "flagship-fp8.random_model={dim: 256, tokens: 64}",
    "pairs.sources=[{world: {train: {scene: 40}, dev: {scene: 8}, test: {}, questions: 0}}]",
    "scenes.sources=[{world: {train: {scene: 20}, dev: {scene: 8}, test: {scene: 8}, questions: 5}}]",
    "clips.sources=[{world: {train: {clip: 20}, dev: {clip: 8}, test: {clip: 8}, questions: 1, captions: false}}]",
    "seer-base.steps=4", "seer.steps=4", "seer-video.steps=3", "seer.dev=20",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_leave_the_same_artifacts(tmp_path):
    assert kill_and_resume.compare(str(ROOT / "recipes" / "cria.yaml"), tmp_path, TINY, kills=20, seed=1) == []
