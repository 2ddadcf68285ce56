"""Videos whose frames say which they are: the brightness of frame i is `STEP * i`, its left half is red-free."""

from __future__ import annotations

import io
import shutil
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

STEP = 4
NO_CUTS = {"sc_threshold": "1000000000"}
OWN_KEYS = {
    "mpeg4": NO_CUTS,
    "mpeg2video": NO_CUTS,
    "libx264": {"x264-params": "scenecut=0"},
}  # no key frames of the encoder's choice


def frame(index: int, height: int = 32, width: int = 48) -> Image.Image:
    return Image.fromarray(np.full((height, width, 3), STEP * index % 256, np.uint8))


def number(image: Image.Image) -> float:
    """Which frame a picture is, by its middle."""
    return float(np.asarray(image)[image.height // 2, image.width // 2].mean()) / STEP


def encoded(
    count: int, *, kind: str = "mp4", codec: str = "mpeg4", rate: int = 10, every: int = 12, rotation: int = 0, size=(32, 48),
    faststart: bool = False, pictures=None, b_frames: int = 0, aspect: str = "1",
) -> bytes:  # fmt: skip
    """A video of `count` frames with a key frame every `every`."""
    import av

    file = Path(tempfile.mkdtemp()) / "clip"
    with av.open(str(file), "w", format=kind, options={"movflags": "faststart"} if faststart else {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = Fraction(1, rate)
        stream.codec_context.gop_size = every
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.bit_rate = 2_000_000
        stream.options = OWN_KEYS.get(codec, {})
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        if rotation:
            stream.set_display_rotation(rotation)
        for index in range(count):
            picture = pictures[index] if pictures else frame(index, *size)
            made = av.VideoFrame.from_image(picture)
            made.pts, made.time_base = index, Fraction(1, rate)
            container.mux(stream.encode(made))
        container.mux(stream.encode(None))
    content = file.read_bytes()
    shutil.rmtree(file.parent)
    return content


def animated(count: int, kind: str = "GIF", duration: int = 100, size=(12, 10)) -> bytes:
    """An animated picture of `count` frames, `duration` milliseconds each."""
    out, frames = io.BytesIO(), [frame(i, *size) for i in range(count)]
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(out, kind, save_all=True, append_images=frames[1:], duration=duration, **options)
    return out.getvalue()
