"""Scores of speech: a model that names tones is right with its sounds and wrong with others', and the tables say so."""

from __future__ import annotations

import json
from pathlib import Path

import jiwer
import pytest
import sacrebleu
from hearing import TOKENIZER, clip, hearing_model, sound_file

from puna.core.errors import InputError
from puna.core.modules import load_stage
from puna.core.stage import Artifact, local_artifact, local_context
from puna.evals.one import ITEMS_FILE, read_items
from puna.infer.engine import Engine
from puna.infer.request import Completion
from puna.speech.files import save_speech
from puna.speech.prompts import heard, recognition, translation
from puna.speech.rates import bleu_scores, error_difference, error_rates
from puna.tokenizer.dialog import Provenance, Task, write_rows

PITCHES = {300.0: "low", 900.0: "half", 1500.0: "high", 2100.0: "up"}
SEEN = {"low": "bajo", "half": "medio", "high": "alto", "up": "arriba"}
FAMILIES = ("transcribe", "translate")
PROVENANCE = Provenance(source="toy", licence="CC0-1.0")


def task(number: int, hertz: float, family: str) -> Task:
    word, lang = PITCHES[hertz], "en" if family == "transcribe" else "es"
    prompt = heard(f"media/{hertz}.wav", recognition("en") if family == "transcribe" else translation("es"))
    reference = [word if lang == "en" else SEEN[word]]
    return Task(id=f"{family}-{number}", prompt=prompt, verifier="exact", reference=reference, family=family, lang=lang,
                split="test", provenance=PROVENANCE)  # fmt: skip


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Artifact]:
    """Tones with their names, and a model whose answers are an oracle's."""
    sounds = tmp_path / "sounds"
    (sounds / "media").mkdir(parents=True)
    for hertz in PITCHES:
        (sounds / "media" / f"{hertz}.wav").write_bytes(sound_file(hertz, 0.2))
    rows = [task(i, hertz, family) for family in FAMILIES for i, hertz in enumerate([*PITCHES, *PITCHES])]
    write_rows(sounds / "test.jsonl", rows)
    save_speech(hearing_model(), tmp_path / "ears", tokenizer=TOKENIZER)

    def named(self: Engine, requests, progress=None):
        answers = []
        for request in requests:
            text = "low"
            if request.media:
                frames = request.media[0].medium.frames_FM.mean(0)
                channels = {word: self.pitch[hertz] for hertz, word in PITCHES.items()}
                text = min(channels, key=lambda word: abs(int(frames.argmax()) - channels[word]))
            spanish = "Spanish" in TOKENIZER.decode(list(request.prompt_ids))
            answers.append([Completion(TOKENIZER.encode(SEEN[text] if spanish else text), True, TOKENIZER.eot_id, 0.0)])
        return answers

    model = hearing_model()
    monkeypatch.setattr(Engine, "pitch", {h: int(clip(model, h, 0.2).frames_FM.mean(0).argmax()) for h in PITCHES}, raising=False)
    monkeypatch.setattr(Engine, "generate", named)
    return [local_artifact(tmp_path / "ears", "speech_model", "ears"), local_artifact(sounds, "sounds", "tones")]


def scored(root: Path, inputs: list[Artifact], **settings: object) -> dict:
    stage = load_stage("speech.scores")
    ctx = local_context(root / "scores", name="scores", inputs=inputs, seed=7)
    summary = stage.run(stage.Settings(**{"max_tokens": 4, **settings}), ctx)
    timing = [json.loads(line) for line in (ctx.out / "volatile" / "timing.jsonl").read_text().splitlines()]
    found = json.loads((ctx.out / "scores.json").read_text())
    return found | {"summary": summary, "items": read_items(ctx.out / ITEMS_FILE), "timing": timing}


def test_who_hears_is_right_and_is_wrong_with_the_sounds_of_others(tmp_path, inputs):
    claims = [{"name": "heard", "better": "ears", "control": "ears.shuffled", "family": family} for family in FAMILIES]
    found = scored(tmp_path, inputs, compare=claims)
    rates = {name: {kind: each["accuracy"] for kind, each in model["family"].items()} for name, model in found["models"].items()}
    assert rates["ears"] == {"transcribe": 1.0, "translate": 1.0}
    assert rates["ears.shuffled"] == {"transcribe": 0.0, "translate": 0.0}
    assert rates["ears.blind"] == {"transcribe": 0.25, "translate": 0.25}
    errors = {name: model["errors"]["transcribe"] for name, model in found["models"].items()}
    assert errors["ears"]["words"]["rate"] == 0.0 and errors["ears.shuffled"]["words"]["rate"] == 1.0
    assert errors["ears.blind"]["words"] == errors["ears.blind"]["lang"]["en"]
    assert errors["ears.blind"]["words"]["rate"] == 0.75 and errors["ears.blind"]["words"]["n"] == 8
    assert [claim["difference"] for claim in found["comparisons"]] == [1.0, 1.0]
    assert found["comparisons"][0]["errors"] == {"better": 0.0, "control": 1.0, "difference": 1.0, "low": 1.0, "high": 1.0}
    assert len(found["items"]) == 3 * 16 and found["models"]["ears"]["bleu"].keys() == {"es"}
    assert found["summary"]["errors"]["ears"] == {"transcribe words": 0.0, "translate words": 0.0}


def test_speed_is_noted_apart(tmp_path, inputs):
    found = scored(tmp_path, inputs, limit=4, controls=())
    alone = [row for row in found["timing"] if row["alone"]]
    assert len(alone) == 4 and all(0 < row["first_token_s"] <= row["all_s"] for row in alone)
    assert [row["asked"] for row in found["timing"] if not row["alone"]] == [4]
    assert "real_time_factor" not in json.dumps({key: found[key] for key in ("models", "comparisons")})


def test_our_own_voice_is_written_down(tmp_path, inputs):
    found = scored(tmp_path, inputs, controls=("spoken",))
    assert found["models"]["ears.spoken"]["overall"]["n"] == 8  # the transcripts, no translation
    assert {item["task_id"] for item in found["items"] if item["model"] == "ears.spoken"} == {f"transcribe-{i}" for i in range(8)}
    rows = [row for row in found["timing"] if row["model"] == "ears.spoken"]
    assert 8 * 0.15 < rows[0]["sound_s"] < 8 * 5


def test_claims_name_what_is_scored(tmp_path, inputs):
    with pytest.raises(InputError, match=r"ears\.deaf"):
        scored(tmp_path, inputs, compare=[{"name": "x", "better": "ears", "control": "ears.deaf"}])
    with pytest.raises(InputError, match="no task with a sound"):
        (inputs[1].path / "dev.jsonl").write_text("")
        scored(tmp_path, inputs, split="dev")


def item(number: int, family: str, lang: str, reference: str, text: str) -> dict:
    return {"task_id": str(number), "family": family, "lang": lang, "reference": reference, "text": text}


TEXTS = [("a red car", "a red cat"), ("two small houses", "two houses"), ("the sun", "the the sun"), ("one", "one")]


def test_rates_are_those_of_jiwer_and_sacrebleu():
    items = [item(i, "translate", "de", *pair) for i, pair in enumerate(TEXTS)]
    references, texts = zip(*TEXTS, strict=True)
    found = error_rates(items, seed=1)["translate"]
    assert found["words"]["rate"] == pytest.approx(jiwer.wer(list(references), list(texts)))
    assert (found["words"]["substitutions"], found["words"]["deletions"], found["words"]["insertions"]) == (1, 1, 1)
    assert found["words"]["low"] < found["words"]["rate"] < found["words"]["high"]
    assert bleu_scores(items, seed=1)["de"]["bleu"] == pytest.approx(sacrebleu.corpus_bleu(list(texts), [list(references)]).score)


def test_languages_without_spaces_are_counted_in_characters():
    items = [item(0, "transcribe", "th", "แมวขาว", "แมวแดง"), item(1, "transcribe", "en", "a cat", "a dog")]
    found = error_rates(items, seed=1)["transcribe"]
    assert found["characters"]["rate"] == pytest.approx(jiwer.cer("แมวขาว", "แมวแดง")) and found["words"]["rate"] == 0.5
    assert found["lang"].keys() == {"en", "th"}


def test_the_difference_of_error_rates_is_paired():
    better = [item(i, "transcribe", "en", f"a{i} b c d", f"a{i} b c d" if i % 2 else f"a{i} b c x") for i in range(40)]
    control = [item(i, "transcribe", "en", f"a{i} b c d", f"a{i} x y d") for i in range(40)]
    found = error_difference(better, control, seed=2)
    assert (found["better"], found["control"], found["difference"]) == (0.125, 0.5, 0.375)
    assert 0.3 < found["low"] < 0.375 < found["high"] < 0.45


def test_utterances_of_one_sentence_are_one_draw_of_an_interval():
    once = [item(i, "translate", "en", f"word{i} and some others", f"word{i * (i % 2)} and some others") for i in range(8)]
    often = [{**each, "task_id": f"{each['task_id']}-{copy}"} for each in once for copy in range(20)]
    for kind, of in (("rate", lambda items: error_rates(items, seed=1)["translate"]["words"]),
                     ("bleu", lambda items: bleu_scores(items, seed=1)["en"])):  # fmt: skip
        few, many = of(once), of(often)
        assert [many[key] for key in (kind, "low", "high")] == pytest.approx([few[key] for key in (kind, "low", "high")])
