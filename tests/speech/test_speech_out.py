"""Speech out by rules: readings of numbers and signs, phrases, prosody, back ends, the speaker and its errors."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from puna.core.errors import InputError
from puna.speech.out import backends
from puna.speech.out.prosody import by_rule
from puna.speech.out.reading import by_shape, phrases_of, pieces_of, spoken
from puna.speech.out.speaker import Speaker
from puna.world.number_words import cardinal, ordinal, year
from puna.world.phones import LANGUAGES, PAUSE

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


@pytest.mark.parametrize(
    ("number", "lang", "words"),
    [
        (21, "en", "twenty one"), (345, "en", "three hundred forty five"), (71, "fr", "soixante et onze"),
        (80, "fr", "quatre-vingts"),
        (48, "de", "achtundvierzig"), (1984, "de", "eintausendneunhundertvierundachtzig"), (500, "es", "quinientos"),
        (100, "pt", "cem"), (28, "it", "ventotto"),
        (21, "th", "ยี่สิบเอ็ด"), (7, "hi", "सात"), (21, "hi", "दो एक"), (0, "es", "cero"),
    ],
)  # fmt: skip
def test_cardinals(number: int, lang: str, words: str) -> None:
    assert cardinal(number, lang) == words


def test_every_number_has_words_of_its_own() -> None:
    for lang in LANGUAGES:
        numbers = [*range(1000), 1984, 21000, 345678, 1_000_001]
        assert len({cardinal(number, lang) for number in numbers}) == len(numbers), lang


def test_ordinals_and_years() -> None:
    assert [ordinal(n, "en") for n in (1, 12, 20, 23)] == ["first", "twelfth", "twentieth", "twenty third"]
    assert [year(n, "en") for n in (1984, 1907, 1900, 2005)] == [
        "nineteen eighty four", "nineteen oh seven", "nineteen hundred", "two thousand five"]  # fmt: skip


@pytest.mark.parametrize(
    ("piece", "rule", "words"),
    [
        ("214", "digits", "two one four"), ("214,", "cardinal", "two hundred fourteen"), ("$45.", "money", "forty five dollars"),
        ("1,000", "cardinal", "one thousand"), ("3rd", "ordinal", "third"), ("BBC", "letters", "bee bee see"),
        ("house.", "as_is", "house"),
        ("5%", "cardinal", "five percent"), ("(Ana)", "as_is", "Ana"),
    ],
)  # fmt: skip
def test_rules(piece: str, rule: str, words: str) -> None:
    assert spoken(piece, rule, "en") == words


def test_shapes() -> None:
    text = "Ana paid $45 for 21 pens in the 3rd BBC house 0123"
    found = {piece: by_shape(piece) for piece in text.split()}
    assert found.pop("$45") == "money" and found.pop("21") == "cardinal" and found.pop("3rd") == "ordinal"
    assert found.pop("BBC") == "letters" and found.pop("0123") == "digits"
    assert set(found.values()) == {"as_is"}


def test_phrases_end_at_stops_and_know_their_pieces() -> None:
    pieces = pieces_of("Ana has 21 pens, Leo has 3. Is it?")
    phrases = phrases_of(pieces, map(by_shape, pieces), "en")
    assert [(p.first, p.pieces[-1], p.phones[-1].mark) for p in phrases] == [
        (0, "pens,", "comma"),
        (4, "3.", "end"),
        (7, "it?", "question"),
    ]
    assert {phone.word for phone in phrases[0].phones} == {0, 1, 2, 3}
    long = phrases_of(["word"] * 60, ["as_is"] * 60, "en")
    assert [len(p.pieces) for p in long] == [24, 24, 12]
    endless = phrases_of(pieces_of("a" * 1000), map(by_shape, pieces_of("a" * 1000)), "en")
    assert [len(p.phones) for p in endless] == [201] * 5


def test_rules_of_prosody() -> None:
    pieces = ["a", "house", "here?"]
    asked, told = (phrases_of(p, ["as_is"] * 3, "en")[0] for p in (pieces, ["a", "house", "here."]))
    question, statement = by_rule(asked.phones), by_rule(told.phones)
    last = [phone.word == 2 and phone.symbol != PAUSE for phone in asked.phones]
    assert question.semitones[last].mean() - statement.semitones[last].mean() == pytest.approx(8.0)
    raised = by_rule(told.phones, raised=[1])
    at = [phone.word == 1 for phone in told.phones]
    assert raised.durations_s[at].sum() == pytest.approx(1.2 * statement.durations_s[at].sum())
    assert raised.power_db[at].mean() == pytest.approx(statement.power_db[at].mean() + 3)


def test_a_phrase_at_a_time_and_exact_durations() -> None:
    speaker = Speaker.open(None, "formant")
    blocks = list(speaker.say("Ana has a pen, Leo has a cup."))
    assert len(blocks) == 2 and all(block.dtype == np.float32 for block in blocks)
    phrase = phrases_of(["Ana", "has", "a", "pen,"], ["as_is"] * 4, "en")[0]
    assert len(blocks[0]) == pytest.approx(by_rule(phrase.phones).durations_s.sum() * speaker.rate, abs=1)
    fast = list(speaker.say("Ana has a pen, Leo has a cup.", speed=2.0))
    assert len(fast[0]) == pytest.approx(len(blocks[0]) / 2, abs=1)
    assert all(np.array_equal(a, b) for a, b in zip(blocks, speaker.say("Ana has a pen, Leo has a cup."), strict=True))


@pytest.mark.parametrize("lang", LANGUAGES)
def test_all_languages_are_spoken(lang: str) -> None:
    from puna.world.lexicon import NOUNS

    wave = np.concatenate(list(Speaker.open(None, "formant").say(" ".join(NOUNS[lang][:3]) + " 12", lang=lang, voice="f1")))
    assert len(wave) > 16000 and 0.02 < np.sqrt((wave**2).mean()) < 0.3


def test_errors_come_before_any_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    speaker = Speaker.open(None, "formant")
    for text, options, found in [
        ("a", {"lang": "xx"}, "language 'xx'"), ("a", {"voice": "nobody"}, "voice 'nobody'"),
        ("a", {"speed": 9.0}, "out of bounds"),
        ("...", {}, "nothing to speak"), ("", {}, "nothing to speak"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=found):
            speaker.say(text, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no speech back end"):
        Speaker.open(None, "loud")  # type: ignore[arg-type]
    monkeypatch.setattr(backends.shutil, "which", lambda name: None)
    assert Speaker.open(None).backend == "formant"
    with pytest.raises(InputError, match="not installed"):
        Speaker.open(None, "espeak")


@needs_espeak
@pytest.mark.cores
def test_espeak_takes_rate_and_pitch_of_words() -> None:
    engine = backends.Espeak()
    phrase = phrases_of(["the", "<house>", "&", "pen."], ["as_is"] * 4, "en")[0]
    plain = by_rule(phrase.phones)
    slow = by_rule(phrase.phones)
    slow.durations_s[:] *= 1.6
    a, b = (engine.wave(phrase, prosody, "en", "m1", 1.0) for prosody in (plain, slow))
    assert 0.5 < len(a) / engine.rate < 4 and len(b) > 1.25 * len(a)
    assert "<prosody" not in backends.ssml(phrase, plain) and 'rate="62%"' in backends.ssml(phrase, slow)


def test_the_command(tmp_path: Path) -> None:
    import soundfile
    from typer.testing import CliRunner

    from puna.cli import app

    done = CliRunner().invoke(
        app, ["speak", "Ana has 2 pens.", "--out", str(tmp_path / "a.wav"), "--backend", "formant", "--json"]
    )
    assert done.exit_code == 0, done.output
    wave, rate = soundfile.read(tmp_path / "a.wav")
    assert rate == 16000 and len(wave) > rate


@pytest.mark.parametrize("name, what", [("a", "says no form"), ("a.txt", "says no form"), ("none/a.wav", "no such folder")])
def test_the_command_says_what_is_wrong_with_a_name(tmp_path: Path, name: str, what: str) -> None:
    from puna.commands.speak import speak

    with pytest.raises(InputError, match=what):
        speak("Ana has 2 pens.", tmp_path / name, backend="formant")
    assert not list(tmp_path.iterdir())


def test_a_voice_is_a_directory_or_a_stage_of_the_last_run(tmp_path: Path) -> None:
    from puna.commands.latest import voice_dir

    assert voice_dir(tmp_path, str(tmp_path)) == tmp_path
    with pytest.raises(InputError, match="run"):
        voice_dir(tmp_path, "voice")
