"""The stage `vision.pictures`: generated pictures held apart by their truth; files read, refused, chosen and divided."""

from __future__ import annotations

import json
import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from puna.core.errors import InputError, Preempted
from puna.core.rng import numpy_stream
from puna.core.stage import local_artifact, local_context
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.dialog import Dialog, Preference, Task, read_rows
from puna.vision.fetch import MediaRules
from puna.vision.media import load
from puna.vision.picture_rows import PictureStore
from puna.vision.pictures import Settings, outside, run
from puna.vision.shelf import Shelf
from puna.vision.tiles import ImageShape
from puna.world.drawing import split_of
from puna.world.pictures import CAPTIONS

KINDS = {"scene": 40, "chart": 12, "table": 12, "document": 12, "clip": 12}
WORLD = {
    "world": {"train": KINDS, "dev": {"scene": 8}, "test": dict.fromkeys(KINDS, 12) | {"scene": 40}, "size": 48, "frames": 4}
}


def made(out: Path, **settings: Any) -> tuple[Path, dict[str, Any]]:
    ctx = local_context(out, seed=5)
    summary = run(Settings.model_validate(settings), ctx)
    return ctx.out, summary


def rows_of(out: Path) -> dict[str, list[Any]]:
    return {
        split: list(read_rows(out / f"{split}.jsonl", Dialog if split == "train" else Task)) for split in ("train", "dev", "test")
    }


def prompt(row: Dialog | Task) -> Any:
    return (row.messages if isinstance(row, Dialog) else row.prompt)[0]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return made(tmp_path_factory.mktemp("world") / "out", sources=WORLD)


def test_generated_rows(world):
    out, summary = world
    rows = rows_of(out)
    assert summary["rows"] == {split: len(found) for split, found in rows.items()}
    assert 75 < summary["pictures"]["test"] <= 88 and summary["left_out"] == {} and summary["bad_rows"] == 0
    for split, found in rows.items():
        for row in found:
            (medium,) = prompt(row).media
            assert medium.at == 0 and (out / medium.url).is_file()
            assert f"-{split}/" in medium.url and (medium.kind == "video") == ("/clip-" in medium.url)
    captions = {name for name, _ in CAPTIONS.values()}
    assert {row.capability for row in rows["train"]} == captions | {
        "count", "colour", "where", "what", "exists", "chart", "chart_order", "table", "word", "direction", "order"}  # fmt: skip
    assert sum(row.capability in captions for row in rows["train"]) == sum(KINDS.values())
    for task in rows["test"]:
        assert task.reference == [task.gold] and task.verifier == "exact" and task.family == task.capability
    assert {row.provenance.licence for row in rows["train"]} == {"CC0-1.0"}


def test_no_truth_of_dev_or_test_is_in_training(world):
    out, _ = world
    proof = json.loads((out / "split.json").read_text())
    assert set(proof["overlap"].values()) == {0}
    rows = rows_of(out)
    shown = {split: {row.provenance.checks["shows"] for row in found} for split, found in rows.items()}
    assert {split: len(found) for split, found in shown.items()} == proof["pictures"]
    assert not shown["train"] & shown["test"]
    scenes = {
        split: {row.messages[-1].content if isinstance(row, Dialog) else row.gold for row in found if row.capability == "caption"}
        for split, found in rows.items()
    }
    assert all(split_of(caption) == split for split, found in scenes.items() for caption in found)
    assert min(proof["test_answers"].values()) >= 2
    table = pq.read_table(out / "lineage.parquet")
    assert table.num_rows == sum(map(len, rows.values()))
    assert set(table["source"].to_pylist()) == {"world"} and Counter(table["part"].to_pylist())["dev"] == len(rows["dev"])


def test_the_same_run_gives_the_same_bytes_and_another_seed_others(world, tmp_path):
    out, _ = world
    again, _ = made(tmp_path / "out", sources=WORLD)
    files = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file() and "volatile" not in path.parts)
    assert files == sorted(
        path.relative_to(again) for path in again.rglob("*") if path.is_file() and "volatile" not in path.parts
    )
    assert all((out / file).read_bytes() == (again / file).read_bytes() for file in files)


def test_one_answer_to_all_is_said(tmp_path, capsys):
    ctx = local_context(tmp_path / "out")
    sources = {"world": {"train": {"scene": 2}, "dev": {}, "test": {"scene": 1}, "size": 48}}
    run(Settings.model_validate({"sources": sources}), ctx)
    assert "have one answer" in (ctx.out / "volatile" / "notes.txt").read_text()


def test_settings_in_short_and_refused():
    assert Settings.model_validate({"sources": "world"}) == Settings()
    assert Settings.model_validate({"sources": ["a.json"]}).sources[0].path == "a.json"
    for wrong in (
        {"world": {"train": {"cat": 3}}},
        {"world": {"size": 10}},
        {"path": "a", "split": "x"},
        {"world": {"train": {"scene": -1}}},
    ):
        with pytest.raises(ValidationError):
            Settings.model_validate({"sources": wrong})


def picture(seed: int) -> Image.Image:
    noise = numpy_stream(seed, "stage").integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((90, 70), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder as people have them: pictures beside rows of several forms, some of them broken."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "images").mkdir()
    for number in range(60):
        picture(number).save(folder / "images" / f"{number}.png")
    for number in range(10):  # copies of the first ten
        picture(number).resize((60, 40)).save(folder / "images" / f"copy{number}.jpg", quality=60)
    (folder / "images" / "broken.png").write_bytes((folder / "images" / "1.png").read_bytes()[:200])
    turns = [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "Three."}]
    llava = [{"id": f"l{i}", "image": f"images/{i}.png", "conversations": turns} for i in range(20)]
    (folder / "llava.json").write_text(json.dumps(llava))
    pairs = [{"image": f"images/{i}.png", "caption": f"A picture of the old house number {i} by the sea."} for i in range(20, 60)]
    pairs += [{"image": f"images/copy{i}.jpg", "caption": "The same house by the sea once more."} for i in range(10)]
    pairs += [
        {"image": "images/none.png", "caption": "There is no such file."},
        {"image": "../secret.png", "caption": "This leads out of the folder."},
        {"image": "images/broken.png", "caption": "This picture is cut short."},
        {"image": "http://127.0.0.1/a.png", "caption": "This is on the web."},
        {"image": "images/59.png", "caption": "Ein Bild von einem alten Haus, das am Meer steht und verfallen ist."},
        {"conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "x"}]},
    ]
    lines = [json.dumps(row) for row in pairs]
    (folder / "pairs.jsonl").write_text("\n".join([*lines, "{not json", '"text"', *lines[:1]]))
    return folder


def test_files_are_read_checked_and_divided(files, tmp_path):
    source = {"path": str(files), "licence": "CC-BY-4.0", "teacher": "gpt-4o", "name": "mine"}
    out, summary = made(tmp_path / "out", sources=source, dev=0.1, test=0.3)
    rows, bad = rows_of(out), [json.loads(line) for line in (out / "bad_rows.jsonl").read_text().splitlines()]
    assert summary["left_out"] == {"a near-duplicate of another picture": 10, "caption: language": 1, "the same row again": 1}
    assert summary["bad_rows"] == len(bad) == 7
    reasons = " | ".join(f"{row['file']}:{row['line']} {row['reason']}" for row in bad)
    for part in ("no such file", "leads out", "damaged", "127.0.0.1", "more places", "not JSON", "a row must be a JSON object"):
        assert part in reasons
    every = [row for found in rows.values() for row in found]
    assert len(every) == 60 == sum(summary["rows"].values())
    urls = [prompt(row).media[0].url for row in every]
    assert len(set(urls)) == 60 == len([path for path in (out / "media").rglob("*") if path.is_file()])
    assert 8 <= len(rows["test"]) <= 28 and {task.family for task in rows["test"]} >= {"caption"}
    assert {row.provenance.source for row in every} == {"mine"} and {row.provenance.teacher for row in every} == {"gpt-4o"}
    loaded = load(prompt(every[0]).media[0], out, MediaRules(), ImageShape(tile=32, max_tiles=1))
    assert loaded.images[0].pixels.shape == (1, 3, 32, 32)
    again, _ = made(tmp_path / "again", sources=source, dev=0.1, test=0.3)
    assert (again / "train.jsonl").read_bytes() == (out / "train.jsonl").read_bytes()
    assert outside(Settings.model_validate({"sources": source})).keys() == {
        str(files / name) for name in ("llava.json", "pairs.jsonl")
    }


def test_a_split_of_the_users_own_keeps_its_pictures_out_of_training(files, tmp_path):
    pairs = {"path": str(files / "pairs.jsonl"), "split": "test"}
    llava = {"path": str(files / "llava.json"), "split": "train"}
    rows = rows_of(made(tmp_path / "out", sources=[pairs, llava])[0])
    assert len(rows["test"]) == 50 and not rows["dev"]  # the copies of the first ten were seen first
    assert [row.id for row in rows["train"]] and len(rows["train"]) == 10
    kept = rows_of(made(tmp_path / "kept", sources=[pairs, llava], near=None)[0])
    assert len(kept["train"]) == 20


def test_a_picture_stays_if_its_first_copy_is_in_no_row(files, tmp_path):
    rows = [
        {"image": "images/1.png", "caption": "Ein Bild von einem alten Haus, das am Meer steht und verfallen ist."},
        {"image": "images/copy1.jpg", "caption": "The same house by the sea once more."},
    ]
    (files / "copies.jsonl").write_text("\n".join(map(json.dumps, rows)))
    _, summary = made(tmp_path / "out", sources={"path": str(files / "copies.jsonl"), "split": "train"})
    (files / "copies.jsonl").unlink()
    assert summary["rows"]["train"] == 1 and summary["left_out"] == {"caption: language": 1}


def test_a_test_of_the_users_own_is_kept_whole(files, tmp_path):
    rows = [{"image": f"images/copy{i}.jpg", "caption": "The same house by the sea once more."} for i in range(10)]
    (files / "held.jsonl").write_text("\n".join(map(json.dumps, rows)))
    learnt, held = (
        {"path": str(files / name), "split": split} for name, split in (("llava.json", "train"), ("held.jsonl", "test"))
    )
    out, summary = made(tmp_path / "out", sources=[learnt, held])
    (files / "held.jsonl").unlink()
    assert summary["rows"] == {"train": 10, "dev": 0, "test": 10} and summary["left_out"] == {"a held-out picture": 10}
    assert set(json.loads((out / "split.json").read_text())["overlap"].values()) == {0}


def test_other_stages_give_their_questions_other_ids(tmp_path):
    sources = {"world": {"train": {"scene": 3}, "dev": {}, "test": {"scene": 4}, "size": 48}}
    contexts = [local_context(tmp_path / name, seed=5, name=name) for name in ("one", "two")]
    for ctx in contexts:
        run(Settings.model_validate({"sources": sources}), ctx)
    one, two = (rows_of(ctx.out) for ctx in contexts)
    for split in ("train", "test"):
        assert {prompt(row).media for row in one[split]} == {prompt(row).media for row in two[split]}
        assert not {row.id for row in one[split]} & {row.id for row in two[split]}


def test_one_row_a_picture_and_resampling(files, tmp_path):
    rows = [{"image": "images/1.png", "question": f"How many of {i}?", "answer": "1"} for i in range(5)]
    rows += [{"image": f"images/{i}.png", "caption": "a house by the sea"} for i in range(2, 60)]
    (files / "many.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = {"path": str(files / "many.jsonl"), "split": "train"}
    _, every = made(tmp_path / "every", sources=source)
    assert every["rows"]["train"] == 63
    one, summary = made(tmp_path / "one", sources=source, near={"rows": "one"}, resampling={"threshold": 1, "words": 1})
    assert summary["left_out"]["another row of the same picture"] == 4
    thinned = summary["left_out"]["the caption says what many others say"]
    assert 10 < thinned < 40  # each of five words stays with probability sqrt(1/58): half of the 58 on average
    assert summary["rows"]["train"] == 63 - 4 - thinned == len(rows_of(one)["train"])
    (files / "many.jsonl").unlink()


def test_pairs_that_an_encoder_finds_unlike_are_dropped(files, tmp_path, monkeypatch):
    asked = []

    def load_scorer(directory: Path):
        def score(paths: list[Path], captions: list[str]) -> np.ndarray:
            asked.extend(zip(paths, captions, strict=True))
            return np.array([0.1 if "number 3" in caption else 0.5 for caption in captions], np.float32)

        assert directory == tmp_path / "encoder"
        return score

    contrast = types.ModuleType("puna.vision.contrast")
    monkeypatch.setattr(contrast, "load_scorer", load_scorer, raising=False)
    monkeypatch.setitem(sys.modules, "puna.vision.contrast", contrast)
    ctx = local_context(tmp_path / "out", inputs=[local_artifact(tmp_path / "encoder", "image_encoder")])
    source = {"path": str(files / "pairs.jsonl"), "split": "train"}
    summary = run(Settings.model_validate({"sources": source, "near": None, "filter": {"similarity": 0.3}}), ctx)
    assert summary["left_out"]["caption: unlike the picture"] == 10  # numbers 30 to 39
    assert len(asked) == 50 and all(path.parent.parent == ctx.scratch / "media" for path, _ in asked)
    assert not [row for row in rows_of(ctx.out)["train"] if "number 3" in row.messages[-1].content]


def test_nothing_usable_is_an_error(files, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"image": "none.png", "caption": "A house."}')
    with pytest.raises(InputError, match=r"no source gave a usable row.*no such file"):
        made(tmp_path / "out", sources=str(tmp_path / "a.jsonl"))
    with pytest.raises(InputError, match="does not exist"):
        made(tmp_path / "out2", sources="nowhere.json")


def test_a_stopped_run_decodes_nothing_twice(files, tmp_path, monkeypatch):
    ctx = local_context(tmp_path / "out")
    left = iter(range(30))
    ctx.stopping = lambda: next(left, None) is None
    settings = Settings.model_validate({"sources": {"path": str(files / "pairs.jsonl")}})
    with pytest.raises(Preempted):
        run(settings, ctx)
    decoded = []
    add = Shelf._add
    monkeypatch.setattr(
        Shelf, "_add", lambda self, source, medium, digest: decoded.append(medium.url) or add(self, source, medium, digest)
    )
    ctx.stopping = lambda: False
    run(settings, ctx)
    assert len(decoded) == 50 - 30 + 1 and "images/20.png" not in decoded  # and one that cannot be decoded
    whole, _ = made(tmp_path / "whole", sources={"path": str(files / "pairs.jsonl")})
    assert (whole / "train.jsonl").read_bytes() == (ctx.out / "train.jsonl").read_bytes()


def test_videos_in_files(files, tmp_path):
    frames = [picture(100 + i) for i in range(3)]
    frames[0].save(files / "clip.png", save_all=True, append_images=frames[1:])
    (files / "frames").mkdir(exist_ok=True)
    for i, frame in enumerate(frames):
        frame.save(files / "frames" / f"{i}.png")
    rows = [
        {"video": name, "caption": f"Colours that change, number {i}."}
        for i, name in enumerate(["clip.png", "frames", "images/broken.png"])
    ]
    (files / "videos.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out, summary = made(tmp_path / "out", sources={"path": str(files / "videos.jsonl"), "split": "train"})
    assert summary["rows"]["train"] == 2 and summary["bad_rows"] == 1
    for row in rows_of(out)["train"]:
        assert len(load(prompt(row).media[0], out, MediaRules(), ImageShape(tile=16, max_tiles=1)).images) == 3
    (files / "videos.jsonl").unlink()


def test_rows_are_encoded_when_drawn_with_their_media(world, tmp_path):
    out, _ = world
    tokenizer = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})
    store = PictureStore(tokenizer, [out / "train.jsonl"], 400, tmp_path)
    assert store.known(np.arange(len(store))) == 0
    shown = store.pictured(3)
    assert store.known(np.arange(len(store))) == 1
    row = rows_of(out)["train"][3]
    assert shown.media == prompt(row).media and shown.root == out
    ids = shown.example[0]
    assert [int(ids[place]) for place in shown.places] == [tokenizer.image_id]
    assert shown.example[1][list(shown.places)].tolist() == [0]


def test_real_pictures_and_videos_go_through(tmp_path):
    data = Path(__file__).parents[3] / "shared" / "data"
    pictures = sorted([*(data / "images").glob("*.png"), *(data / "images").glob("*.jpg")])
    clip = data / "video" / "video_180.mov"
    if not pictures or not clip.is_file():
        pytest.skip(f"no pictures and videos in {data}")
    pytest.importorskip("av")
    rows = [{"image": f"images/{path.name}", "question": "What is it?", "answer": path.stem} for path in pictures]
    rows += [{"video": f"video/{name}", "caption": "Somebody moves."} for name in (clip.name, "corrupted.mp4")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out, summary = made(tmp_path / "out", sources={"path": str(tmp_path / "rows.jsonl"), "media": str(data), "split": "test"})
    assert summary["rows"]["test"] == len(pictures) + 1 and summary["bad_rows"] == 1
    for row in rows_of(out)["test"]:
        (medium,) = prompt(row).media
        loaded = load(medium, out, MediaRules(), ImageShape(tile=56, max_tiles=4), frames=2)
        assert len(loaded.images) == (2 if medium.kind == "video" else 1)
        assert all(1 <= len(tiled.pixels) <= 4 and np.isfinite(tiled.pixels).all() for tiled in loaded.images)


def test_preferences_about_held_out_pictures_are_left_out(files, tmp_path):
    rows = [
        {"image": f"images/{i}.png", "question": "What is it?", "chosen": "A house.", "rejected": "A boat."} for i in range(20)
    ]
    rows.append({"image": "images/none.png", "question": "What is it?", "chosen": "A house.", "rejected": "A boat."})
    (tmp_path / "ranked.jsonl").write_text("\n".join(map(json.dumps, rows)))
    held = [{"image": f"images/{i}.png", "question": "What is it?", "answer": "A house."} for i in range(5)]
    (tmp_path / "held.jsonl").write_text("\n".join(map(json.dumps, held)))
    sources = [
        {"path": str(tmp_path / "ranked.jsonl"), "media": str(files), "split": "train", "teacher": "gpt-4o"},
        {"path": str(tmp_path / "held.jsonl"), "media": str(files), "split": "test"},
    ]
    out, summary = made(tmp_path / "out", sources=sources)
    found = list(read_rows(out / "preferences.jsonl", Preference))
    assert summary["preferences"] == len(found) == 15 and summary["bad_rows"] == 1
    assert summary["left_out"] == {"a held-out picture": 5} and summary["rows"] == {"train": 0, "dev": 0, "test": 5}
    assert all((out / row.context[0].media[0].url).is_file() for row in found)
    parts = Counter(pq.read_table(out / "lineage.parquet")["part"].to_pylist())
    assert parts == {"preferences": 15, "test": 5}
    alone, _ = made(tmp_path / "alone", sources=[{**sources[0], "split": "auto"}], test=0.5)
    assert 0 < len(list(read_rows(alone / "preferences.jsonl", Preference))) < 20
