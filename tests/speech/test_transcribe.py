"""Long sounds in pieces, and transcripts of them: places, forms, memory."""

from __future__ import annotations

import gc
import json

import numpy as np
import pytest
import torch
from hearing import RATE, TOKENIZER, engine_of, hearing_model

from puna.core.errors import InputError
from puna.speech import cuts as cutting
from puna.speech.clip import clip_of
from puna.speech.cuts import cuts
from puna.speech.ears import Ears
from puna.speech.files import save_speech
from puna.speech.prompts import recognition
from puna.speech.sound import SoundRules, blocks
from puna.speech.transcribe import request_of, transcribe, transcript
from puna.speech.transcript import Said, subtitles, verbose, whole
from puna.tokenizer.chat import parse

MODEL = hearing_model()


@pytest.fixture
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is loud counts as speech, so that places are known exactly."""

    def segments(wave_N: torch.Tensor, rate: int) -> list[tuple[float, float]]:
        loud_N = torch.nn.functional.pad((wave_N.abs() > 0.05).int(), (1, 1)).diff()
        starts, ends = ((loud_N == sign).nonzero().flatten().tolist() for sign in (1, -1))
        return [(a / rate, b / rate) for a, b in zip(starts, ends, strict=True)]

    monkeypatch.setattr(cutting, "segments", segments)


def pattern(*parts: tuple[float, float]) -> torch.Tensor:
    """Parts of (seconds, level)."""
    return torch.cat([torch.full((int(seconds * RATE),), level) for seconds, level in parts])


def in_blocks(wave_N: torch.Tensor, seconds: float):
    yield from wave_N.split(int(seconds * RATE))


def places(wave_N: torch.Tensor, seconds: float = 60.0, **options) -> list[tuple[float, float]]:
    found = list(cuts(in_blocks(wave_N, seconds), **options))
    for cut in found:
        start = round(cut.start * RATE)
        assert torch.equal(cut.wave_N, wave_N[start : start + len(cut.wave_N)])
    return [(round(cut.start, 2), round(cut.end, 2)) for cut in found]


def test_a_short_sound_is_one_piece_as_it_is_and_silence_is_none(loud):
    assert places(pattern((1, 0), (2, 0.5), (3, 0))) == [(0.0, 6.0)]
    assert places(pattern((6, 0))) == [] == places(pattern((90, 0)))
    assert places(pattern((6, 0)), activity=False) == [(0.0, 6.0)]
    assert places(torch.zeros(0)) == []


@pytest.mark.parametrize("seconds", [60.0, 7.0, 0.5])
def test_stretches_of_a_long_sound_are_found_whatever_the_blocks(loud, seconds):
    wave_N = pattern((5, 0), (3, 0.5), (0.5, 0), (2, 0.5), (9, 0), (15, 0.5), (0.5, 0), (8, 0.5), (14, 0), (6, 0.5), (10, 0))
    assert places(wave_N, seconds) == [(5.0, 10.5), (19.5, 34.5), (35.0, 43.0), (57.0, 63.0)]


def test_what_goes_on_for_long_is_cut_where_it_is_quiet(loud):
    wave_N = pattern((16, 0.5), (0.2, 0.1), (20, 0.5), (0.2, 0.1), (5, 0.5))
    found = places(wave_N, longest=20.0)
    assert [start for start, _ in found][1:] == [end for _, end in found][:-1]  # nothing is lost
    assert 16 <= found[0][1] <= 16.2 and found[-1][1] == 41.4 and all(end - start <= 20 for start, end in found)


def test_pieces_are_answered_as_they_would_be_alone(loud):
    wave_N = torch.cat([pattern((1, 0)), *[0.3 * torch.sin(torch.arange(RATE * 2) * f) for f in (0.1, 0.3)], pattern((20, 0))])
    engine = engine_of(MODEL)
    pieces = list(cuts(in_blocks(wave_N, 60)))
    said = list(transcript(engine, TOKENIZER, Ears(MODEL), pieces, recognition("en")))
    assert len(said) == len(pieces) >= 1
    for cut, piece in zip(pieces, said, strict=True):
        request = request_of(TOKENIZER, Ears(MODEL), clip_of(cut.wave_N, MODEL.sound), recognition("en"))
        answer = engine_of(MODEL).generate([request])[0][0]
        assert piece.text == parse(TOKENIZER, answer.drawn).content.strip() and piece.tokens == tuple(answer.ids)
        assert len(piece.tokens) <= 32 + 25 * (cut.end - cut.start)


def storages() -> dict[int, int]:
    """Bytes of what the tensors of this process hold, by storage."""
    return {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in gc.get_objects() if isinstance(t, torch.Tensor)}


def test_an_hour_takes_the_memory_of_a_minute(tmp_path):
    import soundfile

    path = tmp_path / "hour.flac"
    second = 0.2 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    with soundfile.SoundFile(path, "w", RATE, 1, format="FLAC") as file:
        for i in range(3600):
            file.write(second if i % 40 < 2 else np.zeros(RATE, np.float32))
    before, most, held = storages(), 0, list[int]()
    for cut in cuts(blocks(path, SoundRules(1 << 30, 7200), 60), activity=False):
        held.append(len(cut.wave_N))
        if len(held) % 60 == 0:
            gc.collect()
            most = max(most, sum(size for at, size in storages().items() if at not in before))
    assert sum(held) == 3600 * RATE and max(held) <= 20 * RATE and len(held) >= 180
    assert 4 << 20 < most < 32 << 20  # a minute of float32 is 4 MB, an hour 230


PIECES = [Said(0.5, 2.25, "two cats", (5, 6), -1.0), Said(3.0, 4.0, ""), Said(3661.5, 3662.0, "a --> dog\n\nhere", (7,), -0.5)]


def test_forms_of_a_transcript():
    assert whole(PIECES[:1] * 2, "en") == "two cats two cats" and whole(PIECES[:1] * 2, "th") == "two catstwo cats"
    srt = "1\n00:00:00,500 --> 00:00:02,250\ntwo cats\n\n2\n01:01:01,500 --> 01:01:02,000\na -> dog here\n\n"
    assert subtitles(PIECES, "srt") == srt
    assert subtitles(PIECES[:1], "vtt") == "WEBVTT\n\n00:00:00.500 --> 00:00:02.250\ntwo cats\n\n"
    told = verbose(PIECES, "de", task="transcribe", seconds=9.0)
    assert (told["language"], told["duration"], told["task"]) == ("german", 9.0, "transcribe")
    first = told["segments"][0]
    assert (first["start"], first["end"], first["avg_logprob"], first["tokens"]) == (0.5, 2.25, -0.5, [5, 6])


def test_the_command(tmp_path, capsys, loud):
    import soundfile

    save_speech(MODEL, tmp_path / "ears", tokenizer=TOKENIZER)
    soundfile.write(tmp_path / "a.wav", pattern((0.2, 0), (0.5, 0.5)).numpy(), RATE)
    transcribe(tmp_path / "a.wav", tmp_path / "ears", form="json")
    line = json.loads(capsys.readouterr().out)
    assert (line["start"], line["end"]) == (0.0, 0.7) and isinstance(line["text"], str)
    transcribe(tmp_path / "a.wav", tmp_path / "ears", translate="de", form="verbose_json")
    told = json.loads(capsys.readouterr().out)
    assert told["task"] == "translate" and told["language"] == "german" and told["duration"] == 0.7
    soundfile.write(tmp_path / "long.wav", pattern((12, 0.5)).numpy(), RATE)  # more than fits beside an answer
    transcribe(tmp_path / "long.wav", tmp_path / "ears", form="json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert Ears(MODEL).room == pytest.approx(5.12) and len(lines) >= 3
    assert lines[-1]["end"] == 12.0 and all(line["end"] - line["start"] <= 5.12 for line in lines)
    soundfile.write(tmp_path / "b.wav", np.zeros(RATE), RATE)
    transcribe(tmp_path / "b.wav", tmp_path / "ears")
    assert capsys.readouterr() == ("", "nobody speaks in it\n")
    (tmp_path / "c.wav").write_bytes(b"no sound at all")
    with pytest.raises(InputError, match="no sound"):
        transcribe(tmp_path / "c.wav", tmp_path / "ears")
