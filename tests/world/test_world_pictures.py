"""Generated pictures: pure functions of their numbers, answers that are true of the pixels, splits that share no truth."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from puna.core.errors import InputError
from puna.core.rng import python_stream
from puna.world.charts import CELLS
from puna.world.clips import LINES, STEPS, Clip, any_clip
from puna.world.documents import WORDS, Document
from puna.world.drawing import COLOURS, SHAPES, SPLIT_PERCENT, Look, canvas, split_of, write
from puna.world.pictures import CAPTIONS, TRUTHS, Picture, picture
from puna.world.scenes import PLACES, any_scene

LOOK = Look()


def of(kind: str, number: int, split: str = "train", seed: int = 3, look: Look = LOOK) -> Picture:
    return picture(kind, seed, split, number, look)


def pixels(shown: Picture) -> list[bytes]:
    return [image.tobytes() for image in shown.images]


def answers(shown: Picture) -> dict[str, tuple[str, str]]:
    return {asked.kind: (asked.question, asked.answer) for asked in shown.asked}


@pytest.mark.parametrize("kind", TRUTHS)
def test_a_picture_is_a_function_of_seed_split_and_number(kind):
    one, again = of(kind, 5), of(kind, 5)
    assert (one.key, one.asked, pixels(one)) == (again.key, again.asked, pixels(again))
    others = [of(kind, 6), of(kind, 5, "test"), of(kind, 5, seed=4)]
    assert all(pixels(other) != pixels(one) for other in others)
    assert len({asked.kind for asked in one.asked}) == len(one.asked)
    assert one.asked[0].kind == CAPTIONS[kind][0]


@pytest.mark.parametrize("kind", TRUTHS)
def test_splits_share_no_truth_whatever_the_seed(kind):
    keys = {split: {of(kind, number, split, seed).key for seed in (1, 2) for number in range(60)} for split in SPLIT_PERCENT}
    assert all(split_of(key) == split for split, found in keys.items() for key in found)
    assert not keys["train"] & (keys["dev"] | keys["test"]) and not keys["dev"] & keys["test"]
    captions = {split: {of(kind, number, split).asked[0].answer for number in range(60)} for split in ("train", "test")}
    assert not captions["train"] & captions["test"]


def test_a_look_with_no_truth_for_a_split_is_refused():
    plain = Look(shapes=2, colours=2, things=1)  # 16 truths, none of which dev may show
    assert split_of(of("scene", 0, "test", look=plain).key) == "test"
    with pytest.raises(InputError, match="dev may show"):
        of("scene", 0, "dev", look=plain)


def test_shares_of_the_splits():
    found = Counter(split_of(f"truth {number}") for number in range(20_000))
    assert all(abs(found[split] / 20_000 - percent / 100) < 0.01 for split, percent in SPLIT_PERCENT.items())


def nearest(colour: np.ndarray) -> str:
    return min(COLOURS, key=lambda name: float(np.abs(colour.astype(int) - COLOURS[name]).sum()))


def test_a_scene_shows_what_its_caption_and_answers_say():
    for number in range(80):
        shown = of("scene", number)
        image = np.asarray(shown.images[0])
        assert image.shape == (64, 64, 3)
        told = {place: (colour, shape) for colour, shape, place in
                re.findall(r"(\w+) (\w+) (top left|top right|bottom left|bottom right)", shown.asked[0].answer)}  # fmt: skip
        for place, name in enumerate(PLACES):
            quarter = image[32 * (place // 2) :, 32 * (place % 2) :][:32, :32].reshape(-1, 3)
            bright = quarter[quarter.max(axis=1) > 100]
            assert (len(bright) > 20) == (name in told)
            if name in told:
                assert nearest(np.median(bright, axis=0)) == told[name][0]
        said = answers(shown)
        assert said["count"][1] == str(len(told))
        place = said["what"][0].removeprefix("What is ").removesuffix("?")
        assert said["what"][1] == " ".join(told[place])
        shapes = [shape for _, shape in told.values()]
        if "colour" in said:
            shape = said["colour"][0].split()[-1].removesuffix("?")
            assert shapes.count(shape) == 1 and (said["colour"][1], shape) in told.values()
            shape = said["where"][0].split()[-1].removesuffix("?")
            assert shapes.count(shape) == 1 and told[said["where"][1]][1] == shape
        if "exists" in said:
            shape = said["exists"][0].split()[-1].removesuffix("?")
            assert said["exists"][1] == ("yes" if shape in shapes else "no")


def test_counts_and_yes_and_no_are_balanced():
    found = [answers(of("scene", number)) for number in range(600)]
    counts = Counter(said["count"][1] for said in found)
    assert set(counts) == {"1", "2", "3", "4"} and min(counts.values()) > 110
    exists = Counter((said["count"][1], said["exists"][1]) for said in found if "exists" in said)
    for count in "1234":
        assert 0.4 < exists[count, "yes"] / (exists[count, "yes"] + exists[count, "no"]) < 0.6


def test_the_look_says_how_much_there_is():
    look = Look(size=128, shapes=6, colours=6, things=2, frames=6)
    scenes = [any_scene(look, python_stream(1, number)) for number in range(300)]
    assert {thing.shape for scene in scenes for _, thing in scene.things} == set(SHAPES)
    assert {thing.colour for scene in scenes for _, thing in scene.things} == set(COLOURS)
    assert {len(scene.things) for scene in scenes} == {1, 2}
    assert of("scene", 1, look=look).images[0].size == (128, 128)
    assert len(of("clip", 1, look=look).images) == 6


def test_a_chart_has_bars_as_high_as_its_numbers():
    for number in range(40):
        shown = of("chart", number)
        bars = [part.split() for part in shown.asked[0].answer.split(", ")]
        image, width = np.asarray(shown.images[0]).astype(int), 64 / len(bars)
        heights = []
        for i in range(len(bars)):
            column = image[:, int(width * (i + 0.25)), :]
            heights.append(int((np.ptp(column, axis=1) > 100).sum()))  # rows that are neither paper nor ink
        assert np.array_equal(np.argsort(heights), np.argsort([int(value) for _, value in bars]))
        said, values = answers(shown), dict(bars)
        assert said["chart"][1] == values[said["chart"][0][-2]]
        best = max if "highest" in said["chart_order"][0] else min
        assert int(values[said["chart_order"][1]]) == best(map(int, values.values()))


def read_letters(image: Image.Image, text: str) -> bool:
    """Whether the text stands anywhere in the picture, to the pixel."""
    patch, _ = canvas(64, (0, 0, 0))
    write(patch, text, (0, 0), (255, 255, 255))
    mask = np.asarray(patch)[:11, : 6 * len(text), 0] > 0
    grey = np.asarray(image.convert("L")).astype(int)
    windows = np.lib.stride_tricks.sliding_window_view(grey, mask.shape)
    ink, paper = windows[:, :, mask], windows[:, :, ~mask]
    return bool(((np.ptp(ink, 2) == 0) & (np.ptp(paper, 2) == 0) & (np.abs(ink[..., 0] - paper[..., 0]) > 80)).any())


def test_tables_and_documents_have_their_texts_in_the_picture():
    for number in range(10):
        table, page = of("table", number), of("document", number)
        cells = re.findall(r"\d+", table.asked[0].answer)
        assert len(cells) == 6 and all(CELLS[0] <= int(cell) <= CELLS[1] for cell in cells)
        assert all(read_letters(table.images[0], cell) for cell in cells)
        row, column = re.findall(r"row (\w), column (\w)", answers(table)["table"][0])[0]
        assert answers(table)["table"][1] == cells["ABC".index(row) * 2 + "XY".index(column)]
        words = page.asked[0].answer.split()
        assert set(words) <= set(WORDS) and all(read_letters(page.images[0], word) for word in words)
        assert not read_letters(page.images[0], next(word for word in WORDS if word not in words and len(word) > 4))
        asked = answers(page)["word"]
        assert asked[1] == words[["first", "second", "third"].index(asked[0].split()[3])]


def test_letters_grow_with_the_picture():
    small, large = (Document(("house", "pen")).draw(Look(size=size), python_stream(1))[0] for size in (64, 256))
    dark = [int((np.asarray(image.convert("L")) < 120).sum()) for image in (small, large)]
    assert dark[1] == 16 * dark[0]


def tracked(frames: list[Image.Image], colour: str) -> list[complex]:
    """The place of a colour in each frame as a pair of angles of the torus, here their unit vectors' sum by axis."""
    found = []
    for frame in frames:
        there = np.abs(np.asarray(frame).astype(int) - COLOURS[colour]).sum(axis=2) < 60
        y, x = np.nonzero(there)
        found.append((np.angle(np.exp(2j * np.pi * x / 64).sum()), np.angle(np.exp(2j * np.pi * y / 64).sum())))
    return found


def test_shapes_move_the_way_that_is_told_and_in_the_order_that_is_told():
    seen = Counter()
    for number in range(60):
        shown = of("clip", number)
        told = re.findall(r"(\w+) (\w+) moves (\w+)", shown.asked[0].answer)
        assert len(shown.images) == 8 and len({image.tobytes() for image in shown.images}) == 8
        colours = [colour for colour, _, _ in told]
        if len(set(colours)) < len(colours):
            continue
        firsts = []
        for colour, _, way in told:
            places = np.unwrap(np.array(tracked(list(shown.images), colour)), axis=0)
            total, step = places[-1] - places[0], np.array(STEPS[way])
            assert np.allclose(total / (2 * np.pi), step * (0.75 if len(told) == 1 else 0.6), atol=0.08)
            moving = np.flatnonzero(np.abs(np.diff(places, axis=0)).max(axis=1) > 0.1)
            firsts.append(moving[0])
            seen[way] += 1
        assert firsts == sorted(firsts) and len(set(firsts)) == len(firsts)
        said = answers(shown)
        assert said["direction"][1] == next(way for colour, shape, way in told if f"{colour} {shape}" in said["direction"][0])
        assert ("order" in said) == (len(told) == 2)
        if len(told) == 2:
            assert said["order"][1] == f"{told[0][0]} {told[0][1]}"
    assert min(seen[way] for way in STEPS) > 5


def test_no_single_frame_tells_the_direction():
    """In every frame the places have the same distribution, uniform, for all directions."""
    places: dict[str, list[list[tuple[float, float]]]] = {way: [] for way in STEPS}
    for number in range(4000):
        rng = python_stream(7, number)
        clip = any_clip(LOOK, rng)
        if len(clip.movers) == 1:
            starts = clip.starts(rng)
            places[clip.movers[0].way].append([clip.places(starts, frame, 8)[0] for frame in range(8)])
    for frame in range(8):
        for axis in range(2):
            for found in places.values():
                values = np.array(found)[:, frame, axis]
                histogram = np.histogram(values, bins=4, range=(0, 1))[0] / len(values)
                assert np.abs(histogram - 0.25).max() < 0.07
    assert {way for line in LINES for way in line} == set(places)


@pytest.mark.parametrize("kind", ["scene", "clip"])
def test_what_is_saved_is_what_was_drawn(tmp_path: Path, kind):
    for number in range(12):
        shown = of(kind, number)
        shown.save(tmp_path / "a.png")
        with Image.open(io.BytesIO((tmp_path / "a.png").read_bytes())) as image:
            assert image.format == "PNG" and getattr(image, "n_frames", 1) == len(shown.images)
            for frame, drawn in enumerate(shown.images):
                image.seek(frame)
                assert image.convert("RGB").tobytes() == drawn.tobytes()


def test_two_shapes_of_a_clip_never_cover_each_other():
    for number in range(400):
        rng = python_stream(9, number)
        clip: Clip = any_clip(LOOK, rng)
        if len(clip.movers) < 2:
            continue
        axis = 1 if clip.movers[0].way in LINES[0] else 0
        one, other = clip.starts(rng)
        apart = abs(one[axis] - other[axis])
        assert min(apart, 1 - apart) == pytest.approx(0.5)
