"""What the report says of sight: rates with controls, pictures beside answers, the truth beside wrong ones, claims."""

import json

import numpy as np
from PIL import Image

from puna.core.stage import Artifact
from puna.evals.one import ITEMS_FILE, write_items
from puna.evals.stats import rate
from puna.report.claims import collect_claims
from puna.report.seed_sections import seeds_section
from puna.report.sight_sections import sight_section
from puna.tokenizer.chat import Medium
from puna.tokenizer.dialog import MessageRow, Provenance, Task, write_rows

PROVENANCE = Provenance(source="toy", licence="CC0-1.0")
ANSWERS = ("red", "blue", "<b>")


def made(path, name, stage, files):
    path = path / name
    path.mkdir()
    for file, content in files.items():
        (path / file).write_text(json.dumps(content))
    return Artifact(name=name, kind="k", path=path, digest=name, record={"stage": stage})


def scored(tmp_path, prefix=""):
    model = f"{prefix}seer"
    rates = {model: rate(2, 3), f"{model}.shuffled": rate(0, 3), f"{model}.commonest": rate(1, 3)}
    models = {name: {"overall": value, "unfinished": 0, "family": {"colour": value}} for name, value in rates.items()}
    claim = {"name": "colour against other pictures", "better": model, "control": f"{model}.shuffled", "family": "colour", "n": 3,
             "difference": 0.6, "low": 0.1, "high": 0.9, "wins": 2, "losses": 0, "p": 0.5}  # fmt: skip
    files = {"scores.json": {"models": models, "gates": {model: {"1.attn": 0.25}}, "comparisons": [claim]}}
    artifact = made(tmp_path, f"{prefix}sight", "vision.scores", files)
    about = {"model": model, "family": "colour", "capability": "colour", "lang": "en", "finished": True}
    write_items([{"task_id": str(i), "text": text, "passed": i < 2, **about} for i, text in enumerate(ANSWERS)],
                artifact.path / ITEMS_FILE)  # fmt: skip
    return artifact


def shown(tmp_path):
    artifact = made(tmp_path, "scenes", "vision.pictures", {})
    for i in range(3):
        Image.fromarray(np.full((8, 8, 3), 80 * i, np.uint8)).save(artifact.path / f"{i}.png")
    prompts = [MessageRow(role="user", content="Hue?", media=(Medium(at=0, kind="image", url=f"{i}.png"),)) for i in range(3)]
    write_rows(artifact.path / "test.jsonl", [
        Task(id=str(i), prompt=[prompt], verifier="exact", reference=["red", "blue", "green"][i : i + 1], family="colour",
             provenance=PROVENANCE)
        for i, prompt in enumerate(prompts)
    ])  # fmt: skip
    return artifact


def test_pictures_stand_beside_answers_and_wrong_ones_beside_the_truth(tmp_path):
    trained = made(tmp_path, "seer", "vision.sft", {"summary.json": {"frozen_text": {"digest": "abcdef0123456", "prompts": 16}}})
    section = sight_section([shown(tmp_path), trained, scored(tmp_path)], [])
    text = "".join(section.blocks)
    assert text.count("<img src='data:image/png;base64,") == 3
    assert text.count("truth: ") == 1 and "truth: green" in text and "&lt;b&gt;" in text and "<b>" not in text
    assert "66.7 <small>" in text and "another item&#x27;s picture" in text and "0.250" in text
    assert "abcdef012345<" in text and section.data["frozen_text"]["seer"]["prompts"] == 16


def test_no_section_without_scores_of_sight(tmp_path):
    assert sight_section([shown(tmp_path)], []) is None


def test_of_several_adapters_only_what_holds_over_all_is_claimed(tmp_path):
    test = {"name": "colour against other pictures", "better": "seer", "control": "seer.shuffled", "difference": 0.6, "low": 0.3,
            "high": 0.9, "n": 30, "differ": 20, "each": [0.6, 0.6]}  # fmt: skip
    parts = [scored(tmp_path), scored(tmp_path, "b-")]
    seeds = made(tmp_path, "sights", "evals.seeds", {"seeds.json": {"scores": ["sight", "b-sight"], "comparisons": [test]}})
    assert [claim["name"] for claim in collect_claims(parts)] == [
        "colour against other pictures (sight)", "colour against other pictures (b-sight)",
    ]  # fmt: skip
    claims = collect_claims([*parts, seeds])
    assert [(claim["name"], claim["verdict"]) for claim in claims] == [("2 adapters: colour against other pictures", "helped")]
    assert seeds_section([*parts, seeds], claims) is None
    assert "2 adapters: colour" in "".join(sight_section([*parts, seeds, shown(tmp_path)], claims).blocks)
