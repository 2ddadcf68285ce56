"""What the report says of hearing: error rates with controls, sounds beside transcripts, data and claims."""

import json

import numpy as np
import soundfile

from puna.core.stage import Artifact
from puna.evals.one import ITEMS_FILE, write_items
from puna.evals.stats import rate
from puna.report.claims import collect_claims
from puna.report.sound_sections import hearing, sound_section
from puna.speech.prompts import heard, recognition
from puna.tokenizer.dialog import Provenance, Task, write_rows

SAID = ("house pen", "bird", "<b>")


def made(path, name, stage, files):
    path = path / name
    path.mkdir()
    for file, content in files.items():
        (path / file).write_text(json.dumps(content))
    return Artifact(name=name, kind="k", path=path, digest=name, record={"stage": stage})


def error_rate(value):
    return {"rate": value, "low": value - 0.05, "high": value + 0.05, "length": 4, "n": 3}


def scored(tmp_path, prefix=""):
    model = f"{prefix}ear"
    models = {}
    for name, passed, wrong in ((model, 2, 0.25), (f"{model}.shuffled", 0, 0.95)):
        errors = {"transcribe": {"words": error_rate(wrong), "lang": {"en": error_rate(wrong)}}}
        models[name] = {"overall": rate(passed, 3), "family": {"transcribe": rate(passed, 3)}, "errors": errors, "bleu": {}}
    models[model]["bleu"] = {"de": {"bleu": 41.5, "low": 30.0, "high": 50.0, "n": 3}}
    claim = {"name": "recognition against other sounds", "better": model, "control": f"{model}.shuffled", "family": "transcribe",
             "n": 30, "difference": 0.6, "low": 0.1, "high": 0.9, "wins": 20, "losses": 0, "p": 0.001}  # fmt: skip
    artifact = made(tmp_path, f"{prefix}hearing", "speech.scores", {"scores.json": {"models": models, "comparisons": [claim]}})
    about = {"model": model, "family": "transcribe", "capability": "transcribe", "lang": "en", "finished": True}
    write_items([{"task_id": str(i), "text": text, "passed": i < 2, **about} for i, text in enumerate(SAID)],
                artifact.path / ITEMS_FILE)  # fmt: skip
    return artifact


def sounds(tmp_path):
    proof = {"overlap": {"sentences": {"train/test": 0}}, "seconds": {"train": 90.0, "test": 30.0}, "backends": ["espeak"],
             "sentences": {"train": 60, "test": 20}, "voices": {"train": 8, "test": 2}}  # fmt: skip
    artifact = made(tmp_path, "sounds", "speech.sounds", {"split.json": proof})
    for i in range(3):
        soundfile.write(artifact.path / f"{i}.flac", np.zeros(800), 16_000)
    write_rows(artifact.path / "test.jsonl", [
        Task(id=str(i), prompt=heard(f"{i}.flac", recognition("en")), verifier="exact", reference=[truth], family="transcribe",
             provenance=Provenance(source="toy", licence="CC0-1.0"))
        for i, truth in enumerate(("house pen", "bird", "cup"))
    ])  # fmt: skip
    return artifact


def test_sounds_stand_beside_transcripts_and_wrong_ones_beside_the_truth(tmp_path):
    trained = made(
        tmp_path, "ear", "speech.listen", {"summary.json": {"frozen_text": {"digest": "abcdef0123456", "prompts": 16}}}
    )
    section = sound_section([sounds(tmp_path), trained, scored(tmp_path)], [])
    text = "".join(section.blocks)
    assert text.count("src='data:audio/flac;base64,") == 3 and text.count("Repeat after me in English:") == 3
    assert text.count("truth: ") == 1 and "truth: cup" in text and "&lt;b&gt;" in text and "<b>" not in text
    assert "25.0 (20.0-30.0)" in text and "95.0 (90.0-100.0)" in text and "another item&#x27;s sound" in text
    assert "41.5 (30.0-50.0)" in text and "1.5" in text and "espeak" in text
    assert "abcdef012345<" in text and section.data["frozen_text"]["ear"]["prompts"] == 16
    assert section.data["hearing"]["models"]["ear"]["overall"]["passed"] == 2


def test_a_table_of_zeros_is_a_sentence(tmp_path):
    artifact = scored(tmp_path)
    scores = json.loads((artifact.path / "scores.json").read_text())
    scores["models"]["ear"]["bleu"]["de"] |= {"bleu": 0.0, "low": 0.0, "high": 0.0}
    (artifact.path / "scores.json").write_text(json.dumps(scores))
    text = "".join(sound_section([sounds(tmp_path), artifact], []).blocks)
    assert "BLEU is 0" in text and "BLEU (95 %)" not in text


def test_no_section_without_scores_of_hearing(tmp_path):
    assert sound_section([sounds(tmp_path)], []) is None
    assert hearing({"models": {"ear": {}, "ear.shuffled": {}, "ear.blind": {}, "b-ear": {}}}) == ["ear", "b-ear"]


def test_of_several_adapters_only_what_holds_over_all_is_claimed(tmp_path):
    seeds = made(tmp_path, "hearings", "evals.seeds", {"seeds.json": {"scores": ["hearing", "b-hearing"], "comparisons": [
        {"name": "recognition against other sounds", "better": "ear", "control": "ear.shuffled", "n": 60, "difference": 0.5,
         "low": 0.2, "high": 0.8, "each": [0.5, 0.5]}]}})  # fmt: skip
    claims = collect_claims([scored(tmp_path), scored(tmp_path, "b-"), seeds])
    assert [claim["name"] for claim in claims] == ["2 adapters: recognition against other sounds"]
    assert claims[0]["verdict"] == "helped"
