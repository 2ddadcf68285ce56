"""Frames are uniform over a video, upright, few at a time; what is damaged, cut off or no video says so."""

from __future__ import annotations

import builtins
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_cases import STEP, animated, encoded, frame, number

from puna.core.errors import InputError
from puna.vision.fetch import MediaRules
from puna.vision.frames import frames_of, middles

CLIPS = Path(__file__).parents[3] / "shared" / "data" / "video"
RULES = MediaRules()


def numbers(source, count, rules=RULES, **stretch) -> list[int]:
    found = frames_of(source, count, rules, each=number, **stretch)
    assert np.allclose(found, np.rint(found), atol=0.49)
    return [round(value) for value in found]


def refused(source, words, count=4, rules=RULES, **stretch) -> None:
    with pytest.raises(InputError, match=words) as caught:
        frames_of(source, count, rules, each=lambda image: image, where="clip.mp4", **stretch)
    assert "clip.mp4" in caught.value.where


def test_middles_are_uniform():
    assert middles(8, 8) == list(range(8)) and middles(3, 8) == [0, 1, 2] and middles(1, 1) == [0]
    assert middles(16, 4) == [2, 6, 10, 14] and middles(10, 3) == [1, 5, 8] and middles(9, 1) == [4]
    for frames, count in ((100, 7), (65, 64), (1000, 64)):
        found = middles(frames, count)
        gaps = np.diff(found)
        assert len(set(found)) == count and gaps.max() - gaps.min() <= 1 and found[0] == frames - 1 - found[-1]


# ---- what Pillow reads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animated_pictures(kind):
    clip = animated(20, kind, duration=200)
    assert numbers(clip, 4) == [2, 7, 12, 17]
    assert numbers(clip, 64) == list(range(20))
    assert numbers(clip, 64, start=1.0, end=2.0) == [5, 6, 7, 8, 9]
    assert numbers(clip, 1, start=3.0) == [17]
    refused(clip, "no frame in this stretch", start=4.1)
    refused(clip[: len(clip) // 3], "damaged|no known format")


def test_a_still_picture_has_one_frame():
    assert numbers(animated(1, "PNG"), 16) == [0]


def test_a_folder_of_frames_in_the_order_of_their_numbers(tmp_path):
    for i in range(12):
        frame(i, 10, 10).save(tmp_path / f"frame{i}.png")
    (tmp_path / ".hidden").write_text("")
    assert numbers(tmp_path, 12) == list(range(12)) and numbers(tmp_path, 3) == [2, 6, 10]
    refused(tmp_path, "no seconds", start=1.0)
    (tmp_path / "frame2.png").write_bytes(b"nothing")
    refused(tmp_path, "no picture", count=12)
    assert numbers(tmp_path, 1) == [6]
    (tmp_path / "none").mkdir()
    refused(tmp_path / "none", "no pictures")
    (tmp_path / "none" / "0.png").symlink_to(tmp_path / "frame0.png")
    with pytest.raises(InputError, match="leads out of its folder") as caught:
        numbers(tmp_path / "none", 1)
    assert caught.value.where == "none/0.png"


def test_bounds_of_what_is_asked():
    clip = animated(3)
    for count in (0, -1, 65):
        refused(clip, "1 to 64 frames", count=count)
    for stretch in ({"start": -1.0}, {"start": 2.0, "end": 2.0}, {"end": 0.0}, {"start": 3.0, "end": 1.0}):
        refused(clip, "begins at 0 seconds or later", **stretch)
    refused(b"", "empty")
    refused(clip, "million pixels", rules=MediaRules(max_pixels=100))
    refused(clip, "more than 2 frames", rules=MediaRules(max_seconds=0.01))


def test_videos_need_an_extra(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "av":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    refused(b"\0\0\0\x1cftypisom", "needs PyAV")
    assert numbers(animated(3), 3) == [0, 1, 2]  # pictures do not


# ---- what PyAV reads -------------------------------------------------------------------------------------------------------

pytest_av = pytest.mark.skipif(not __import__("importlib").util.find_spec("av"), reason="PyAV is not installed")


@pytest_av
@pytest.mark.parametrize(
    ("kind", "codec"),
    [("mp4", "mpeg4"), ("matroska", "mpeg4"), ("avi", "mpeg4"), ("mpegts", "mpeg2video"), ("webm", "libvpx")],
)
def test_frames_are_uniform_over_the_video(kind, codec):
    clip = encoded(40, kind=kind, codec=codec)
    assert numbers(clip, 4) == [5, 15, 25, 35]
    assert numbers(clip, 64) == list(range(40))
    assert numbers(clip, 5, start=1.0, end=2.0) == [11, 13, 15, 17, 19]
    refused(clip, "no frame in this stretch", start=4.5)


@pytest_av
def test_frames_shown_in_another_order_than_stored():
    clip = encoded(50, codec="libx264", b_frames=3)
    assert numbers(clip, 50) == list(range(50)) and numbers(clip, 10) == [2, 7, 12, 17, 22, 27, 32, 37, 42, 47]


@pytest_av
@pytest.mark.parametrize("every", [1, 7, 1000])
@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_jumps_to_key_frames_change_no_frame(codec, every):
    clip = encoded(60, codec=codec, every=every, b_frames=2 if codec == "libx264" else 0)
    whole = frames_of(clip, 60, RULES, each=np.asarray)
    for count in (1, 3, 11):
        picked = frames_of(clip, count, RULES, each=np.asarray)
        assert all(np.array_equal(a, whole[i]) for a, i in zip(picked, middles(60, count), strict=True))


def corner(image: Image.Image) -> str:
    """Where the bright corner of a picture is."""
    grey = np.asarray(image).mean(-1)
    high, wide = grey.shape[0] // 2, grey.shape[1] // 2
    parts = {"top left": grey[:high, :wide], "top right": grey[:high, wide:], "bottom left": grey[high:, :wide],
             "bottom right": grey[high:, wide:]}  # fmt: skip
    return max(parts, key=lambda name: parts[name].mean())


@pytest_av
@pytest.mark.parametrize("rotation, where", [(0, "top left"), (90, "bottom left"), (180, "bottom right"), (-90, "top right")])
def test_rotation_of_a_file_is_honoured(rotation, where):
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:16, :32] = 255
    clip = encoded(4, rotation=rotation, size=(32, 64), pictures=[Image.fromarray(pixels)] * 4)
    for image in frames_of(clip, 4, RULES, each=lambda image: image):
        assert corner(image) == where and image.size == ((64, 32) if rotation in (0, 180) else (32, 64))


@pytest_av
def test_pixels_are_made_square():
    clip = encoded(4, size=(32, 48), aspect="4/3")
    assert frames_of(clip, 1, RULES, each=lambda image: image.size) == [(64, 32)]


@pytest_av
def test_a_real_clip_that_is_stored_upside_down():
    file = CLIPS / "video_180.mov"
    if not file.is_file():
        pytest.skip(f"{file} is absent")
    import av

    with av.open(str(file)) as container:
        stored = next(container.decode(video=0))
        assert abs(stored.rotation) == 180
        raw = np.asarray(stored.to_image())
    first = frames_of(file.read_bytes(), 64, RULES, each=np.asarray)[0]
    assert np.array_equal(first, raw[::-1, ::-1])


@pytest_av
def test_a_real_corrupt_clip_says_so():
    file = CLIPS / "corrupted.mp4"
    if not file.is_file():
        pytest.skip(f"{file} is absent")
    refused(file.read_bytes(), "damaged|cut off", count=64)


@pytest_av
@pytest.mark.parametrize("faststart", [False, True])
def test_truncated_videos(faststart):
    clip = encoded(40, faststart=faststart, pictures=noisy(40))
    assert len(frames_of(clip, 8, RULES, each=np.asarray)) == 8
    for share in (0.0005, 0.05, 0.3, 0.7):
        refused(clip[: int(len(clip) * share)], "damaged|cut off|no frames|no video")


def noisy(count: int) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (32, 48, 3), dtype=np.uint8)) for _ in range(count)]


@pytest_av
def test_files_that_are_no_video():
    refused(b"hello" * 100, "damaged, or in no known format")
    refused(b"\0" * 1000, "damaged, or in no known format")
    refused(sound(), "no video")


def sound() -> bytes:
    """A file with sound alone."""
    import io

    import av

    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        made = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        made.sample_rate, made.pts = 16000, 0
        container.mux(stream.encode(made))
        container.mux(stream.encode(None))
    return out.getvalue()


@pytest_av
def test_playlists_that_name_other_files_are_not_opened(tmp_path):
    secret = tmp_path / "secret.ts"
    secret.write_bytes(encoded(5, kind="mpegts", codec="mpeg2video"))
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.5,\nfile://{secret}\n#EXT-X-ENDLIST\n"
    concat = f"ffconcat version 1.0\nfile '{secret}'\n"
    for text in (hls, concat, "v=0\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n"):
        refused(text.encode(), "no known format")


@pytest_av
def test_long_videos_are_bounded():
    clip = encoded(400, rate=1, every=50, pictures=[frame(i % 60) for i in range(400)])
    refused(clip, "choose a stretch", rules=MediaRules(max_seconds=100.0))
    assert numbers(clip, 4, MediaRules(max_seconds=100.0), start=0.0, end=40.0) == [5, 15, 25, 35]
    refused(clip, "more than 240 frames", rules=MediaRules(max_seconds=1.0))
    refused(clip, "million pixels", rules=MediaRules(max_pixels=100))


def test_what_is_decoded_is_bounded():
    few = MediaRules(max_decoded=12 * 10 * 7)
    assert numbers(animated(7), 2, few) == [1, 5]
    refused(animated(8), "would have to be decoded", rules=few, count=2)


@pytest_av
def test_what_is_decoded_of_a_video_is_bounded():
    one_key, many = encoded(40, every=1000), encoded(40, every=5)
    few = MediaRules(max_decoded=32 * 48 * 10)
    refused(one_key, "would have to be decoded", rules=few)
    assert numbers(many, 4, few) == [5, 15, 25, 35]
    assert numbers(one_key, 4, MediaRules(max_decoded=32 * 48 * 36)) == [5, 15, 25, 35]


@pytest_av
def test_memory_does_not_grow_with_the_number_of_frames():
    clip = encoded(120, size=(240, 320), every=30)

    def peak(count: int) -> int:
        tracemalloc.start()
        frames_of(clip, count, RULES, each=number)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(2)
    assert peak(60) < peak(2) + 4 * 240 * 320 * 3
    assert STEP * 60 < 256
