"""A toy world for tests of training on pictures: squares of four colours, clips that change colour, a tiny text model."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from puna.core.modules import load_stage
from puna.core.stage import Artifact, local_artifact, local_context
from puna.core.store import digest_files
from puna.model.checkpoint import save_model
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Medium
from puna.tokenizer.dialog import Candidate, Dialog, MessageRow, Preference, Provenance, Task, write_rows
from puna.vision.config import AdapterConfig, VideoConfig, cross_places
from puna.vision.encoder_files import EncoderShape
from puna.vision.fetch import MediaRules
from puna.vision.model import VisionLlama
from puna.vision.tile_store import TileStore
from puna.vision.tiles import ImageShape

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 30), "blue": (30, 30, 220), "white": (240, 240, 240)}
PROVENANCE = Provenance(source="toy", licence="CC0-1.0")
ENCODER = {"dim": 16, "layers": 1, "global_layers": 1, "heads": 2, "mlp_dim": 32, "tile": 16, "patch": 8, "max_tiles": 2}
FIT = {"steps": 3, "lr": 5e-3, "batch_tokens": 256, "length": 64, "dev": 8, "log_every": 1, "warmup": 0}


def toy_tokenizer() -> Tokenizer:
    """The 256 bytes, and the words of the chat format and of the answers as single tokens."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    words = ["us", "er", "user", "as", "si", "st", "an", "ant", "\n\n", "re", "red", "gr", "ee", "green", "bl", "ue", "blue"]
    for word in [*words, "wh", "it", "white"]:
        ranks[word.encode()] = len(ranks)
    return Tokenizer.from_ranks(ranks)


TOKENIZER = toy_tokenizer()
SHAPE = ImageShape(tile=16, max_tiles=2)
PRETRAIN = {**FIT, "encoder": ENCODER, "cross_layers": 2, "gate": 0.5}


def model_of(*, video: bool = False) -> VisionLlama:
    """A model that sees, gates open."""
    sizes = {"dim": 16, "layers": 2, "heads": 2, "kv_heads": 1, "ffn_dim": 32, "max_seq_len": 128}
    text = Llama(ModelConfig(vocab_size=TOKENIZER.vocab_size, **sizes), seed=3)
    adapter = AdapterConfig(cross_places(2, 2), image_id=TOKENIZER.image_id)
    config = VideoConfig((1,), factor=2, dim=16, layers=1, heads=2, frames=4) if video else None
    return VisionLlama(text, EncoderShape(**ENCODER).config(), adapter, config, seed=5, gate=0.5).eval()


def store(limit: int = 1 << 20, frames: int = 3) -> TileStore:
    return TileStore(SHAPE, MediaRules(), frames=frames, limit=limit)


def text_model(directory: Path, seed: int = 0, **shape: int) -> Artifact:
    """A random text model on disk."""
    tokenizer = toy_tokenizer()
    sizes = {"dim": 16, "layers": 2, "heads": 2, "kv_heads": 1, "ffn_dim": 32, "max_seq_len": 128, **shape}
    model = Llama(ModelConfig(vocab_size=tokenizer.vocab_size, **sizes), seed=seed)
    model.lm_head.weight.data *= 20  # else every token is about as likely as any other, whatever an adapter does
    save_model(model, directory, tokenizer=tokenizer)
    return finished(directory, "model", directory.name)


def pictures(directory: Path, train: int = 16, dev: int = 8, *, videos: int = 0, text: int = 0, captions: int = 0) -> Artifact:
    """A pictures artifact: rows about squares of one colour, then captions, videos and text alone in the train split."""
    (directory / "media").mkdir(parents=True)
    rows = [picture_row(directory, i) for i in range(train)] + [caption_row(directory, i) for i in range(captions)]
    rows += [video_row(directory, i) for i in range(videos)] + [text_row(i) for i in range(text)]
    write_rows(directory / "train.jsonl", rows)
    held = [picture_row(directory, 1000 + i) for i in range(dev)]
    held += [caption_row(directory, 1000 + i) for i in range(min(captions, dev))]
    held += [video_row(directory, 1000 + i) for i in range(min(videos, dev))]
    write_rows(directory / "dev.jsonl", [as_task(row) for row in held])
    write_rows(directory / "preferences.jsonl", [preference_row(directory, i) for i in range(train)])
    return finished(directory, "pictures", directory.name)


def colour_of(i: int) -> str:
    return list(COLOURS)[i * 7 % 4]


def draw(path: Path, *colours: str, size: tuple[int, int] = (16, 16)) -> str:
    """A square of one colour, or a clip of several, as PNG; returns its url."""
    from PIL import Image

    first, *others = [Image.fromarray(np.full((*size, 3), COLOURS[colour], np.uint8)) for colour in colours]
    if others:
        first.save(path, format="PNG", save_all=True, append_images=others, duration=100)
    else:
        first.save(path, format="PNG")
    return f"{path.parent.name}/{path.name}"


def picture_row(directory: Path, i: int) -> Dialog:
    """A question about one square, wide ones of two tiles among them."""
    url = draw(directory / "media" / f"{i}.png", colour_of(i), size=(16, 32 if i % 3 == 0 else 16))
    return dialog(f"p{i}", url, "image", "Hue" + "?" * (i % 3), colour_of(i), "colour")


def video_row(directory: Path, i: int) -> Dialog:
    """A question about the second colour of a clip."""
    colours = colour_of(i), colour_of(i + 1), colour_of(i + 1)
    return dialog(f"v{i}", draw(directory / "media" / f"v{i}.png", *colours), "video", "Then?", colours[1], "order")


def text_row(i: int) -> Dialog:
    """A question without a picture."""
    messages = [MessageRow(role="user", content="Say " + colour_of(i)), MessageRow(role="assistant", content=colour_of(i))]
    return Dialog(id=f"t{i}", messages=messages, provenance=PROVENANCE)


def dialog(name: str, url: str, kind: str, question: str, answer: str, capability: str) -> Dialog:
    asked = MessageRow(role="user", content=question, media=(Medium(at=0, kind=kind, url=url),))
    answered = MessageRow(role="assistant", content=answer)
    return Dialog(id=name, messages=[asked, answered], capability=capability, provenance=PROVENANCE)


def caption_row(directory: Path, i: int) -> Dialog:
    """A caption of a square."""
    return picture_row(directory, i).model_copy(update={"id": f"c{i}", "capability": "caption"})


def as_task(row: Dialog) -> Task:
    """A row as a question that can be checked."""
    answer = row.messages[-1].content
    return Task(id=row.id, prompt=row.messages[:-1], verifier="exact", reference=[answer], gold=answer, family=row.capability,
                capability=row.capability, provenance=PROVENANCE)  # fmt: skip


def preference_row(directory: Path, i: int) -> Preference:
    """The right colour over a wrong one."""
    row = picture_row(directory, i)
    answers = [MessageRow(role="assistant", content=colour) for colour in (colour_of(i), colour_of(i + 1))]
    candidates = [Candidate(messages=[answer], origin="toy") for answer in answers]
    return Preference(id=f"q{i}", context=row.messages[:1], candidates=candidates, ranking=[0, 1], provenance=PROVENANCE)


def finished(directory: Path, kind: str, name: str) -> Artifact:
    """A directory as an artifact with its content digest."""
    return replace(local_artifact(directory, kind, name), digest=digest_files(directory)[0], record={"inputs": []})


def run_stage(
    root: Path, uses: str, name: str, inputs: list[Artifact], scratch: Path | None = None, **settings: object
) -> Artifact:  # fmt: skip
    """Run one stage file on local artifacts the way the runner does, and finish its artifact."""
    stage = load_stage(uses)
    ctx = local_context(root / name, name=name, inputs=inputs, seed=7)
    if scratch is not None:
        scratch.mkdir(parents=True, exist_ok=True)
        ctx = replace(ctx, scratch=scratch)
    summary = stage.run(stage.Settings(**settings), ctx)
    (ctx.out / "summary.json").write_text(json.dumps(summary, sort_keys=True, allow_nan=False))
    return finished(ctx.out, stage.KIND, name)


def summary_of(artifact: Artifact) -> dict:
    return json.loads((artifact.path / "summary.json").read_text())


if __name__ == "__main__":  # a look at the stages: python tests/vision/vision_toys.py FOLDER
    root = Path(sys.argv[1])
    base, shown = text_model(root / "base"), pictures(root / "pictures", 64, 16, videos=32)
    long = {**FIT, "steps": 150}
    seen = run_stage(root, "vision.pretrain", "seen", [base, shown], encoder=ENCODER, cross_layers=2, gate=0.5, **long)
    print(summary_of(seen))
    tuned = run_stage(root, "vision.sft", "tuned", [seen, text_model(root / "chat", 1), shown], **long)
    print(summary_of(tuned))
    print(summary_of(run_stage(root, "vision.anneal", "sharp", [seen, shown], tile=32, **FIT)))
    watched = run_stage(root, "vision.clips", "watched", [tuned, shown], dim=16, layers=1, heads=2, factor=3, gate=0.5, **long)
    print(summary_of(watched))
