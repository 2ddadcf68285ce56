"""Tiles equal those of transformers to the bit; files of every kind become RGB, or are refused with a reason."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from puna.core.errors import InputError
from puna.vision.config import ratios
from puna.vision.fetch import MediaRules
from puna.vision.tiles import CLIP_MEAN, CLIP_STD, ImageShape, as_rgb, canvas, read_image, tiles_of

PICTURES = Path(__file__).parents[3] / "shared" / "data" / "images"
RULES = MediaRules()
SIZES = 240


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def reference(tile: int, max_tiles: int):
    module = pytest.importorskip("transformers.models.mllama.image_processing_pil_mllama")
    return module.MllamaImageProcessorPil(
        size={"height": tile, "width": tile}, max_image_tiles=max_tiles, image_mean=list(CLIP_MEAN), image_std=list(CLIP_STD)
    )


def sizes() -> list[tuple[int, int]]:
    random = np.random.default_rng(8)
    odd = [(1, 1), (1, 700), (700, 1), (48, 48), (47, 49), (96, 48), (48, 192), (193, 48), (2, 2000), (3000, 3)]
    return odd + [tuple(pair) for pair in random.integers(1, 400, (SIZES - len(odd), 2)).tolist()]


@pytest.mark.parametrize("max_tiles", [4, 1, 6])
def test_tiles_equal_transformers(max_tiles):
    shape, process, counts = ImageShape(tile=48, max_tiles=max_tiles), reference(48, max_tiles), set()
    for number, (height, width) in enumerate(sizes()):
        image = noise(height, width, number)
        theirs, ours = process(images=[[image]], return_tensors="np"), tiles_of(image, shape)
        count = theirs["num_tiles"][0][0]
        assert (ours.ratio, len(ours.pixels)) == (theirs["aspect_ratio_ids"][0, 0], count), (height, width)
        assert ours.height * ours.width == count and ratios(max_tiles)[ours.ratio - 1] == (ours.height, ours.width)
        assert ours.pixels.dtype == np.float32 and ours.pixels.flags["C_CONTIGUOUS"]
        assert np.array_equal(ours.pixels, theirs["pixel_values"][0, 0, :count]), (height, width)
        counts.add(count)
    assert counts == set(range(1, max_tiles + 1))


def test_tiles_of_palettes_transparency_and_grey_equal_transformers():
    shape, process = ImageShape(tile=32), reference(32, 4)
    picture = noise(50, 90)
    cut = picture.convert("RGBA")
    cut.putalpha(Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 90), dtype=np.uint8)))
    palette = picture.quantize(16)
    clear = palette.copy()
    clear.info["transparency"] = 3
    for image in (picture.convert("L"), palette, clear, cut, cut.convert("LA"), picture.convert("1"), picture.convert("CMYK")):
        theirs = process(images=[[image]], return_tensors="np")["pixel_values"][0, 0]
        ours = tiles_of(as_rgb(image), shape).pixels
        assert np.array_equal(ours, theirs[: len(ours)]), image.mode


def test_real_pictures_equal_transformers():
    if not PICTURES.is_dir():
        pytest.skip(f"{PICTURES} is absent")
    process, shape, files = reference(224, 4), ImageShape(tile=224), sorted([*PICTURES.glob("*.png"), *PICTURES.glob("*.jpg")])
    assert len(files) >= 10
    for file in files:
        image = read_image(file.read_bytes(), RULES, file.name)
        ours, theirs = tiles_of(image, shape), process(images=[[Image.open(file)]], return_tensors="np")
        assert ours.ratio == theirs["aspect_ratio_ids"][0, 0], file.name
        assert np.array_equal(ours.pixels, theirs["pixel_values"][0, 0, : len(ours.pixels)]), file.name


def test_canvases_by_hand():
    shape = ImageShape(tile=100)
    assert ratios(4) == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)]
    assert canvas(50, 50, shape) == (1, 1) and canvas(100, 100, shape) == (1, 1) and canvas(101, 100, shape) == (2, 1)
    assert canvas(150, 150, shape) == (2, 2) and canvas(1000, 1000, shape) == (2, 2) and canvas(90, 380, shape) == (1, 4)
    assert canvas(400, 1600, shape) == (1, 4) and canvas(10, 5000, shape) == (1, 4)


def test_what_a_picture_does_not_fill_is_black():
    tiled = tiles_of(Image.new("RGB", (60, 30), (255, 0, 0)), ImageShape(tile=64))
    assert (tiled.height, tiled.width, tiled.ratio) == (1, 1, 1)
    red, green = ((1.0 - CLIP_MEAN[0]) / CLIP_STD[0], -CLIP_MEAN[1] / CLIP_STD[1])
    assert np.allclose(tiled.pixels[0, 0, :32], red) and np.allclose(tiled.pixels[0, 1], green)
    assert np.allclose(tiled.pixels[0, 0, 32:], -CLIP_MEAN[0] / CLIP_STD[0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_says(orientation):
    image = noise(8, 14)
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.asarray(read_image(saved(image, exif=exif), RULES))
    pixels = np.asarray(image)
    turned = [pixels, pixels[:, ::-1], pixels[::-1, ::-1], pixels[::-1], pixels.transpose(1, 0, 2), np.rot90(pixels, -1),
              np.rot90(pixels, 2).transpose(1, 0, 2), np.rot90(pixels, 1)]  # fmt: skip
    assert np.array_equal(upright, turned[orientation - 1])


def test_grey_of_sixteen_bits_is_scaled_and_not_clipped():
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    assert np.asarray(read_image(saved(Image.fromarray(values)), RULES))[0, :, 1].tolist() == [0, 1, 128, 255]
    for wide in (np.array([[-5.0, 0.0, 5.0]], np.float32), np.array([[-500, 0, 500]], np.int32)):
        found = np.asarray(read_image(saved(Image.fromarray(wide), "TIFF"), RULES))[0, :, 0]
        assert found.tolist() == [0, 128, 255]
    assert np.asarray(as_rgb(Image.new("F", (2, 2), 7.0))).max() == 0


def test_colours_of_printers():
    cyan = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    found = np.asarray(read_image(saved(cyan, "JPEG", quality=95), RULES))[0, 0].astype(int)
    assert found[0] < 10 and found[1] > 245 and found[2] > 245


def test_transparent_parts_are_white():
    clear = Image.new("RGBA", (3, 3), (10, 20, 30, 0))
    assert np.asarray(read_image(saved(clear), RULES)).min() == 255


def test_the_first_frame_of_an_animated_picture():
    frames = [Image.new("RGB", (5, 5), (value, 0, 0)) for value in (255, 0)]
    for kind in ("GIF", "PNG", "WEBP"):
        found = read_image(saved(frames[0], kind, save_all=True, append_images=frames[1:]), RULES)
        assert np.asarray(found)[2, 2, 0] > 250, kind


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that says it is so large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def refused(content: bytes, words: str, rules: MediaRules = RULES) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_image(content, rules, "a.png")
    assert caught.value.where == "a.png"


@pytest.mark.parametrize("side", [6400, 9500, 30_000, 2**31 - 1])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused_by_their_head(side, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    refused(png(side, side), "more than 40 million pixels")


def test_the_bound_on_pixels_is_exact():
    picture = saved(noise(10, 10))
    assert read_image(picture, MediaRules(max_pixels=100)).size == (10, 10)
    refused(picture, "million pixels", MediaRules(max_pixels=99))


def test_pictures_that_cannot_be_read():
    whole = saved(noise(40, 40))
    refused(b"", "empty")
    refused(b"hello", "no picture in a known format")
    refused(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture in a known format")
    refused(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture in a known format")
    refused(png(0, 5), "picture")
    refused(png(7, 7), "damaged")
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"):
        content = saved(noise(40, 40), kind)
        for share in (0.1, 0.5, 0.9):
            refused(content[: int(len(content) * share)], "damaged|no picture|million", RULES)
    broken = bytearray(whole)
    broken[len(whole) // 2 : len(whole) // 2 + 8] = b"\xff" * 8
    refused(bytes(broken), "damaged")
