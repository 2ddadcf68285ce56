"""Training a vocabulary and encoding with it: Puna beside Hugging Face tokenizers and rustbpe, on the same texts, one thread.

    python bench/tokenizer.py [--quick] [--check]

Texts are English prose and the Universal Declaration in 28 languages from ../shared/data where that is there, filled up with the
sources of Python's standard library. Runs are interleaved; medians and best of CPU seconds. Training goes from texts to ranks
(for Puna: counting, then merging). Encoding gives lists of ids: by the compiled encoder that takes over in a large corpus, its
cache empty at the start of each run, and by the one that serves a few texts. The limit beside it is one pass over the bytes that
only tells words apart. Linear means that four times the input costs four times the time: speed at 4x over speed at 1x, for
training, encoding, and a text without spaces.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import random
import re
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import numpy as np

from puna.tokenizer import pieces
from puna.tokenizer.bpe import BULK_CHARS, SPLIT_PATTERN, Tokenizer
from puna.tokenizer.merging import train_ranks

LINEAR = 1 / 1.15  # of the speed at 1x, at 4x
GOAL = {
    "training_over_hf": 2.5,
    "encoding_over_hf": 5.0,
    "training_4x_over_1x": LINEAR,
    "encoding_4x_over_1x": LINEAR,
    "no_spaces_4x_over_1x": LINEAR,
}
SHARED = Path(__file__).parents[2] / "shared" / "data"
VOCABULARY = 16_384
MB = 1_000_000


def corpus(size: int) -> list[str]:
    """About `size` bytes of documents in a fixed random order."""
    texts = []
    if SHARED.exists():
        texts.append((SHARED / "text_en" / "tinyshakespeare.txt").read_text(encoding="utf-8"))
        with zipfile.ZipFile(SHARED / "text_en" / "inaugural.zip") as archive:
            texts += [archive.read(name).decode("utf-8", "replace") for name in archive.namelist() if name.endswith(".txt")]
        texts += [re.sub(r"<[^>]+>", " ", file.read_text(encoding="utf-8")) for file in sorted((SHARED / "udhr").glob("*.xml"))]
    else:
        print("../shared/data is not here: sources of the standard library alone")
    files = sorted(Path(os.__file__).parent.rglob("*.py"))
    random.Random(1).shuffle(files)
    held = sum(len(text.encode()) for text in texts)
    for file in files:
        if held >= size:
            break
        texts.append(file.read_text(encoding="utf-8", errors="replace"))
        held += len(texts[-1].encode())
    random.Random(0).shuffle(texts)
    return texts


def train_puna(texts: list[str]) -> dict[bytes, int]:
    return train_ranks(pieces.count_texts(texts), VOCABULARY).ranks


def train_rustbpe(texts: list[str]) -> dict[bytes, int]:
    import rustbpe

    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(texts), VOCABULARY, pattern=SPLIT_PATTERN)
    return {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}


def train_hf(texts: list[str]) -> set[str]:
    from tokenizers import Regex, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Peer

    peer = Peer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    peer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    peer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False))
    return set(peer.get_vocab())


def encode_corpus(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """As in the middle of a large corpus, but with an empty cache of pieces."""
    tokenizer._bulk, tokenizer._batched_chars = None, BULK_CHARS
    return tokenizer.encode_batch(texts)


def interleaved(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every work, one after the other, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            start = time.process_time()
            work()
            seconds[name].append(time.process_time() - start)
    return seconds


def shares(texts: list[str], parts: tuple[int, ...] = (4, 2, 1)) -> dict[int, tuple[list[str], float]]:
    """Every fourth text, every second, all: with their megabytes. Keys are 1, 2, 4 times the smallest."""
    chosen = {max(parts) // part: texts[::part] for part in parts}
    return {times: (some, sum(len(text.encode()) for text in some) / MB) for times, some in chosen.items()}


def table(title: str, seconds: dict[str, list[float]], megabytes: dict[str, float]) -> dict[str, float]:
    """Print medians and best; returns MB/s by the medians."""
    print(title)
    speeds = {}
    for name, values in seconds.items():
        speeds[name] = megabytes[name] / statistics.median(values)
        print(f"  {name:<22} median {statistics.median(values):7.3f} s  best {min(values):7.3f} s  {speeds[name]:7.1f} MB/s")
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    texts, rounds = corpus((4 if args.quick else 12) * MB), 3 if args.quick else 5
    whole = sum(len(text.encode()) for text in texts) / MB
    ratios: dict[str, float] = {}

    ranks = train_puna(texts)  # compiles what is not compiled yet
    data = [np.frombuffer(text.encode(), dtype=np.uint8) for text in texts]
    trainers = {
        "puna": lambda: train_puna(texts),
        "rustbpe": lambda: train_rustbpe(texts),
        "tokenizers": lambda: train_hf(texts),
        "one pass over bytes": lambda: [pieces._words(some, pieces.character_classes()) for some in data],
    }
    speeds = table(f"training, {whole:.1f} MB", interleaved(trainers, rounds), dict.fromkeys(trainers, whole))
    ratios["training_over_hf"] = speeds["puna"] / speeds["tokenizers"]
    ratios["training_over_rustbpe"] = speeds["puna"] / speeds["rustbpe"]
    limits = {"share_of_one_pass_over_bytes": speeds["puna"] / speeds["one pass over bytes"]}
    ratios["same_ranks_as_rustbpe"] = float(ranks == train_rustbpe(texts))
    ratios["vocabulary_overlap_with_hf"] = overlap(ranks, train_hf(texts))

    tokenizer = Tokenizer.from_ranks(ranks)
    peer = as_hf(tokenizer)
    ratios["same_ids_as_hf"] = agreement(tokenizer, peer, texts)
    encode_corpus(tokenizer, texts[:1])  # compiles what is not compiled yet
    encoders = {
        "puna": lambda: encode_corpus(tokenizer, texts),
        "puna, a few texts": lambda: [tokenizer.encode(text) for text in texts],
        "tokenizers": lambda: peer.encode_batch_fast(texts, add_special_tokens=False),
    }
    speeds = table(f"encoding, {whole:.1f} MB", interleaved(encoders, rounds), dict.fromkeys(encoders, whole))
    ratios["encoding_over_hf"] = speeds["puna"] / speeds["tokenizers"]
    ratios["encoding_a_few_texts_over_hf"] = speeds["puna, a few texts"] / speeds["tokenizers"]

    linear(ratios, tokenizer, texts, rounds)
    missed = [name for name, goal in GOAL.items() if ratios[name] < goal]
    versions = {name: importlib.metadata.version(name) for name in ("tokenizers", "rustbpe", "tiktoken", "numba")}
    print(
        json.dumps(
            {"bench": "tokenizer", "ratios": ratios, "limits": limits, "machine": platform.machine(), "versions": versions}
        )
    )
    if args.check and missed:
        sys.exit(f"missed: {', '.join(missed)}")


def linear(ratios: dict[str, float], tokenizer: Tokenizer, texts: list[str], rounds: int) -> None:
    """Speed at one, two and four times the input."""
    draw = random.Random(2)
    endless = ["".join(draw.choices("etaoinshrdlu", k=MB)) for _ in range(4)]
    parts = shares(texts)
    joined = {times: (["".join(endless[:times])], float(times)) for times in (1, 2, 4)}
    for name, work, inputs in (
        ("training", train_puna, parts),
        ("encoding", partial(encode_corpus, tokenizer), parts),
        ("no_spaces", partial(encode_corpus, tokenizer), joined),
    ):
        works = {f"{times}x": (lambda some=some, work=work: work(some)) for times, (some, _) in inputs.items()}
        sizes = {f"{times}x": size for times, (_, size) in inputs.items()}
        speeds = table(f"{name}: linear in the input", interleaved(works, rounds), sizes)
        ratios[f"{name}_4x_over_1x"] = speeds["4x"] / speeds["1x"]


def as_hf(tokenizer: Tokenizer):
    """The same ranks in the peer's encoder."""
    from tokenizers import Tokenizer as Peer

    with tempfile.TemporaryDirectory() as place:
        tokenizer.save(place)
        return Peer.from_file(f"{place}/tokenizer.json")


def agreement(tokenizer: Tokenizer, peer, texts: list[str]) -> float:
    """Share of texts with the same ids."""
    theirs = peer.encode_batch_fast(texts, add_special_tokens=False)
    ours = encode_corpus(tokenizer, texts)
    return sum(ids == their.ids for ids, their in zip(ours, theirs, strict=True)) / len(texts)


def overlap(ranks: dict[bytes, int], vocabulary: set[str]) -> float:
    """Share of our tokens that the peer's vocabulary has."""
    from puna.tokenizer.hf import byte_letters

    letters = byte_letters()
    return sum("".join(letters[byte] for byte in token) in vocabulary for token in ranks) / len(ranks)


if __name__ == "__main__":
    main()
