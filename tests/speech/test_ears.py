"""An engine that listens: what it says depends on the request alone, and text is what it was without ears."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch
from hearing import TOKENIZER, asked, clip, engine_of, hearing_model, sound_file, tone, words
from torch.nn.utils.rnn import pad_sequence

from puna.core.errors import InputError
from puna.infer.engine import Completion, Engine, Request
from puna.infer.pages import page_keys
from puna.infer.request import Shown
from puna.infer.speculate import PromptLookup
from puna.speech.clip import clip_of, load_clip
from puna.speech.ears import Ears
from puna.speech.files import save_speech
from puna.speech.hear import hearing_engine, instructed, spoken_to
from puna.speech.model import Heard
from puna.tokenizer.chat import Medium
from puna.vision.fetch import MediaRules

MODEL = hearing_model()
REQUESTS = [
    asked(MODEL, [9, clip(MODEL, 300), *words(3, 20)]),
    asked(MODEL, words(5, 30)),
    asked(MODEL, [clip(MODEL, 700, 1.3), *words(8, 9), clip(MODEL, 300), *words(2, 5)], temperature=0.8, seed=4),
    asked(MODEL, [*words(1, 17), clip(MODEL, 1100, 0.2), clip(MODEL, 400), *words(3, 11)]),
]


def same(first: Completion, second: Completion) -> bool:
    return first.ids == second.ids and bool(np.allclose(first.token_logprobs, second.token_logprobs, atol=2e-4))


def by_the_network(request: Request) -> list[int]:
    """Greedy tokens without any cache, through the pass that training takes."""
    ids = list(request.prompt_ids)
    frames = [shown.medium.frames_FM for shown in request.media]
    with torch.no_grad():
        attached = Heard(MODEL, MODEL.listen(pad_sequence(frames, batch_first=True), torch.tensor([len(f) for f in frames])))
        for _ in range(request.max_tokens):
            ids.append(int(MODEL(torch.tensor([ids]), attached=attached)[0, -1].argmax()))
    return ids[len(request.prompt_ids) :]


@pytest.mark.parametrize("number", [0, 2, 3])
def test_the_engine_says_what_the_network_says(number):
    request = Request(REQUESTS[number].prompt_ids, media=REQUESTS[number].media, max_tokens=6)
    expected = by_the_network(request)
    assert engine_of(MODEL).generate([request])[0][0].ids == expected
    assert engine_of(MODEL, prefill_tokens=5).generate([request])[0][0].ids == expected  # pieces that cut through a sound
    other = [Shown(shown.at, clip_of(torch.randn(int(16_000 * 0.01 * (len(shown.medium.frames_FM) + 1.5))), MODEL.sound))
             for shown in request.media]  # fmt: skip
    assert engine_of(MODEL).generate([Request(request.prompt_ids, media=other, max_tokens=6)])[0][0].ids != expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_text_is_the_same_to_the_bit_as_without_ears(dtype):
    model = hearing_model(dtype=dtype)
    texts = [asked(model, words(i, 10 + 5 * i), temperature=0.7 * (i % 2), seed=i, n=1 + i % 2) for i in range(6)]
    plain, engine = Engine(model.text, stop_ids=(), page_size=8), engine_of(model)
    assert engine.generate(texts) == plain.generate(texts)
    engine.generate([request for request in REQUESTS if request.media])
    assert engine.generate(texts) == plain.generate(texts)  # with a warm cache, after sounds


def test_rows_do_not_depend_on_their_neighbours():
    together = engine_of(MODEL).generate(REQUESTS)
    for request, found in zip(REQUESTS, together, strict=True):
        assert same(found[0], engine_of(MODEL).generate([request])[0][0])


def test_guesses_and_tight_memory_change_nothing():
    plain = engine_of(MODEL).generate(REQUESTS)
    guessing = engine_of(MODEL, draft=PromptLookup()).generate(REQUESTS)
    tight = engine_of(MODEL, pages=24, admission="optimistic").generate(REQUESTS)
    for found in (guessing, tight):
        assert all(same(a[0], b[0]) for a, b in zip(plain, found, strict=True))


def test_a_sound_is_heard_once_and_kept():
    engine = engine_of(MODEL)
    engine.generate([REQUESTS[0]])
    first = engine.generate([asked(MODEL, [*words(1, 3), clip(MODEL, 300)], n=3, temperature=1.0)])
    assert engine.eyes.heard == 1 and len(first[0]) == 3
    engine.forget()
    engine.generate([REQUESTS[0]])
    assert engine.eyes.heard == 2
    small = Ears(MODEL, most_bytes=1)
    for hertz in (200, 300, 200):
        small.see([Shown(1, clip(MODEL, hertz))])
    assert small.heard == 3


def test_pages_of_other_sounds_are_told_apart():
    a, b = asked(MODEL, [*words(1, 7), clip(MODEL, 300, 1.0)]), asked(MODEL, [*words(1, 7), clip(MODEL, 900, 1.0)])
    ears = Ears(MODEL)
    assert list(a.prompt_ids) == list(b.prompt_ids)
    keys = [page_keys(np.array(each.prompt_ids), 8, media=ears.keys(each.media)) for each in (a, b)]
    assert len(keys[0]) >= 2 and not set(keys[0]) & set(keys[1])  # the first mark is the last token of the first page
    engine = engine_of(MODEL)
    engine.generate([a])
    assert same(engine.generate([b])[0][0], engine_of(MODEL).generate([b])[0][0])


def test_what_is_no_sound_is_refused():
    class Picture:
        key = b"x"

    engine = engine_of(MODEL)
    with pytest.raises(InputError, match="listens and sees nothing"):
        engine.generate([Request([5, 6, 7], media=[Shown(1, Picture())])])
    with pytest.raises(InputError, match="empty"):
        engine.generate([Request([5, 6, 7], media=[Shown(1, clip_of(torch.zeros(0), MODEL.sound))])])


def test_from_a_directory_and_a_url(tmp_path):
    save_speech(MODEL, tmp_path, tokenizer=TOKENIZER)
    engine, tokenizer, ears = hearing_engine(tmp_path)
    url = f"data:audio/wav;base64,{base64.b64encode(sound_file(300)).decode()}"
    heard = load_clip(Medium(0, "audio", url), None, MediaRules(), MODEL.sound)
    assert torch.allclose(heard.frames_FM[:, :9], clip_of(tone(300), MODEL.sound).frames_FM[:, :9], atol=0.2)  # 16 bits
    request = spoken_to(tokenizer, ears, instructed("Repeat after me in English:"), [heard], max_tokens=5)
    assert request.prompt_ids.count(tokenizer.speech_id) == MODEL.tokens_of(len(heard.frames_FM)) == 6
    assert engine.generate([request])[0][0].ids == by_the_network(request)
    with pytest.raises(InputError, match="sees nothing"):
        load_clip(Medium(0, "image", "a.png"), tmp_path, MediaRules(), MODEL.sound)
