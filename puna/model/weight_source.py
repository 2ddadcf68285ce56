"""Where converted weights come from, read by rows: what there is, as tensors without memory, and a way to a block of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from puna.core.errors import InputError
from puna.model.checkpoint import (
    CONFIG,
    INDEX,
    OLD_ROPE_TABLE,
    SCALE,
    TOKENIZER_DIGEST,
    check_scale,
    check_tokenizer,
    read_config,
    weight_files,
)
from puna.model.config import ModelConfig
from puna.model.fp8_formats import activation_bound
from puna.model.weight_file import COPY_AGAIN, Entry, read_header, row_blocks, sha256_of

SUMS = "SHA256SUMS"  # beside the weights, as `sha256sum -c` reads it
NAN_CODE = 0x7F  # of e4m3fn, with either sign; no quantiser writes it


class Weights(Protocol):
    """A model's tensors on disk.

    Attributes:
        config: the network's shape.
        state: our name of every tensor to one of its shape and stored type on `meta`; FP8 weights with `weight_scale` [N,1].
        bound: limit on activations of FP8 layers; None for a model without.
        fp8_format: how FP8 layers are described, one of `fp8_formats.FORMATS`; None for a model without.
    """

    config: ModelConfig
    state: dict[str, Tensor]
    bound: float | None
    fp8_format: str | None

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """Rows [first, last) of a tensor, in memory of their own."""

    def place(self, name: str) -> str:
        """The file a tensor lies in, for errors."""

    def identity(self) -> Any:
        """JSON that changes whenever a file of weights may have changed."""


class DirectoryWeights:
    """The tensors of a Hugging Face directory; everything that can be checked without reading the weights is checked at once."""

    def __init__(self, directory: Path):
        hf = read_config(directory)
        self.directory, self.config = directory, ModelConfig.from_hf(hf, where=str(directory / CONFIG))
        self.bound = activation_bound(hf, str(directory / CONFIG))
        self.fp8_format = None if self.bound is None else hf["quantization_config"]["quant_method"]
        check_tokenizer(directory, hf.get(TOKENIZER_DIGEST), self.config)
        self.files: list[Path] = []
        self.entries: dict[str, Entry] = {}
        for path, names in weight_files(directory):
            found = read_header(path)
            absent = sorted(set(names or ()) - found.keys())
            if absent:
                raise InputError(f"{path.name} lacks {absent[0]}, which the index promises", where=str(path), fix=COPY_AGAIN)
            self.files.append(path)
            self.entries |= {n: found[n] for n in (names or found) if not n.endswith(OLD_ROPE_TABLE)}
        self.scales = {name: self._scale(name) for name in self.entries if name.endswith(SCALE)}
        self.state = {name: entry.meta() for name, entry in sorted(self.entries.items())}
        self.state |= {name: scale.to("meta") for name, scale in self.scales.items()}
        if self.config.tied:
            self._tie()

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """Rows of a tensor as stored (scales as float32); InputError for a file that ends early and for FP8 that is no number."""
        if name in self.scales:
            return self.scales[name][first:last]
        rows = self.entries[name].rows(first, last)
        if rows.dtype == torch.float8_e4m3fn and bool(((rows.view(torch.uint8) & NAN_CODE) == NAN_CODE).any()):
            raise InputError(f"{name} holds FP8 codes that are no numbers", where=self.place(name), fix=COPY_AGAIN)
        return rows

    def place(self, name: str) -> str:
        """The path of the file a tensor lies in."""
        return str(self.entries[name].path)

    def identity(self) -> Any:
        """Names, sizes and times of the weight files, and the index."""
        index = self.directory / INDEX
        files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self.files]
        return [files, sha256_of(index) if index.is_file() else None, sha256_of(self.directory / CONFIG)]

    def verify(self) -> int:
        """Compare the weight files with the hashes recorded beside them; how many there were. InputError names the file."""
        recorded = recorded_sums(self.directory)
        files = [path for path in self.files if path.name in recorded]
        for path in files:
            if sha256_of(path) != recorded[path.name]:
                raise InputError(f"{path.name} is not the file that {SUMS} records", where=str(path), fix=COPY_AGAIN)
        return len(files)

    def _scale(self, name: str) -> Tensor:
        entry = self.entries[name]
        stored = entry.rows(0, entry.shape[0]) if entry.shape else entry.meta().new_full((1, 1), 0, device="cpu")
        return check_scale(name, stored, str(entry.path))

    def _tie(self) -> None:
        """A tied pair is stored once; where both are there, they must be equal, block by block."""
        output, embedding = "lm_head.weight", "model.embed_tokens.weight"
        if output in self.entries and embedding in self.entries:
            same = self.state[output].shape == self.state[embedding].shape
            for first, last in row_blocks(self.state[output]) if same else ():
                same = same and torch.equal(self.rows(output, first, last), self.rows(embedding, first, last))
            if not same:
                raise InputError("config.json ties the output matrix to the embedding and the weights hold two different ones",
                                 where=str(self.directory), fix="set tie_word_embeddings to false in config.json")  # fmt: skip
        if embedding in self.state:
            self.state[output] = self.state[embedding]


def write_sums(directory: Path, digests: dict[str, str]) -> None:
    """Record the SHA-256 of files by name."""
    (directory / SUMS).write_text("".join(f"{digests[name]}  {name}\n" for name in sorted(digests)))


def recorded_sums(directory: Path) -> dict[str, str]:
    """SHA-256 by file name from `SHA256SUMS`; empty without that file. Its other lines are left alone."""
    path = directory / SUMS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    pairs = [line.split(maxsplit=1) for line in lines]
    return {pair[1].lstrip("*").strip(): pair[0].lower() for pair in pairs if len(pair) == 2 and len(pair[0]) == 64}
