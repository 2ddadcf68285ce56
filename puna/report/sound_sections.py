"""The report on section 8: what models that listen write, beside what they write with other sounds; how texts are read aloud."""

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
from puna.report.sources import made_by, read_json
from puna.speech.normal import by_character
from puna.tokenizer.chat import Medium
from puna.tokenizer.dialog import Task, media_of, read_rows

CONTROLS = {
    "": "its own sound",
    ".shuffled": "another item's sound",
    ".blind": "no sound",
    ".spoken": "our own voice",
}  # ending of a model's name
UNITS = {"words": "WER", "characters": "CER"}
FAMILIES = {"transcribe": "recognition", "translate": "translation", "answer": "answers"}
SHOWN = 12  # items to hear
TYPES = {".flac": "audio/flac", ".wav": "audio/wav", ".mp3": "audio/mpeg", ".ogg": "audio/ogg"}
MOST_BYTES = 60_000  # of a file in the page


def voice_section(artifacts: Sequence[Artifact]) -> Section | None:
    """How numbers are read and sentences are said with the text model's states, and without."""
    trained = made_by(artifacts, "speech.speak")
    if not trained:
        return None
    section = Section("How it speaks", "8")
    section.text(
        "Which rule reads a number, and how long, high and loud each phone is, by models that see the text model's states after "
        "half of its layers, and by the same models trained blind on the same steps and batches. The words are held out of "
        "training, so what is measured is whether the states say of what kind a word is."
    )
    rows = []
    for voice in trained:
        summary = voice.summary()
        read, said = summary["normalisation"], summary["prosody"]
        rows += [
            [voice.name, f"numbers read right, {read['ahead']} pieces ahead, percent", _share(read["states"]),
             _share(read["blind"]), _gain(read["difference"], 100), "yes" if read["beats_blind"] else "not shown"],
            [voice.name, "error of prosody (0.4 log s, 3 semitones, 2 dB)", f"{said['states']['rmse']:.3f}",
             f"{said['blind']['rmse']:.3f}", _gain(said["difference"], 1), "yes" if said["beats_blind"] else "not shown"],
        ]  # fmt: skip
        section.data[voice.name] = {"normalisation": read, "prosody": said}
    section.table(
        ["stage", "held out", "with states", "blind", "gain (95 %)", "states help"], rows, "Speech out, with and without."
    )
    return section


def _share(rate: Mapping[str, Any]) -> str:
    return f"{100 * rate['accuracy']:.1f} ({100 * rate['low']:.1f}-{100 * rate['high']:.1f}), n = {rate['n']}"


def _gain(difference: Mapping[str, Any], scale: int) -> str:
    mean, low, high = (scale * difference[key] for key in ("mean", "low", "high"))
    return f"{mean:+.3g} ({low:+.3g} to {high:+.3g})"


def sound_section(artifacts: Sequence[Artifact], claims: Sequence[dict[str, Any]]) -> Section | None:
    """Error rates by task and language with their controls, sounds beside transcripts, and the proof that texts are as before."""
    scored = made_by(artifacts, "speech.scores")
    if not scored:
        return None
    section = Section("What it hears", "8")
    section.text(
        "Transcripts and translations of held-out sentences by voices that training never heard, beside what the same model "
        "writes with the sound of another item: whoever does not listen makes as many errors with either. WER and CER count "
        "substituted, missing and added words or characters, in percent of those that were said; intervals are bootstraps over "
        "sentences."
    )
    _data(section, artifacts)
    for scores in scored:
        found = read_json(scores, "scores.json")
        for model in hearing(found):
            _rates(section, model, found["models"])
        section.data[scores.name] = {"models": found["models"], "comparisons": found["comparisons"]}
    models = {model for scores in scored for model in hearing(read_json(scores, "scores.json"))}
    for claim in claims:
        if claim["better"] in models:
            section.text(sentence(claim))
    _gallery(section, scored, artifacts)
    _frozen(section, artifacts)
    return section


def hearing(scores: Mapping[str, Any]) -> list[str]:
    """The models among the names, without their controls."""
    return [name for name in scores["models"] if not name.endswith(tuple(ending for ending in CONTROLS if ending))]


def _data(section: Section, artifacts: Sequence[Artifact]) -> None:
    """How much sound there is, who speaks, and whether splits are apart."""
    rows = []
    for sounds in made_by(artifacts, "speech.sounds"):
        proof = read_json(sounds, "split.json")
        shared = sum(count for pairs in proof["overlap"].values() for count in pairs.values())
        for split in proof["seconds"]:
            rows.append([
                sounds.name, split, f"{proof['seconds'][split] / 60:.1f}", proof["sentences"][split], proof["voices"][split],
                ", ".join(proof["backends"]), shared,
            ])  # fmt: skip
    section.table(
        ["sounds", "split", "minutes", "sentences", "voices", "spoken by", "shared with another split"], rows,
        "The generated speech. Sentences and voices of one split are in no other.",
    )  # fmt: skip


def _rates(section: Section, model: str, models: Mapping[str, Any]) -> None:
    """Error rates of a model by language with the controls, sentences without an error, and BLEU."""
    shown = {CONTROLS[ending]: models[model + ending] for ending in CONTROLS if model + ending in models}
    own, families = models[model], list(models[model]["errors"])
    names = [FAMILIES.get(family, family) for family in families]
    section.heading(model)
    for family, name in zip(families, names, strict=True):
        for unit, title in UNITS.items():
            if unit in own["errors"][family]:
                errors = [of["errors"].get(family, {}) for of in shown.values()]
                rows = [["all languages", own["errors"][family][unit]["n"], *(_percent(of.get(unit)) for of in errors)]]
                for lang, one in own["errors"][family]["lang"].items():
                    if by_character(lang) == (unit == "characters"):
                        rows.append([lang, one["n"], *(_percent(of.get("lang", {}).get(lang)) for of in errors)])
                section.table([name, "n", *shown], rows, f"{title} of {name}, percent (95 %); lower is better.")
    series = {control: [of["family"].get(family, {}) for family in families] for control, of in shown.items()}
    section.figure(
        *charts.grouped_rates(names, series, "whole sentences right, percent"),
        f"{model}: held-out sentences right to the last word (95 % intervals), and with the sound of another item.",
    )
    bleu = own.get("bleu", {})
    if any(one["bleu"] for one in bleu.values()):
        rows = [[lang, one["n"], f"{one['bleu']:.1f} ({one['low']:.1f}-{one['high']:.1f})"] for lang, one in bleu.items()]
        section.table(["into", "n", "BLEU (95 %)"], rows, "BLEU of translations from speech, by the language translated into.")
    elif bleu:
        section.text("BLEU is 0 for all translations: it counts runs of four words, and there are none that agree.")


def _percent(rate: Mapping[str, Any] | None) -> str:
    return "–" if rate is None else f"{100 * rate['rate']:.1f} ({100 * rate['low']:.1f}-{100 * rate['high']:.1f})"


def _gallery(section: Section, scored: Sequence[Artifact], artifacts: Sequence[Artifact]) -> None:
    """Items drawn at random, right and wrong ones, to be heard: those of the first model that was asked."""
    tasks = list(_tasks(artifacts))
    order = numpy_stream(0, "report.sound").permutation(len(tasks))
    model = hearing(read_json(scored[0], "scores.json"))[0]
    items = {item["task_id"]: item for item in read_items(scored[0].path / ITEMS_FILE) if item["model"] == model}
    known = [tasks[i] for i in order if tasks[i][0].id in items][:SHOWN]
    cards = [_card(task, items[task.id], root / medium.url) for task, medium, root in known]
    if cards:
        section.heading(f"Sounds, drawn at random: what {model} writes")
        section.blocks.append(f"<div class='gallery'>{''.join(cards)}</div>")


def _tasks(artifacts: Sequence[Artifact]) -> Iterator[tuple[Task, Medium, Path]]:
    """Held-out tasks about one sound, and the folder of their files."""
    for sounds in made_by(artifacts, "speech.sounds"):
        for task in read_rows(sounds.path / "test.jsonl", Task):
            media = media_of(task.prompt)
            if len(media) == 1:
                yield task, media[0], sounds.path


def _card(task: Task, item: Mapping[str, Any], file: Path) -> str:
    kind = TYPES.get(file.suffix.lower())
    small = kind is not None and file.exists() and file.stat().st_size <= MOST_BYTES
    player = (
        f"<audio controls preload='none' src='data:{kind};base64,{b64encode(file.read_bytes()).decode()}'></audio>"
        if small
        else ""
    )
    truth = task.reference[0] if isinstance(task.reference, list) else task.reference
    said, colour = html.escape(item["text"]), "good" if item["passed"] else "bad"
    wrong = "" if item["passed"] else f"<p class='dim'>truth: {html.escape(str(truth))}</p>"
    asked = html.escape(task.prompt[0].content if task.prompt[0].role == "system" else "")
    return f"<figure>{player}<figcaption><p>{asked}</p><p class='{colour}'>{said}</p>{wrong}</figcaption></figure>"


def _frozen(section: Section, artifacts: Sequence[Artifact]) -> None:
    """Each stage's own proof that its text model is what it was."""
    trained = [(model, model.summary().get("frozen_text")) for model in made_by(artifacts, "speech.listen")]
    rows = [[model.name, str(proof["digest"])[:12], proof["prompts"]] for model, proof in trained if proof]
    if rows:
        section.table(
            ["stage", "digest of the text weights, before and after", "prompts with equal logits"], rows,
            "The text model does not change: each stage hashes its weights and compares its logits to the bit, before and after.",
        )  # fmt: skip
        section.data["frozen_text"] = {model.name: proof for model, proof in trained if proof}
