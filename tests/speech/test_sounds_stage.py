"""The stages `speech.sounds` and `speech.twins`: what is spoken and asked, how splits are held apart, and what files may hold."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from puna.core.errors import InputError
from puna.core.stage import local_artifact, local_context
from puna.speech import spoken, twins
from puna.speech.prompts import family_of, recognition, translation
from puna.speech.sounds import Settings, outside, run
from puna.tokenizer.dialog import Dialog, Task, read_rows
from puna.verify.language import LANGUAGES
from puna.world.lexicon import NOUNS

WORLD = {"world": {"languages": ["en", "de", "th"], "train": 12, "dev": 3, "test": 6, "voices": "formant"}}


def made(out: Path, **settings: Any) -> tuple[Path, dict[str, Any]]:
    ctx = local_context(out, seed=5)
    ctx.cores = 2
    return ctx.out, run(Settings.model_validate(settings), ctx)


def rows_of(out: Path) -> dict[str, list[Any]]:
    return {
        split: list(read_rows(out / f"{split}.jsonl", Dialog if split == "train" else Task)) for split in ("train", "dev", "test")
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return made(tmp_path_factory.mktemp("world") / "out", sources=WORLD)


def test_generated_rows(world):
    out, summary = world
    rows = rows_of(out)
    assert summary["rows"] == {"train": 36, "dev": 18, "test": 36} and summary["backends"] == ["formant"]
    assert {row.capability for row in rows["train"]} == {"transcribe"}
    for row in rows["train"]:
        system, user, answer = row.messages
        assert (
            system.content == recognition(row.lang) and user.content == "" and set(answer.content.split()) <= set(NOUNS[row.lang])
        )
        info = soundfile.info(out / user.media[0].url)
        assert (info.format, info.samplerate, info.channels) == ("FLAC", 16_000, 1)
        assert info.duration == pytest.approx(row.provenance.checks["seconds"], abs=1e-3)
    asked: dict[str, dict[str, Task]] = {}
    for task in rows["test"]:
        asked.setdefault(task.prompt[1].media[0].url, {})[task.family] = task
    for both in asked.values():
        said, meant = both["transcribe"], both["translate"]
        assert meant.lang != said.lang == meant.provenance.checks["speaks"]
        assert meant.prompt[0].content == translation(meant.lang) and meant.verifier == "exact"
        numbers = [[NOUNS[task.lang].index(word) for word in task.gold.split()] for task in (said, meant)]
        assert [NOUNS["en"][i] for i in numbers[0]] == [NOUNS["en"][i] for i in numbers[1]]


def test_sentences_and_voices_of_tests_are_in_no_training(world):
    out, _ = world
    proof = json.loads((out / "split.json").read_text())
    assert all(set(of.values()) == {0} for of in proof["overlap"].values())
    rows = rows_of(out)
    for key in ("shows", "voice"):
        sets = [{row.provenance.checks[key] for row in rows[split]} for split in ("train", "dev", "test")]
        assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]
    assert proof["seconds"]["train"] == pytest.approx(sum(r.provenance.checks["seconds"] for r in rows["train"]), abs=0.06)


def test_the_same_run_gives_the_same_bytes(world, tmp_path):
    out, _ = world
    again, _ = made(tmp_path / "out", sources=WORLD)
    files = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file() and "volatile" not in path.parts)
    assert len(files) > 60 and all((out / file).read_bytes() == (again / file).read_bytes() for file in files)


def test_translation_is_learnt_where_asked_for(tmp_path):
    world = {**WORLD["world"], "translated": 1.0, "languages": ["en", "de"]}
    out, summary = made(tmp_path / "out", sources={"world": world})
    assert summary["kinds"]["train"] == {"translate de": 12, "translate en": 12}
    assert all(family_of(row.messages) == "translate" for row in rows_of(out)["train"])


def test_where_espeak_is_missing_the_stand_in_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(spoken, "has_espeak", lambda: False)
    small = {**WORLD["world"], "train": 1, "dev": 0, "test": 0}
    ctx = local_context(tmp_path / "out")
    summary = run(Settings.model_validate({"sources": {"world": {**small, "voices": "auto"}}}), ctx)
    assert summary["backends"] == ["formant"] and "formant synthesiser" in (ctx.out / "volatile" / "notes.txt").read_text()
    with pytest.raises(InputError, match="espeak-ng is not installed"):
        made(tmp_path / "other", sources={"world": {**small, "voices": "espeak"}})


def tone(path: Path, hertz: float, seconds: float = 0.5, rate: int = 8000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate), rate)
    return path


def test_files_of_several_forms(tmp_path):
    data = tmp_path / "data"
    coded = base64.b64encode(tone(data / "b.wav", 300).read_bytes()).decode()
    for name, hertz in (("a", 200), ("c", 400), ("d", 500)):
        tone(data / f"{name}.wav", hertz)
    tone(data / "long.wav", 200, seconds=3)
    (data / "broken.wav").write_bytes(b"RIFF....WAVE not really")
    rows = [
        {"audio_filepath": "a.wav", "text": "one", "duration": 0.5},
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": coded, "format": "wav"}}]},
                      {"role": "assistant", "content": "two"}]},
        {"audio": {"path": "c.wav"}, "sentence": "drei", "lang": "de"},
        {"messages": [{"role": "system", "content": translation("fr")},
                      {"role": "user", "content": [{"type": "audio", "path": "d.wav"}]},
                      {"role": "assistant", "content": "quatre"}]},
        {"audio": "a.wav", "text": "one"},
        {"audio": "broken.wav", "text": "five"},
        {"audio": "missing.wav", "text": "six"},
        {"audio": "long.wav", "text": "seven"},
        {"audio": "a.wav", "text": "eight", "lang": "xx"},
    ]  # fmt: skip
    (data / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(data / "rows.jsonl"), "licence": "CC-BY-4.0", "max_seconds": 2.0}
    out, summary = made(tmp_path / "out", sources=source, dev=0.0, test=0.0)
    found = rows_of(out)["train"]
    assert {(row.capability, row.lang, row.messages[-1].content) for row in found} == {
        ("transcribe", "en", "one"), ("answer", "en", "two"), ("transcribe", "de", "drei"), ("translate", "en", "quatre")
    }  # fmt: skip
    assert summary["bad_rows"] == 4 and summary["left_out"] == {"the same row again": 1} and summary["seconds"]["train"] == 2.0
    reasons = [json.loads(line)["reason"] for line in (out / "bad_rows.jsonl").read_text().splitlines()]
    assert len(reasons) == 4 and "xx" in reasons[-1]
    assert all((out / row.messages[-2].media[0].url).is_file() for row in found)
    assert {row.provenance.licence for row in found} == {"CC-BY-4.0"}


def test_a_corpus_keeps_its_splits(tmp_path):
    for split, speaker, text in (
        ("train-clean", "11", "GOOD DAY"),
        ("dev-clean", "12", "GOOD EVENING"),
        ("test-clean", "13", "BYE"),
    ):
        tone(tmp_path / "libri" / split / speaker / "1" / f"{speaker}-1-0000.flac", 100 * int(speaker) / 3)
        (tmp_path / "libri" / split / speaker / "1" / f"{speaker}-1.trans.txt").write_text(f"{speaker}-1-0000 {text}\n")
    out, summary = made(
        tmp_path / "out", sources={"corpus": "librispeech", "path": str(tmp_path / "libri"), "licence": "CC-BY-4.0"}
    )
    rows = rows_of(out)
    assert [row.messages[-1].content for row in rows["train"]] == ["GOOD DAY"]
    assert [task.gold for task in rows["test"]] == ["BYE"] and rows["test"][0].family == "transcribe"
    assert rows["dev"][0].provenance.checks["voice"] == "12" and summary["voices"] == {"train": 1, "dev": 1, "test": 1}


def test_settings_in_short_and_refused(tmp_path):
    assert Settings.model_validate({"sources": "world"}) == Settings() and spoken.EVERY == LANGUAGES
    assert Settings.model_validate({"sources": ["a.jsonl"]}).sources[0].path == "a.jsonl"
    for wrong in (
        {"world": {"languages": []}},
        {"world": {"languages": ["en", "en"]}},
        {"world": {"words": 1}},
        {"corpus": "mine", "path": "x"},
    ):
        with pytest.raises(ValueError):
            Settings.model_validate({"sources": [wrong]})
    with pytest.raises(InputError, match="no source gave a usable row"):
        made(tmp_path / "out", sources={"world": {"train": 0, "dev": 0, "test": 0}})
    (tmp_path / "rows.jsonl").write_text("{}\n")
    assert outside(Settings.model_validate({"sources": {"world": {"voices": "formant"}}})) == {}
    assert list(outside(Settings.model_validate({"sources": [str(tmp_path / "rows.jsonl")]}))) == [str(tmp_path / "rows.jsonl")]


def test_text_twins(world, tmp_path):
    out, _ = world
    ctx = local_context(tmp_path / "twins", inputs=[local_artifact(out, "sounds")], seed=5)
    summary = twins.run(twins.Settings(languages=("en", "de", "th"), train=60, dev=20, test=20, translated=0.5), ctx)
    rows = rows_of(ctx.out)
    assert set(summary["overlap"].values()) == {0} and len(rows["train"]) == 60 + 36 and len(rows["test"]) == 20
    for row in rows["train"]:
        system, user, answer = row.messages
        if row.capability == "transcribe":
            assert system.content == recognition(row.lang) and user.content == answer.content
        else:
            assert system.content == translation(row.lang) and set(answer.content.split()) <= set(NOUNS[row.lang])
            assert len(user.content.split()) == len(answer.content.split())
    assert {row.capability for row in rows["train"]} == {"transcribe", "translate"}
    spoken_in_test = {task.gold for task in rows_of(out)["test"]}
    assert not spoken_in_test & {row.messages[-1].content for row in rows["train"]}
