"""A toy world for tests of training on speech: tones of four pitches that mean words, and a tiny text model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from puna.core.modules import load_stage
from puna.core.stage import Artifact, local_artifact, local_context
from puna.core.store import digest_files
from puna.model.checkpoint import save_model
from puna.model.config import ModelConfig
from puna.model.llama import Llama
from puna.speech.adapter import SpeechAdapterConfig
from puna.speech.encoder import SpeechConfig
from puna.speech.files import speech_tokens
from puna.speech.frames import SoundShape
from puna.speech.model import SpeechLlama
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Medium
from puna.tokenizer.dialog import Dialog, MessageRow, Provenance, Task, write_rows

ENCODER = {"dim": 16, "layers": 1, "heads": 2, "ffn_dim": 32}
ADAPTER = {"dim": 16, "heads": 2, "ffn_dim": 32}
WORDS = {"low": 200.0, "half": 700.0, "high": 2500.0}  # and their pitch in hertz
PROVENANCE = Provenance(source="toy", licence="CC0-1.0")
PLAIN = {"steps": 3, "lr": 5e-3, "batch_rows": 4, "window": 2, "log_every": 1, "warmup": 0, "measure": 4}
LISTEN = {**PLAIN, "encoder": ENCODER, "adapter": ADAPTER, "dev": 6}
SIZES = {"dim": 16, "layers": 2, "heads": 2, "kv_heads": 1, "ffn_dim": 32, "max_seq_len": 128}


def toy_tokenizer() -> Tokenizer:
    """The 256 bytes, and the words of the chat format and of the answers as single tokens."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    words = [
        "us",
        "er",
        "user",
        "as",
        "si",
        "st",
        "an",
        "ant",
        "\n\n",
        "lo",
        "low",
        "hi",
        "gh",
        "high",
        "up",
        "ha",
        "hal",
        "half",
    ]
    for word in words:
        ranks[word.encode()] = len(ranks)
    return Tokenizer.from_ranks(ranks)


def text_of(seed: int = 3, **sizes: int) -> Llama:
    return Llama(ModelConfig(vocab_size=toy_tokenizer().vocab_size, **{**SIZES, **sizes}), seed=seed)


def listening(sound: SoundShape = SoundShape(), seed: int = 5) -> SpeechLlama:
    """A model that listens, drawn at random."""
    tokens = speech_tokens(toy_tokenizer())
    adapter = SpeechAdapterConfig(**ADAPTER)
    return SpeechLlama(text_of(), SpeechConfig(**ENCODER), adapter, tokens, sound=sound, seed=seed).eval()


def text_model(directory: Path, seed: int = 0) -> Artifact:
    """A random text model on disk."""
    model = text_of(seed)
    model.lm_head.weight.data *= 20  # else every token is about as likely as any other, whatever an adapter does
    save_model(model, directory, tokenizer=toy_tokenizer())
    return finished(directory, "model", directory.name)


def word_of(i: int) -> str:
    return list(WORDS)[i * 7 % 3]


def tone(i: int, seconds: float) -> np.ndarray:
    """The word's pitch, a little off, with noise."""
    rng = np.random.default_rng(i)
    at = np.arange(round(16_000 * seconds)) / 16_000
    hertz = WORDS[word_of(i)] * rng.uniform(0.95, 1.05)
    return (0.3 * np.sin(2 * np.pi * hertz * at) + 0.02 * rng.standard_normal(len(at))).astype(np.float32)


def dialog(directory: Path, i: int, seconds: float | None = None) -> Dialog:
    """A tone of 0.2 to 0.6 seconds, and the word that it means."""
    import soundfile

    path = directory / "media" / f"{i}.flac"
    soundfile.write(path, tone(i, 0.2 + i % 5 * 0.1 if seconds is None else seconds), 16_000)
    heard = MessageRow(role="user", content="", media=(Medium(at=0, kind="audio", url=f"media/{path.name}"),))
    return Dialog(id=f"s{i}", messages=[heard, MessageRow(role="assistant", content=word_of(i))], provenance=PROVENANCE)


def task(row: Dialog) -> Task:
    """A row as a question that can be checked."""
    answer = row.messages[-1].content
    return Task(id=row.id, prompt=row.messages[:-1], verifier="exact", reference=[answer], gold=answer, family="transcribe",
                provenance=PROVENANCE)  # fmt: skip


def sounds(directory: Path, train: int = 12, dev: int = 6) -> Artifact:
    """A sounds artifact: tones that mean words."""
    (directory / "media").mkdir(parents=True)
    write_rows(directory / "train.jsonl", [dialog(directory, i) for i in range(train)])
    write_rows(directory / "dev.jsonl", [task(dialog(directory, 1000 + i)) for i in range(dev)])
    return finished(directory, "sounds", directory.name)


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
