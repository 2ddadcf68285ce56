"""The mini-world aloud: sentences and voices held apart, and both back ends that speak."""

from __future__ import annotations

import random
import shutil

import numpy as np
import pytest

from puna.core.errors import InputError
from puna.verify.language import LANGUAGES
from puna.world import voices
from puna.world.drawing import split_of
from puna.world.lexicon import NAMES, NOUNS
from puna.world.voices import TRACTS, VARIANTS, Sentence, Voice, espeak, formant, sentence, voice

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


def test_a_sentence_says_the_same_in_every_language():
    said = Sentence((0, 3, 14))
    assert said.text("en") == "house bird Ana" and said.text("de") == "Haus Vogel Ana" and said.text("th") == "บ้าน นก Ana"
    assert said.key == "house bird Ana"


def test_held_out_sentences_are_drawn_for_no_training():
    rng, found = random.Random(3), {"train": set(), "dev": set(), "test": set()}
    for split, keys in found.items():
        for _ in range(400):
            one = sentence(split, rng, most=3, names=0.2)
            assert 1 <= len(one.words) <= 3
            keys.add(one.key)
            assert len(one.words) == 1 or split_of(one.key) == split
    assert all(" " in key for split in ("dev", "test") for key in found[split])
    assert not found["train"] & found["test"] and not found["train"] & found["dev"] and not found["dev"] & found["test"]
    words = {word for key in found["train"] for word in key.split()}
    assert words == {*NOUNS["en"], *NAMES}


def test_voices_of_the_splits_are_different_people():
    names = [set(VARIANTS[split]) for split in ("train", "dev", "test")]
    assert sum(map(len, names)) == len(set.union(*names)) == len(TRACTS)
    assert voice("test", 5, "de", 9) == voice("test", 5, "de", 9) != voice("test", 6, "de", 9)
    assert {voice("test", 1, "en", i).name for i in range(40)} == {"m7", "f3"}


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_built_in_synthesiser_speaks_every_language(lang):
    text = Sentence((0, 3, 5)).text(lang)
    wave, rate = formant(text, lang, Voice("f3", 50, 165))
    again, _ = formant(text, lang, Voice("f3", 50, 165))
    slower, _ = formant(text, lang, Voice("f3", 50, 110))
    assert rate == 16_000 and 0.3 < len(wave) / rate < 4 and 0.05 < np.abs(wave).max() <= 1
    assert np.array_equal(wave, again) and len(slower) == pytest.approx(1.5 * len(wave), rel=0.01)


@needs_espeak
def test_espeak_speaks_and_what_it_does_not_know_is_told():
    wave, rate = espeak("Haus Vogel", "de", Voice("m1"))
    assert rate == 22_050 and wave.dtype == np.float32 and 0.5 < len(wave) / rate < 3 and 0.2 < np.abs(wave).max() <= 1
    assert np.array_equal(wave, espeak("Haus Vogel", "de", Voice("m1"))[0])
    assert not np.array_equal(wave, espeak("Haus Vogel", "de", Voice("f2"))[0])
    with pytest.raises(InputError, match="cannot speak"):
        espeak("x", "qq", Voice("m1"))


def test_a_missing_program_is_told(monkeypatch):
    monkeypatch.setattr(voices, "PROGRAM", "no-such-program-here")
    with pytest.raises(InputError, match="not installed"):
        espeak("x", "en", Voice("m1"))
