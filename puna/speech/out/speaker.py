"""Text to speech, a block of sound per phrase: normalisation, phones, prosody, back end (section 8.2.2).

With a directory of `speech.speak` its tagger and its prosody model read English; without one, and elsewhere, the rules do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from puna.core.errors import InputError
from puna.speech.out.backends import LANGUAGES, Backend, BackendName, open_backend
from puna.speech.out.files import SpeechOut, load_speech_out
from puna.speech.out.prosody import Prosody, by_rule
from puna.speech.out.reading import Phrase, by_shape, phrases_of, pieces_of

TRAINED = "en"  # the language that models learn; the others are read by rules
SLOWEST, FASTEST = 0.25, 4.0  # speeds, as OpenAI's API bounds them


class Speaker:
    """Speaks texts with one back end.

    Attributes:
        rate: samples a second. voices: names for `say`; the first is the default. backend: its name.
    """

    def __init__(self, backend: Backend, models: SpeechOut | None = None):
        self._backend, self._models = backend, models
        self.rate, self.voices, self.backend = backend.rate, list(backend.voices), backend.name

    @classmethod
    def open(cls, directory: Path | None, backend: BackendName | None = None) -> Speaker:
        """A speaker with the models of a `speech_out` directory, or with rules alone where it is None.

        Args:
            backend: None is espeak-ng where it is installed, else the formant synthesiser; `Speaker.backend` says which.
        """
        chosen = open_backend(backend)
        return cls(chosen, None if directory is None else load_speech_out(directory))

    def say(self, text: str, *, lang: str = "en", voice: str | None = None, speed: float = 1.0) -> Iterator[NDArray[np.float32]]:
        """The sound of a text, a mono block [N] within -1 and 1 for each phrase.

        InputError if language, voice or speed are not to be had, or nothing in the text can be spoken; raised before any sound.
        """
        chosen = voice or self.voices[0]
        if lang not in LANGUAGES:
            raise InputError(f"speech out has no language '{lang}'", fix="one of " + ", ".join(LANGUAGES))
        if chosen not in self.voices:
            raise InputError(
                f"there is no voice '{chosen}'", where=f"backend {self.backend}", fix="one of " + ", ".join(self.voices)
            )
        if not SLOWEST <= speed <= FASTEST:
            raise InputError("this speed is out of bounds", where=str(speed), fix=f"{SLOWEST} to {FASTEST}")
        phrases, spoken = self._read(pieces_of(text), lang)
        if not phrases:
            raise InputError("there is nothing to speak in this text", where=repr(text[:40]), fix="give words or numbers")
        return (self._backend.wave(phrase, prosody, lang, chosen, speed) for phrase, prosody in zip(phrases, spoken, strict=True))

    def _read(self, pieces: list[str], lang: str) -> tuple[list[Phrase], Iterable[Prosody]]:
        """The phrases of a text and, as they are asked for, how each is spoken."""
        rules = [by_shape(piece) for piece in pieces]
        if self._models is None or lang != TRAINED or not pieces:
            phrases = phrases_of(pieces, rules, lang)
            return phrases, (by_rule(phrase.phones) for phrase in phrases)
        known = self._models.states.of([pieces])
        told = self._models.tagger.rules(pieces, known)
        rules = [told[i] if rule == "cardinal" else rule for i, rule in enumerate(rules)]  # other shapes leave no choice
        phrases = phrases_of(pieces, rules, lang)
        model = self._models.prosody
        return phrases, (model.read(phrase.phones, phrase.first, known) for phrase in phrases)
