"""A GGUF file as a source of weights: BF16, F16, F32 and Q8_0 tensors of the architecture `llama`, under our names.

The gguf package maps the file; only the rows asked for are copied. Q8_0 becomes float32, which holds every one of its numbers.
Nothing is guessed: metadata this network has no word for, other tensor types and other tokenizers are refused. RoPE scaling is
read from the keys our export writes, or, in other tools' files, recognised by the divisors in `rope_freqs.weight`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puna.core.errors import InputError
from puna.model.config import ModelConfig, RopeScaling
from puna.model.gguf_file import ROPE_KEYS, rope_divisors
from puna.model.layouts import gguf_names, turned_heads
from puna.model.weight_file import COPY_AGAIN
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.export import read_gguf_ranks

TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "Q8_0": torch.float32}
DIVISORS = "rope_freqs.weight"
LIMIT = 1 << 24  # of any size in the metadata: beyond every Llama
RELEASED = [RopeScaling(factor, 1, 4, 8192) for factor in (8, 32)]  # Llama 3.1 and 3.2
ONLY = "give a GGUF file of a Llama in f32, f16, bf16 or q8_0"
REQUIRED = ("embedding_length", "block_count", "feed_forward_length", "attention.head_count", "context_length")


class GgufWeights:
    """The tensors of a GGUF file; InputError for damage and for everything this network does not compute."""

    bound: float | None = None
    fp8_format: str | None = None

    def __init__(self, file: Path):
        self.file = file
        reader = _open(file)
        self.fields = {name: field.contents() for name, field in reader.fields.items()}
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        divisors = self.tensors.pop(DIVISORS, None)
        self.config = self._config(None if divisors is None else torch.from_numpy(np.array(divisors.data)))
        names = gguf_names(self.config.layers)
        self.names = {ours: theirs for ours, theirs in names.items() if theirs in self.tensors}
        surplus = sorted(self.tensors.keys() - names.values())
        if surplus:
            raise InputError(f"{surplus[0]} does not belong to this network", where=str(file), fix=ONLY)
        wrong = [t for t in self.tensors.values() if t.tensor_type.name not in TYPES]
        if wrong:
            raise InputError(f"{wrong[0].name} is stored as {wrong[0].tensor_type.name}", where=str(file), fix=ONLY)
        kind = self._stored_type()
        self.state = {ours: self._meta(theirs, kind) for ours, theirs in sorted(self.names.items())}
        if self.config.tied and "model.embed_tokens.weight" in self.state:
            self.state["lm_head.weight"] = self.state["model.embed_tokens.weight"]

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """Rows of a tensor by our name, query and key rows in our order; Q8_0 as float32."""
        import gguf

        tensor = self.tensors[self.names[name]]
        chosen = self._order(name, first, last)
        data = np.array(tensor.data[first:last] if chosen is None else tensor.data[chosen])
        if tensor.tensor_type.name == "BF16":
            rows = torch.from_numpy(data.view(np.int16)).view(torch.bfloat16)
        elif tensor.tensor_type.name == "Q8_0":
            rows = torch.from_numpy(gguf.quants.dequantize(data, tensor.tensor_type))
        else:
            rows = torch.from_numpy(data)
        rows = rows.to(self.state[name].dtype)
        if not bool(rows.isfinite().all()):
            raise InputError(f"{self.names[name]} holds values that are no finite numbers", where=str(self.file), fix=COPY_AGAIN)
        return rows

    def place(self, name: str) -> str:
        """The file."""
        return str(self.file)

    def identity(self) -> Any:
        """Name, size and time of the file."""
        about = self.file.stat()
        return [self.file.name, about.st_size, about.st_mtime_ns]

    def tokenizer(self) -> Tokenizer:
        """The tokenizer the file holds; InputError for one of another family, or with another number of ids than the model."""
        return Tokenizer.from_ranks(read_gguf_ranks(self.fields, str(self.file)))

    def _meta(self, theirs: str, kind: torch.dtype) -> Tensor:
        shape = tuple(int(n) for n in reversed(self.tensors[theirs].shape))
        return torch.empty(shape, dtype=kind, device="meta")

    def _stored_type(self) -> torch.dtype:
        """The type of the matrices, which the norms take too (llama.cpp wants those in float32); float32 where they differ."""
        found = {TYPES[t.tensor_type.name] for t in self.tensors.values() if len(t.shape) > 1}
        return found.pop() if len(found) == 1 else torch.float32

    def _order(self, name: str, first: int, last: int) -> np.ndarray | None:
        """Rows of the file that are ours from `first` to `last`: head by head, row i + j * E/2 of ours is 2i + j there."""
        heads = turned_heads(name, self.config)
        if heads is None:
            return None
        size = self.tensors[self.names[name]].data.shape[0] // heads
        ours = np.arange(first, last)
        head, row = ours // size, ours % size
        return head * size + 2 * (row % (size // 2)) + row // (size // 2)

    def _config(self, divisors: Tensor | None) -> ModelConfig:
        where = str(self.file)
        if self.fields.get("general.architecture") != "llama":
            raise InputError(f"the architecture is {self.fields.get('general.architecture')!r}", where=where, fix=ONLY)
        for key in ("llama.expert_count", "llama.rope.scaling.type", "llama.attention.sliding_window"):
            if self.fields.get(key) not in (None, 0, "none"):
                raise InputError(f"{key} is {self.fields[key]!r}, which this network does not compute", where=where, fix=ONLY)
        for key in REQUIRED:
            self._size(key)
        heads, dim = self._size("attention.head_count"), self._size("embedding_length")
        head_dim = self._size("attention.key_length", dim // heads)
        due = {"attention.value_length": head_dim, "rope.dimension_count": head_dim}
        for key, value in due.items():
            if self._size(key, value) != value:
                raise InputError(f"llama.{key} is {self._size(key)} and the heads are {head_dim} wide", where=where, fix=ONLY)
        plain = ModelConfig(
            vocab_size=self._size("vocab_size", len(self.fields.get("tokenizer.ggml.tokens") or ())),
            dim=dim, layers=self._size("block_count"), heads=heads, kv_heads=self._size("attention.head_count_kv", heads),
            ffn_dim=self._size("feed_forward_length"), head_dim=head_dim, max_seq_len=self._size("context_length"),
            norm_eps=self._number("attention.layer_norm_rms_epsilon", 1e-5), rope_theta=self._number("rope.freq_base", 1e4),
            tied="output.weight" not in self.tensors,
        )  # fmt: skip
        return plain if divisors is None else self._scaled(plain, divisors)

    def _scaled(self, plain: ModelConfig, divisors: Tensor) -> ModelConfig:
        """The configuration with the RoPE scaling whose divisors the file holds."""
        written = [self.fields.get(key) for key in ROPE_KEYS]
        tried = RELEASED
        if None not in written:
            factor, low, high, original = map(_shortest, written)
            tried = [RopeScaling(factor, low, high, int(original))]
        for scaling in tried:
            config = ModelConfig(**(vars(plain) | {"rope_scaling": scaling}))
            due = rope_divisors(config)
            if due is not None and due.shape == divisors.shape and torch.allclose(due, divisors.float(), rtol=1e-4):
                return config
        if bool((divisors == 1).all()):
            return plain
        raise InputError(f"{DIVISORS} scales RoPE as neither Llama 3.1 nor 3.2 does", where=str(self.file), fix=ONLY)

    def _size(self, key: str, default: int | None = None) -> int:
        value = self.fields.get(f"llama.{key}", default)
        if not isinstance(value, int) or not 0 < value <= LIMIT:
            raise InputError(f"llama.{key} is {value!r} and must be a positive size", where=str(self.file), fix=ONLY)
        return value

    def _number(self, key: str, default: float) -> float:
        value = self.fields.get(f"llama.{key}", default)
        if not isinstance(value, int | float) or not 0 < value < 1e12:
            raise InputError(f"llama.{key} is {value!r} and must be a positive number", where=str(self.file), fix=ONLY)
        return _shortest(value)


def _shortest(value: Any) -> float:
    """The shortest decimal that is this float32: 1e-05 and not 9.99999974e-06."""
    return float(str(np.float32(value)))


def _open(file: Path) -> Any:
    """The gguf package's reader over a file whose tensors all lie inside it."""
    import gguf

    try:
        if file.stat().st_size < 24:
            raise ValueError("it is shorter than a header")
        reader = gguf.GGUFReader(file)
        end = max((tensor.data_offset + tensor.n_bytes for tensor in reader.tensors), default=0)
        if end > file.stat().st_size:
            raise ValueError(f"its tensors end at byte {end} and the file at {file.stat().st_size}")
        return reader
    except MemoryError:
        raise
    except Exception as error:  # the reader raises whatever a damaged file leads to
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{file.name} is damaged or no GGUF file ({said})", where=str(file), fix=COPY_AGAIN) from None
