"""Phones by letter rules, and the formant synthesiser: lengths, pitch, formants, determinism, errors."""

from __future__ import annotations

import time

import numpy as np
import pytest

from puna.core.errors import InputError
from puna.world.formants import CONSONANTS, VOICES, render
from puna.world.formants import VOWELS as SPOKEN_VOWELS
from puna.world.lexicon import NOUNS
from puna.world.phones import LANGUAGES, PAUSE, VOWELS, Phone, phones_of

RATE = 16000


def said(text: str, lang: str) -> str:
    return " ".join(phone.symbol for phone in phones_of(text, lang))


@pytest.mark.parametrize(
    ("lang", "word", "expected"),
    [
        ("en", "letter", "l E t @ r _"), ("en", "eye", "a I _"), ("es", "ojo", "o x o _"), ("pt", "botão", "b o t a~ w _"),
        ("fr", "oiseau", "w a z o _"), ("de", "Stift", "S t I f t _"), ("it", "occhio", "o k k j o _"),
        ("hi", "नगर", "n @ g @ r _"),
        ("th", "นก", "n o k _"),
    ],
)  # fmt: skip
def test_words(lang: str, word: str, expected: str) -> None:
    assert said(word, lang) == expected


def test_every_noun_has_sounds_the_synthesiser_knows() -> None:
    known = set(SPOKEN_VOWELS) | set(CONSONANTS) | {PAUSE}
    assert set(SPOKEN_VOWELS) == VOWELS
    for lang in LANGUAGES:
        for noun in NOUNS[lang]:
            phones = phones_of(noun, lang)
            assert {phone.symbol for phone in phones} <= known
            assert sum(phone.stressed for phone in phones) == 1, (lang, noun)
            assert [phone.last for phone in phones[-2:]] == [True, False]


def test_stops_are_pauses_and_words_are_counted() -> None:
    phones = phones_of("Ana, Leo! Is it?", "en")
    assert [(p.word, p.mark) for p in phones if p.symbol == PAUSE] == [(0, "comma"), (1, "end"), (3, "question")]
    assert max(p.word for p in phones) == 3
    assert [p.word for p in phones] == sorted(p.word for p in phones)
    assert phones_of("?!", "en") == []
    with pytest.raises(InputError, match="'xx'"):
        phones_of("a", "xx")


def test_stress_follows_an_accent() -> None:
    assert [p.symbol for p in phones_of("botón", "es") if p.stressed] == ["o"]
    assert phones_of("botón", "es")[3].stressed and phones_of("camino", "es")[3].stressed


def test_durations_are_exact_and_the_wave_is_the_same_twice() -> None:
    phones = phones_of("house and garden", "en")
    durations = np.linspace(0.05, 0.11, len(phones))
    wave = render(phones, durations, [120.0] * len(phones), [0.0] * len(phones), VOICES["f1"])
    assert wave.dtype == np.float32 and len(wave) == round(durations.sum() * RATE)
    assert np.array_equal(wave, render(phones, durations, [120.0] * len(phones), [0.0] * len(phones), VOICES["f1"]))
    assert 0.01 < np.abs(wave).max() <= 0.9


@pytest.mark.parametrize("f0", [90.0, 140.0, 230.0])
def test_pitch_is_what_was_asked_for(f0: float) -> None:
    wave = render([Phone("a", 0)], [1.0], [f0], [0.0], VOICES["m1"])[4000:12000]
    similar = np.correlate(wave, wave, "full")[len(wave) - 1 :]
    period = 50 + int(np.argmax(similar[50:250]))
    assert RATE / period == pytest.approx(f0, rel=0.015)


@pytest.mark.parametrize("vowel", ["a", "i", "u", "E"])
def test_formants_lie_where_the_table_has_them(vowel: str) -> None:
    wave = render([Phone(vowel, 0)], [1.0], [60.0], [0.0], VOICES["m1"])[4000:12000]
    spectrum, bins = np.abs(np.fft.rfft(wave * np.hanning(8000))), np.fft.rfftfreq(8000, 1 / RATE)
    for formant in SPOKEN_VOWELS[vowel][:2]:
        near = (bins > formant - 200) & (bins < formant + 200)
        assert bins[near][spectrum[near].argmax()] == pytest.approx(formant, abs=65)


def test_power_and_pauses() -> None:
    phones = [Phone("a", 0), Phone(PAUSE, 0, mark="comma"), Phone("a", 1)]
    wave = render(phones, [0.4, 0.3, 0.4], [110.0] * 3, [0.0, 0.0, -12.0], VOICES["m1"])
    rms = [float(np.sqrt((wave[int(a * RATE) : int(b * RATE)] ** 2).mean())) for a, b in ((0.1, 0.3), (0.5, 0.6), (0.8, 1.0))]
    assert 20 * np.log10(rms[2] / rms[0]) == pytest.approx(-12, abs=0.5)
    assert rms[1] < rms[0] / 1000


def test_much_faster_than_time_passes() -> None:
    phones = phones_of("the donkey and the bird in the garden of the city", "en") * 3
    render(phones, [0.1] * len(phones), [120.0] * len(phones), [0.0] * len(phones), VOICES["m1"])
    began = time.process_time()
    wave = render(phones, [0.1] * len(phones), [120.0] * len(phones), [0.0] * len(phones), VOICES["m1"])
    assert len(wave) / RATE > 10 * (time.process_time() - began)


def test_errors() -> None:
    with pytest.raises(InputError, match="differ in length"):
        render([Phone("a", 0)], [1.0, 1.0], [100.0], [0.0], VOICES["m1"])
    with pytest.raises(InputError, match="not positive"):
        render([Phone("a", 0)], [0.0], [100.0], [0.0], VOICES["m1"])
    assert len(render([], [], [], [], VOICES["m1"])) == 0
