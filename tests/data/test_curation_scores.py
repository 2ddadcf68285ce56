"""Curation with a classifier, evaluation files, ranks and kinds: real texts of two kinds through all four parts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from curating import collected, curated, digests

from puna.core.errors import InputError
from puna.core.stage import local_context
from puna.data import classify
from puna.data.columns import documents, read_shard_table, shard_paths

DATA = Path(__file__).parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.exists(), reason="the real sample files are not at ../shared/data")
LOOSE = {"min_words": 5, "min_stop_words": None}
GROUPS = dict.fromkeys(("general", "maths", "code", "multilingual"), LOOSE)


def rows(name: str, count: int) -> list[dict]:
    with (DATA / name).open() as file:
        return [json.loads(line) for line, _ in zip(file, range(count), strict=False)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Pages of 150 problems and 150 answers, a classifier of the two kinds from other rows, 20 of the problems as evaluation."""
    root = tmp_path_factory.mktemp("corpus")
    problems = [{"text": f"{row['question']}\n{row['answer']}"} for row in rows("gsm8k/train.jsonl", 450)]
    answers = [
        {"text": row["response"]} for row in rows("instr_mix/dolly_hhrlhf_train_small.jsonl", 500) if len(row["response"]) > 99
    ]
    for name, some in (("pages", problems[:150] + answers[:150]), ("maths", problems[150:]), ("prose", answers[150:])):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    (root / "exam.jsonl").write_text("".join(json.dumps({"q": row["question"]}) + "\n" for row in rows("gsm8k/train.jsonl", 20)))
    collected(root / "pages", sources=[str(root / "pages.jsonl")], pages_per_shard=80)
    labels = [{"path": str(root / f"{name}.jsonl"), "label": name} for name in ("maths", "prose")]
    classify.run(classify.Settings(labels=labels), local_context(root / "kind"))
    curated(root / "pages", root / "plain", (root / "kind",), workers=1, **GROUPS)
    return root


def kept(out: Path) -> list[str]:
    return [row["id"] for row in documents(out, ["id"])]


def notes(out: Path, folder: str) -> list[dict]:
    return [row for path in shard_paths(out / folder) for row in read_shard_table(path)]


def test_scores_lie_beside_the_documents_and_thresholds_drop(corpus, tmp_path):
    found = notes(corpus / "plain", "annotations")
    assert len(found) > 250
    for row in found:
        assert row["score.kind.maths"] + row["score.kind.prose"] == pytest.approx(1, abs=1e-5)
    curated(corpus / "pages", tmp_path / "docs", (corpus / "kind",), workers=1, scores={"kind.maths": 0.5}, **GROUPS)
    assert kept(tmp_path / "docs") == [row["id"] for row in found if row["score.kind.maths"] >= 0.5]
    with pytest.raises(InputError, match=r"no classifier gave a score 'kind\.sport'"):
        curated(corpus / "pages", tmp_path / "bad", (corpus / "kind",), workers=1, scores={"kind.sport": 0.5}, **GROUPS)


def test_a_transformer_scores_the_same_whatever_the_workers(corpus, tmp_path):
    labels = [{"path": str(corpus / f"{name}.jsonl"), "label": name} for name in ("maths", "prose")]
    shape = {"layers": 1, "dim": 32, "vocab": 1024, "seq_len": 64, "steps": 80}
    classify.run(classify.Settings(labels=labels, model="transformer", transformer=shape), local_context(tmp_path / "kind"))
    for workers, name in enumerate(("one", "two"), 1):
        curated(corpus / "pages", tmp_path / name, (tmp_path / "kind",), workers=workers, scores={"kind.maths": 0.5}, **GROUPS)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    linear = {row["id"] for row in notes(corpus / "plain", "annotations") if row["score.kind.maths"] >= 0.5}
    ours = set(kept(tmp_path / "one"))
    assert len(ours & linear) >= 0.9 * len(ours | linear) and len(ours) > 100


def test_documents_with_evaluation_items_are_dropped_and_named(corpus, tmp_path):
    exam = {"files": str(corpus / "exam.jsonl")}
    curated(corpus / "pages", tmp_path / "docs", workers=1, decontaminate=exam, **GROUPS)
    dropped = [row for row in notes(tmp_path / "docs", "dropped") if row["reason"] == "contaminated"]
    assert sorted(row["contaminated_by"] for row in dropped) == sorted(f"exam.jsonl#{n}" for n in range(1, 21))
    assert all(row["contaminated_13"] > 0 and row["contaminated_item_share"] > 0.8 for row in dropped)
    assert set(kept(corpus / "plain")) - set(kept(tmp_path / "docs")) == {row["id"] for row in dropped}
    steps = {step["step"]: step["documents"] for step in json.loads((tmp_path / "docs" / "funnel.json").read_text())["steps"]}
    assert steps["near_duplicate"] - steps["contaminated"] == 20


def test_masking_keeps_the_document_without_the_item(corpus, tmp_path):
    exam = {"files": str(corpus / "exam.jsonl"), "mode": "mask"}
    for workers, name in enumerate(("one", "two"), 1):
        curated(corpus / "pages", tmp_path / name, workers=workers, decontaminate=exam, **GROUPS)
    assert digests(tmp_path / "one")[""] == digests(tmp_path / "two")[""]
    before, after = ({row["id"]: row["text"] for row in documents(out)} for out in (corpus / "plain", tmp_path / "one"))
    questions = [row["question"] for row in rows("gsm8k/train.jsonl", 20)]
    changed = [name for name in after if after[name] != before[name]]
    assert len(changed) + len(before) - len(after) == 20 and changed
    for name in changed:
        assert not any(question[:60] in after[name] for question in questions) and 0 < len(after[name]) < len(before[name])


def test_ranks_and_kinds_are_brought_down(corpus, tmp_path):
    keep = {"rank_by": "kind.prose", "keep_share": {"en": 0.9}, "kinds": "kind", "max_share": {"maths": 0.25}}
    curated(corpus / "pages", tmp_path / "docs", (corpus / "kind",), workers=1, keep=keep, **GROUPS)
    stay, gone = notes(tmp_path / "docs", "annotations"), notes(tmp_path / "docs", "dropped")
    reasons = Counter(row["reason"] for row in gone)
    maths = sum(row["score.kind.maths"] > 0.5 for row in stay)
    assert reasons["rank"] >= 20 and reasons["kind"] >= 20 and maths == int(0.25 / 0.75 * (len(stay) - maths))
    english = [row for row in stay + gone if row["lang"] == "en" and row["quality_rank"] is not None]
    assert [row["reason"] == "rank" for row in english] == [
        row["quality_rank"] <= np.float32(1) - np.float32(0.9) for row in english
    ]
    assert all(row["score.kind.maths"] > 0.5 for row in gone if row["reason"] == "kind")
