"""An engine that is shown media: what it says depends on the request alone, and text is what it was without eyes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from seeing import asked, clip, engine_of, picture, seeing_model, words

from puna.core.errors import InputError
from puna.infer.engine import Completion, Engine, Request
from puna.infer.pages import page_keys
from puna.infer.request import Shown
from puna.infer.speculate import PromptLookup
from puna.vision.eyes import Eyes
from puna.vision.sight import Media, sight_spans

REQUESTS = [
    asked([9, picture(1), *words(3, 20)]),
    asked(words(5, 30)),
    asked([picture(2, 40, 12), *words(8, 9), picture(1), picture(3, 10, 60), *words(2, 5)], temperature=0.8, seed=4),
    asked([*words(1, 17), clip(1), *words(3, 11)]),
    asked([clip(2), picture(4), *words(4, 26)], temperature=1.0, seed=9),
]


@pytest.fixture(scope="module")
def model():
    return seeing_model()


def same(first: Completion, second: Completion) -> bool:
    return first.ids == second.ids and bool(np.allclose(first.token_logprobs, second.token_logprobs, atol=2e-4))


def by_the_network(model, request: Request) -> list[int]:
    """Greedy tokens without any cache, through the pass that training takes."""
    ids = list(request.prompt_ids)
    media = [shown.medium for shown in request.media]
    images = [image for medium in media for image in medium.images]
    for _ in range(request.max_tokens):
        spans = sight_spans([shown.at for shown in request.media], len(ids))
        shown = Media(
            torch.cat([torch.from_numpy(image.pixels) for image in images]),
            torch.tensor([len(image.pixels) for image in images]),
            torch.tensor([image.ratio for image in images]), torch.tensor([len(medium.images) for medium in media]),
            torch.tensor([medium.kind == "video" for medium in media]), torch.zeros(len(media), dtype=torch.int64),
            torch.tensor([start for start, _ in spans]), torch.tensor([end for _, end in spans]),
        )  # fmt: skip
        row = torch.tensor([ids])
        with torch.no_grad():
            ids.append(int(model(row, attached=model.look(shown, row.shape))[0, -1].argmax()))
    return ids[len(request.prompt_ids) :]


@pytest.mark.parametrize("number", [0, 2, 3, 4])
def test_the_engine_says_what_the_network_says(model, number):
    request = Request(REQUESTS[number].prompt_ids, media=REQUESTS[number].media, max_tokens=6)
    expected = by_the_network(model, request)
    assert engine_of(model).generate([request])[0][0].ids == expected
    assert engine_of(model, prefill_tokens=5).generate([request])[0][0].ids == expected
    blind = Request(request.prompt_ids, max_tokens=6)
    assert engine_of(model).generate([blind])[0][0].ids != expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_text_is_the_same_to_the_bit_as_without_eyes(dtype):
    model = seeing_model(dtype=dtype)
    texts = [asked(words(i, 10 + 5 * i), temperature=0.7 * (i % 2), seed=i, n=1 + i % 2) for i in range(6)]
    plain, engine = Engine(model.text, stop_ids=(), page_size=8), engine_of(model)
    assert engine.generate(texts) == plain.generate(texts)
    engine.generate([request for request in REQUESTS if request.media])
    assert engine.generate(texts) == plain.generate(texts)  # with a warm cache, after pictures


def test_text_beside_pictures_is_what_it_is_alone(model):
    together = engine_of(model).generate([*REQUESTS, asked(words(6, 30), n=2, temperature=0.9)])
    alone = Engine(model.text, stop_ids=(), page_size=8)
    for number, request in ((1, REQUESTS[1]), (5, asked(words(6, 30), n=2, temperature=0.9))):
        assert all(same(a, b) for a, b in zip(together[number], alone.generate([request])[0], strict=True))


def test_a_batch_says_what_each_says_alone(model):
    together = engine_of(model).generate(REQUESTS)
    for request, found in zip(REQUESTS, together, strict=True):
        assert same(found[0], engine_of(model).generate([request])[0][0])


def counted(engine: Engine) -> list[int]:
    """The number of tokens of each call from now on."""
    calls: list[int] = []
    compute = engine.steps.logits
    engine.steps.logits = lambda spans: (calls.append(len(spans.tokens)), compute(spans))[1]
    return calls


def test_cached_is_fresh_and_pictures_are_part_of_the_key(model):
    engine = engine_of(model)
    first = asked([*words(1, 10), picture(1), *words(2, 21)])
    fresh = engine.generate([first])[0][0]
    calls = counted(engine)
    assert same(engine.generate([first])[0][0], fresh) and calls[0] == 32 - 24
    other = asked([*words(1, 10), picture(2), *words(2, 21)])
    calls.clear()
    found = engine.generate([other])[0][0]
    assert calls[0] == 32 - 8 and found.ids != fresh.ids  # the page before the picture is shared, no other
    assert same(found, engine_of(model).generate([other])[0][0])
    calls.clear()
    blind = Request(first.prompt_ids, max_tokens=8, logprobs=1)
    plain = Engine(model.text, stop_ids=(), page_size=8)
    assert engine.generate([blind])[0][0] == plain.generate([blind])[0][0] and calls[0] == 32


def test_text_before_a_picture_is_shared_only_where_it_does_not_depend_on_it():
    leaking = seeing_model(leak=True, attend_padding=True)
    first, other = (asked([*words(1, 10), picture(seed), *words(2, 21)]) for seed in (1, 2))
    engine = engine_of(leaking)
    engine.generate([first])
    calls = counted(engine)
    assert same(engine.generate([other])[0][0], engine_of(leaking).generate([other])[0][0]) and calls[0] == 32
    calls.clear()
    engine.generate([first])
    assert calls[0] == 32 - 24


def test_a_leaking_model_needs_what_it_leaks():
    with pytest.raises(InputError, match="reads the padding"):
        seeing_model(leak=True, attend_padding=False)


def test_a_leaking_model_sees_videos_as_any_other_does(model):
    request = asked([3, clip(1), *words(3, 11)], max_tokens=4)
    leaking = seeing_model(leak=True, attend_padding=True)
    plain = seeing_model(attend_padding=True)
    expected = by_the_network(plain, request)
    assert by_the_network(leaking, request) == expected == engine_of(leaking).generate([request])[0][0].ids


def test_the_next_turn_finds_answer_and_pictures(model):
    engine = engine_of(model)
    first = asked([3, picture(1), *words(2, 12)], max_tokens=11)
    answer = engine.generate([first])[0][0].ids
    turn = asked([3, picture(1), *words(2, 12), *answer, 7, picture(5), *words(4, 6)])
    calls = counted(engine)
    found = engine.generate([turn])[0][0]
    assert calls[0] == 33 - 24 and engine.eyes.looked == 2
    assert same(found, engine_of(model).generate([turn])[0][0])


def test_a_picture_is_looked_at_once_for_all_samples_turns_and_requests(model):
    engine = engine_of(model)
    engine.generate([asked([picture(1), *words(i, 9)], n=3, temperature=1.0, seed=i) for i in range(3)])
    engine.generate([asked([*words(5, 3), picture(1), *words(9, 9)])])
    assert engine.eyes.looked == 1
    engine.forget()
    engine.generate([asked([picture(1), 5])])
    assert engine.eyes.looked == 2


def test_what_was_seen_is_kept_within_bounds(model):
    size = engine_of(model).eyes.see([Shown(0, picture(1))])[0][0].bytes
    eyes = Eyes(model, engine_of(model).eyes.shape, most_bytes=2 * size)
    for number, looked in ((1, 1), (2, 2), (1, 2), (3, 3), (1, 3), (2, 4)):
        eyes.see([Shown(0, picture(number))])
        assert eyes.looked == looked, number


def test_samples_that_make_room_come_back_to_their_pictures(model):
    requests = [asked([picture(i), *words(i, 10)], max_tokens=40, temperature=0.9, seed=i) for i in range(4)]
    tight = engine_of(model, pages=1 + 12, admission="optimistic")
    found = tight.generate(requests)
    assert tight.preemptions > 0
    assert [c[0].ids for c in found] == [engine_of(model).generate([request])[0][0].ids for request in requests]


def test_guesses_change_nothing(model):
    requests = [asked([picture(1), *([5, 6, 7, 8] * 5)], max_tokens=30), asked([5, 6, 7, 8] * 5, max_tokens=30)]
    engine = engine_of(model, draft=PromptLookup())
    assert [c[0].ids for c in engine.generate(requests)] == [c[0].ids for c in engine_of(model).generate(requests)]
    assert engine.guessed > 0


def test_what_cannot_be_shown(model):
    shown = asked([picture(1), *words(1, 3)])
    with pytest.raises(InputError, match="reads text alone"):
        Engine(model.text, stop_ids=()).generate([shown])
    pictures = seeing_model(video=False)
    with pytest.raises(InputError, match="pictures and no videos"):
        engine_of(pictures).generate([asked([clip(1), 1])])
    with pytest.raises(InputError, match="16 frames"):
        engine_of(model).generate([asked([clip(1, frames=17), 1])])
    for places in ([-1], [3], [1, 1], [2, 1]):
        with pytest.raises(InputError, match="places"):
            engine_of(model).generate([Request([1, 2, 3], media=[Shown(at, picture(1)) for at in places])])


def test_keys_of_pages_with_media():
    tokens, media = np.arange(12), [(5, b"a"), (6, b"b")]
    plain, keys = page_keys(tokens, 4), page_keys(tokens, 4, media=media)
    assert len(keys) == 3 and not set(keys) & set(plain)
    other = page_keys(tokens, 4, media=[(5, b"a"), (6, b"c")])
    assert other[0] == keys[0] and not set(other[1:]) & set(keys)
    assert page_keys(tokens, 4, keys[:1], media) == keys and page_keys(tokens, 4, media=media[:1])[1] != keys[1]
