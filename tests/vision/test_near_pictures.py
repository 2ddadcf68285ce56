"""Near-duplicates: the hash against its definition, look-up against all pairs, planted copies found, cost linear."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from puna.core.rng import numpy_stream
from puna.vision.near_pictures import COPY_BYTES, NearPictures, clusters, dhash, equal_pairs, small_copy
from puna.world.drawing import Look
from puna.world.pictures import picture

IMAGES = Path(__file__).parents[3] / "shared" / "data" / "images"
ALL = NearPictures(bits=6, levels=255)


def smooth(seed: int, size: int = 160) -> Image.Image:
    """A picture of soft colours, unlike any other."""
    noise = numpy_stream(seed, "smooth").integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((size, size * 3 // 4), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def cropped(image: Image.Image, share: float) -> Image.Image:
    width, height = image.size
    return image.crop((int(width * share), int(height * share / 2), width - int(width * share / 3), height))


def test_hash_of_known_pictures():
    falling = Image.fromarray(np.repeat(np.linspace(250, 5, 90, dtype=np.uint8)[None], 40, 0)).convert("RGB")
    assert dhash(falling) == 2**64 - 1
    assert dhash(falling.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == 0
    assert dhash(Image.new("RGB", (30, 30), (90, 20, 200))) == 0
    one = np.full((8, 9), 100, np.uint8)
    one[0, 0] = one[7, 7] = 200  # brighter than the right neighbour: the first and the last bit
    assert dhash(Image.fromarray(one).convert("RGB")) == (1 << 63) + 1
    assert small_copy(Image.new("RGB", (33, 20), (9, 8, 7))).reshape(256, 3).tolist() == [[9, 8, 7]] * 256


@pytest.mark.parametrize("many", [400, 70_000])
def test_lookup_finds_every_pair_within_the_promised_distance(many):
    """Six bits with pairs of bytes as keys, five with triples: planted pairs, and all pairs of a smaller set."""
    rng = numpy_stream(1, "hashes", many)
    hashes = rng.integers(0, 2**64, many, dtype=np.uint64)
    promised = 6 if many < 2**16 else 5
    wanted = []
    for i in range(100):
        flipped = sum(1 << int(bit) for bit in rng.choice(64, promised, replace=False))
        hashes[many - 1 - i] = hashes[i] ^ np.uint64(flipped)
        wanted.append((i, many - 1 - i))
    first, second = equal_pairs(hashes, np.zeros((many, COPY_BYTES), np.uint8), ALL)
    found = set(zip(first.tolist(), second.tolist(), strict=True))
    assert set(wanted) <= found
    if many < 2**16:
        bits = np.bitwise_count(hashes[:, None] ^ hashes)
        assert found == {(int(i), int(j)) for i, j in np.argwhere(bits <= 6) if i < j}


def test_chains_are_one_cluster_and_the_first_stays():
    hashes = np.array([0, 2**40 - 1, 0b111111, 0b111111111111, 2**40 - 2], np.uint64)
    assert clusters(hashes, np.zeros((5, COPY_BYTES), np.uint8), ALL).tolist() == [0, 1, 0, 0, 1]
    empty = clusters(np.zeros(0, np.uint64), np.zeros((0, COPY_BYTES), np.uint8), ALL)
    assert empty.tolist() == []


def test_colours_tell_pictures_of_one_brightness_apart():
    red, blue = Image.new("RGB", (40, 40), (200, 0, 0)), Image.new("RGB", (40, 40), (0, 0, 200))
    hashes = np.array([dhash(red), dhash(blue)], np.uint64)
    copies = np.stack([small_copy(red), small_copy(blue)])
    assert clusters(hashes, copies, NearPictures()).tolist() == [0, 1]


def planted(pictures: list[Image.Image]) -> dict[str, list[Image.Image]]:
    return {
        "re-encoded": [encoded(image, 30) for image in pictures],
        "resized": [image.resize((image.width * 2 // 5, image.height // 2)) for image in pictures],
        "brighter": [ImageEnhance.Brightness(image).enhance(1.1) for image in pictures],
        "cropped 2 %": [cropped(image, 0.02) for image in pictures],
    }


def test_recall_and_precision_on_planted_copies():
    pictures = [smooth(seed) for seed in range(150)]
    for name, copies in planted(pictures).items():
        every = pictures + copies
        hashes = np.array([dhash(image) for image in every], np.uint64)
        found = clusters(hashes, np.stack([small_copy(image) for image in every]), NearPictures())
        recall = float(np.mean(found[150:] == np.arange(150)))
        assert np.array_equal(found[:150], np.arange(150)), name  # no two different pictures are one
        assert set(found[150:].tolist()) - set(range(150)) <= set(range(150, 300))
        wrong = [i for i in range(150) if found[150 + i] not in (i, 150 + i)]
        assert not wrong, (name, wrong)
        assert recall >= {"cropped 2 %": 0.85}.get(name, 0.99), (name, recall)


@pytest.mark.parametrize(
    ("kind", "merged", "recall"), [("document", 0, 0.9), ("chart", 12, 0.9), ("table", 6, 0.4), ("scene", 0, 0.9)]
)
def test_pages_and_charts_that_look_alike_are_not_taken_for_copies(kind, merged, recall):
    """Their hashes are often the same; of 200 at most so many are lost, and most of those do show the same."""
    shown = [picture(kind, 1, "train", number, Look(size=128)) for number in range(200)]
    images = [one.images[0] for one in shown]
    copies = [encoded(image, 60).resize((100, 100)) for image in images]
    hashes = np.array([dhash(image) for image in images + copies], np.uint64)
    small = np.stack([small_copy(image) for image in images + copies])
    found = clusters(hashes[:200], small[:200], NearPictures())
    assert 200 - len(np.unique(found)) <= merged
    both = clusters(hashes, small, NearPictures())
    assert np.mean(both[200:] == both[:200]) > recall


def test_real_pictures_are_told_apart_and_their_copies_found():
    files = sorted(IMAGES.glob("*.png")) + sorted(IMAGES.glob("*.jpg"))
    if not files:
        pytest.skip(f"no pictures in {IMAGES}")
    pictures = [Image.open(file).convert("RGB") for file in files]
    every = pictures + [encoded(image, 40).resize((image.width // 2, image.height // 2)) for image in pictures]
    hashes = np.array([dhash(image) for image in every], np.uint64)
    found = clusters(hashes, np.stack([small_copy(image) for image in every]), NearPictures())
    assert found.tolist() == list(range(len(files))) * 2


def test_cost_is_linear_in_the_number_of_pictures():
    seconds = []
    for many in (20_000, 60_000):
        hashes = numpy_stream(2, many).integers(0, 2**64, many, dtype=np.uint64)
        copies = np.zeros((many, COPY_BYTES), np.uint8)
        begin = time.process_time()
        equal_pairs(hashes, copies, NearPictures())
        seconds.append(time.process_time() - begin)
    assert seconds[1] < 6 * seconds[0]
