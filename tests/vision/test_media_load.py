"""Media of messages as tiles with keys."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from PIL import Image
from video_cases import animated, frame

from puna.core.errors import InputError
from puna.tokenizer.chat import Medium
from puna.vision.fetch import MediaRules
from puna.vision.media import FRAMES, load
from puna.vision.tiles import ImageShape, tiles_of

RULES, SHAPE = MediaRules(), ImageShape(tile=16)


@pytest.fixture
def root(tmp_path):
    frame(9, 20, 50).save(tmp_path / "a.png")
    (tmp_path / "clip.gif").write_bytes(animated(40))
    (tmp_path / "clip").mkdir()
    for i in range(3):
        frame(i, 10, 10).save(tmp_path / "clip" / f"{i}.png")
    return tmp_path


def test_a_picture(root):
    loaded = load(Medium(0, "image", "a.png"), root, RULES, SHAPE)
    expected = tiles_of(Image.open(root / "a.png"), SHAPE)
    assert loaded.kind == "image" and len(loaded.images) == 1 and len(loaded.key) == 16
    assert np.array_equal(loaded.images[0].pixels, expected.pixels) and loaded.images[0].ratio == expected.ratio
    assert (expected.height, expected.width) == (1, 3)
    low = load(Medium(0, "image", "a.png", detail="low"), root, RULES, SHAPE).images[0]
    assert (len(low.pixels), low.ratio, low.height, low.width) == (1, 1, 1, 1)


def test_a_video_is_so_many_frames(root):
    clip = Medium(0, "video", "clip.gif")
    assert len(load(clip, root, RULES, SHAPE).images) == FRAMES
    assert len(load(clip, root, RULES, SHAPE, frames=4).images) == 4
    assert len(load(Medium(0, "video", "clip.gif", frames=5), root, RULES, SHAPE, frames=4).images) == 5
    assert len(load(Medium(0, "video", "clip.gif", start=1.0, end=1.3), root, RULES, SHAPE).images) == 3
    assert len(load(Medium(0, "video", "clip"), root, RULES, SHAPE).images) == 3


def test_keys_name_content_and_cut(root):
    def key(shape=SHAPE, frames=FRAMES, **fields) -> bytes:
        return load(Medium(**{"at": 0, "kind": "image", "url": "a.png", **fields}), root, RULES, shape, frames).key

    packed = "data:image/png;base64," + base64.b64encode((root / "a.png").read_bytes()).decode()
    assert key() == key(url=packed) == key(detail="high") == key(at=7) == key(frames=3)
    clips = [{}, {"url": "clip.gif"}, {"url": "clip.gif", "start": 1.0}, {"url": "clip"}]
    keys = [key(), key(detail="low"), key(ImageShape(tile=32)), *(key(kind="video", **each) for each in clips)]
    keys.append(key(kind="video", url="clip.gif", frames=8))
    assert len(set(keys)) == len(keys)
    assert key(kind="video", url="clip.gif", frames=16) == key(kind="video", url="clip.gif")
    before = key(kind="video", url="clip")
    frame(7, 10, 10).save(root / "clip" / "1.png")
    assert key(kind="video", url="clip") != before


def test_of_a_folder_only_the_frames_that_are_picked_are_read(root):
    one, rules = Medium(0, "video", "clip", frames=1), MediaRules(max_bytes=1000)
    before = load(one, root, rules, SHAPE)
    (root / "clip" / "0.png").write_bytes(bytes(5000))  # the middle one is 1.png
    after = load(one, root, rules, SHAPE)
    assert after.key == before.key and np.array_equal(after.images[0].pixels, before.images[0].pixels)
    with pytest.raises(InputError, match="this has more") as error:
        load(Medium(0, "video", "clip", frames=2), root, rules, SHAPE)
    assert error.value.where == "clip: 0.png"


def test_what_cannot_be_loaded(root):
    for fields, words in (
        ({"kind": "image", "url": "clip"}, "no file"),
        ({"kind": "image", "url": "../x.png"}, "leads out"),
        ({"kind": "audio", "url": "a.wav"}, "sounds are not read"),
        ({"kind": "video", "url": "clip.gif", "frames": 100}, "1 to 64 frames"),
    ):
        with pytest.raises(InputError, match=words):
            load(Medium(0, **fields), root, RULES, SHAPE)
