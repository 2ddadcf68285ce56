"""A classifier in fastText's binary format, given by path: the paper's language identification is one (section 3.1.1).

Published models of that format name 176 languages, but their weights are share-alike and none comes with Puna; who has such a
file names it. Read are full (not quantised) supervised models with softmax, hierarchical softmax or one-against-all output.
The format is that of fastText 0.9 (version 12 of its files; `args.cc`, `dictionary.cc`, `matrix.cc`, `loss.cc`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from puna.core.errors import InputError
from puna.data.words import utf8_of

if TYPE_CHECKING:
    import pyarrow as pa

MAGIC, VERSIONS = 793712314, (11, 12)
ARGUMENTS = ("dim", "ws", "epoch", "min_count", "neg", "orders", "loss", "model", "bucket", "least", "most", "update")
SUPERVISED = 3
HIERARCHICAL, NEGATIVE, SOFTMAX, ONE_AGAINST_ALL = 1, 2, 3, 4
LINE_END = b"</s>"
LABEL = "__label__"
UNCOUNTED = int(1e15)  # count of an inner node that is not made yet
SLOTS_A_WORD = 4


@dataclass(frozen=True)
class FastText:
    """A model as arrays.

    Attributes:
        labels: without the prefix.
        vectors: float32 [words + buckets, dimensions]; output: float32 [labels, dimensions].
        words: bytes of all words one after another, and where each begins.
        slots: hash table of words; line_end: number of the word that ends a line, -1 for none.
        parents, rights: Huffman tree over the labels.
        arguments: by the names of `ARGUMENTS`.
    """

    labels: list[str]
    vectors: np.ndarray
    output: np.ndarray
    words: tuple[np.ndarray, np.ndarray]
    slots: np.ndarray
    line_end: int
    parents: np.ndarray
    rights: np.ndarray
    arguments: dict[str, int]

    def score_batch(self, texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Probability of each label for each text (of several lines as of one); zeros for a text without features.

        Returns:
            float32 [texts, labels].
        """
        from puna.data.kernels.fasttext import predict

        data, bounds = utf8_of(texts)
        out, args = np.empty((len(bounds) - 1, len(self.labels)), dtype=np.float32), self.arguments
        predict(
            data, bounds, *self.words, self.slots, self.line_end, self.vectors, len(self.words[1]) - 1, max(args["bucket"], 1),
            args["least"], args["most"], args["orders"], self.output, self.parents, self.rights, args["loss"], out,
        )  # fmt: skip
        return out


@lru_cache(maxsize=4)
def load_fasttext(path: Path) -> FastText:
    """Read a model, once per process.

    Raises:
        InputError: the file cannot be read, is of another format, quantised, or no classifier.
    """
    try:
        with Path(path).open("rb") as file:
            return _read(file)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise InputError(
            f"this is no fastText classifier that can be read: {error}", where=str(path), fix="give a .bin file, not .ftz or .vec"
        ) from error


def model_digest(path: Path) -> str:
    """xxh3-128 of a model's file; InputError where there is none."""
    hashed = xxhash.xxh3_128()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                hashed.update(block)
    except OSError as error:
        raise InputError(
            f"this language model cannot be read: {error}", where=str(path), fix="correct `language_model`"
        ) from error
    return hashed.hexdigest()


def _read(file: Any) -> FastText:
    magic, version = _numbers(file, "<i4", 2)
    if magic != MAGIC or version not in VERSIONS:
        raise ValueError("it does not begin like a fastText model")
    args = dict(zip(ARGUMENTS, _numbers(file, "<i4", len(ARGUMENTS)), strict=True))
    _numbers(file, "<f8", 1)
    if args["model"] != SUPERVISED or args["loss"] not in (HIERARCHICAL, SOFTMAX, ONE_AGAINST_ALL):
        raise ValueError("it holds word vectors, or an output that gives no probabilities")
    if version == 11:
        args["most"] = 0  # models of that version saved a value they did not use
    words, labels, counts = _dictionary(file)
    if _numbers(file, "?", 1)[0]:
        raise ValueError("it is quantised")
    vectors = _matrix(file)
    if _numbers(file, "?", 1)[0]:
        raise ValueError("its output is quantised")
    output = _matrix(file)
    needs_buckets = args["most"] > 0 or args["orders"] > 1
    if vectors.shape != (len(words) + args["bucket"], args["dim"]) and (needs_buckets or vectors.shape[0] < len(words)):
        raise ValueError(f"its vectors are {vectors.shape}")
    if output.shape != (len(labels), args["dim"]):
        raise ValueError(f"its output is {output.shape} for {len(labels)} labels")
    return _assemble(words, labels, counts, vectors, output, args)


def _numbers(file: Any, kind: str, count: int) -> list[Any]:
    size = np.dtype(kind).itemsize * count
    data = file.read(size)
    if len(data) != size:
        raise ValueError("it is cut short")
    return np.frombuffer(data, dtype=kind).tolist()


def _dictionary(file: Any) -> tuple[list[bytes], list[str], np.ndarray]:
    """Words, labels, and how often each label was seen."""
    size, nwords, nlabels = _numbers(file, "<i4", 3)
    _, pruned = _numbers(file, "<i8", 2)
    if pruned > 0:
        raise ValueError("its vocabulary is pruned")
    words, labels, counts = [], [], []
    for _ in range(size):
        entry = bytearray()
        while (byte := file.read(1)) not in (b"\0", b""):
            entry += byte
        (count,), (kind,) = _numbers(file, "<i8", 1), _numbers(file, "<i1", 1)
        if kind:
            labels.append(entry.decode("utf-8").removeprefix(LABEL))
            counts.append(count)
        else:
            words.append(bytes(entry))
    if (len(words), len(labels)) != (nwords, nlabels) or not labels:
        raise ValueError("its dictionary does not hold what it says")
    return words, labels, np.array(counts, dtype=np.int64)


def _matrix(file: Any) -> np.ndarray:
    rows, columns = _numbers(file, "<i8", 2)
    data = file.read(4 * rows * columns)
    if len(data) != 4 * rows * columns:
        raise ValueError("it is cut short")
    return np.frombuffer(data, dtype="<f4").reshape(rows, columns)


def _assemble(
    words: list[bytes], labels: list[str], counts: np.ndarray, vectors: np.ndarray, output: np.ndarray, args: dict[str, int]
) -> FastText:
    from puna.data.kernels.fasttext import fill_table

    data = np.frombuffer(b"".join(words) or b"\0", dtype=np.uint8)
    ends = np.cumsum([0, *map(len, words)], dtype=np.int64)
    slots = np.full(1 << max(4, (SLOTS_A_WORD * len(words)).bit_length()), -1, dtype=np.int32)
    fill_table(data, ends, slots)
    parents, rights = huffman(counts)
    line_end = words.index(LINE_END) if LINE_END in words else -1
    return FastText(labels, vectors, output, (data, ends), slots, line_end, parents, rights, args)


def huffman(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """fastText's tree over labels that are sorted by falling counts.

    Returns:
        int32 [2 * labels - 1] parent of each node (-1 for the root), and bool, whether it is its parent's right child.
    """
    labels = len(counts)
    weights = np.concatenate([counts, np.full(labels - 1, UNCOUNTED)]).tolist()
    parents, rights = np.full(len(weights), -1, dtype=np.int32), np.zeros(len(weights), dtype=bool)
    leaf, node = labels - 1, labels
    for made in range(labels, len(weights)):
        chosen = []
        for _ in range(2):
            if leaf >= 0 and weights[leaf] < weights[node]:
                chosen.append(leaf)
                leaf -= 1
            else:
                chosen.append(node)
                node += 1
        weights[made] = weights[chosen[0]] + weights[chosen[1]]
        parents[chosen] = made
        rights[chosen[1]] = True
    return parents, rights
