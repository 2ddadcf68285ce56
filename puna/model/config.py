"""The shape of a Llama: one frozen dataclass, its Hugging Face `config.json`, and the presets of the paper (3.2, Table 3).

Everything else follows from these numbers: parameter counts, FLOPs, memory, the RoPE frequencies. Reading accepts the keys of
every transformers release (`rope_theta` + `rope_scaling` up to 4, `rope_parameters` from 5 on); writing uses the older pair,
which all of them read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from puna.core.errors import InputError
from puna.core.modules import did_you_mean

COPY_CONFIG = "copy the checkpoint's config.json again"
SPECIAL_SLOTS = 256  # reserved ids after the base vocabulary (128,000 + 256 = 128,256 in Llama 3)


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretching of low RoPE frequencies to reach beyond `original_max_position_embeddings` tokens.

    Wavelengths shorter than original / high_freq_factor stay, those longer than original / low_freq_factor are divided by
    `factor`, between them the two are blended (`apply_scaling` of the published reference code; not in the paper).
    """

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192

    def __post_init__(self) -> None:
        if not 0 < self.low_freq_factor < self.high_freq_factor or self.factor < 1:
            raise InputError(
                "RoPE scaling needs factor >= 1 and 0 < low_freq_factor < high_freq_factor", where=f"rope_scaling = {self}"
            )

    def to_hf(self) -> dict[str, Any]:
        """The `rope_scaling` entry of config.json."""
        return {
            "rope_type": "llama3",
            "factor": float(self.factor),
            "low_freq_factor": float(self.low_freq_factor),
            "high_freq_factor": float(self.high_freq_factor),
            "original_max_position_embeddings": self.original_max_position_embeddings,
        }


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a Llama. Field names follow the paper; `to_hf` gives those of transformers.

    Raises InputError when heads, widths and groups do not fit each other.
    """

    vocab_size: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    ffn_dim: int
    head_dim: int | None = None
    norm_eps: float = 1e-5
    rope_theta: float = 500000.0
    rope_scaling: RopeScaling | None = None
    max_seq_len: int = 8192
    tied: bool = False

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "dim", "layers", "heads", "kv_heads", "ffn_dim", "max_seq_len")
        for name in sizes:
            if getattr(self, name) < 1:
                raise InputError(
                    f"{name} must be at least 1, not {getattr(self, name)}",
                    where="model configuration",
                    fix="give a positive number",
                )
        if self.head_dim is None:
            if self.dim % self.heads:
                raise InputError(
                    f"dim {self.dim} is not a multiple of heads {self.heads}",
                    where="model configuration",
                    fix="change one of them, or set head_dim",
                )
            object.__setattr__(self, "head_dim", self.dim // self.heads)
        if self.heads % self.kv_heads:
            raise InputError(
                f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}",
                where="model configuration",
                fix="change one of them",
            )
        if self.head_size % 2:
            raise InputError(
                f"head_dim {self.head_dim} is odd and RoPE turns pairs", where="model configuration", fix="make it even"
            )

    @property
    def head_size(self) -> int:
        """Width E of one head (`head_dim` once resolved)."""
        assert self.head_dim is not None
        return self.head_dim

    def parameters(self) -> int:
        """Exact number of parameters, embedding and output matrix included (a tied pair counts once)."""
        return self.vocab_size * self.dim * (1 if self.tied else 2) + self.layers * self.layer_parameters() + self.dim

    def layer_parameters(self) -> int:
        """Parameters of one Transformer layer: attention, SwiGLU, two norms."""
        attention = 2 * self.dim * self.head_size * (self.heads + self.kv_heads)
        return attention + 3 * self.dim * self.ffn_dim + 2 * self.dim

    def kv_bytes_per_token(self, element_bytes: int = 2) -> int:
        """Bytes of KV cache for one token of one sequence (BF16 unless told otherwise)."""
        return 2 * self.layers * self.kv_heads * self.head_size * element_bytes

    def with_vocab(self, vocab_size: int) -> ModelConfig:
        """The same shape for another tokenizer."""
        return replace(self, vocab_size=vocab_size)

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` of `LlamaForCausalLM` with this shape."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "head_dim": self.head_size,
            "hidden_act": "silu",
            "hidden_size": self.dim,
            "initializer_range": 0.02,
            "intermediate_size": self.ffn_dim,
            "max_position_embeddings": self.max_seq_len,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": self.norm_eps,
            "rope_scaling": self.rope_scaling.to_hf() if self.rope_scaling else None,
            "rope_theta": float(self.rope_theta),
            "tie_word_embeddings": self.tied,
            "use_cache": True,
            "vocab_size": self.vocab_size,
        }

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, where: str = "config.json") -> ModelConfig:
        """Read a `config.json` of any transformers release; InputError for what this network does not compute."""
        _refuse_foreign(hf, where)
        missing = [key for key in _REQUIRED if not isinstance(hf.get(key), int)]
        if missing:
            raise InputError(f"the model configuration lacks {', '.join(missing)}", where=where, fix=COPY_CONFIG)
        rope = {**(hf.get("rope_scaling") or {}), **(hf.get("rope_parameters") or {})}
        return cls(
            vocab_size=hf["vocab_size"],
            dim=hf["hidden_size"],
            layers=hf["num_hidden_layers"],
            heads=hf["num_attention_heads"],
            kv_heads=hf.get("num_key_value_heads") or hf["num_attention_heads"],
            ffn_dim=hf["intermediate_size"],
            head_dim=hf.get("head_dim"),
            norm_eps=hf.get("rms_norm_eps", 1e-6),
            rope_theta=rope.get("rope_theta") or hf.get("rope_theta") or 10000.0,
            rope_scaling=read_rope_scaling(rope, where),
            max_seq_len=hf.get("max_position_embeddings", 2048),
            tied=bool(hf.get("tie_word_embeddings", False)),
        )


_REQUIRED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


def _refuse_foreign(hf: Mapping[str, Any], where: str) -> None:
    """Name every setting under which the same tensors would mean another function."""
    expected: dict[str, tuple[Any, ...]] = {
        "model_type": ("llama",),
        "hidden_act": ("silu", None),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
    }
    if hf.get("model_type") == "mllama":
        raise InputError(
            "this is a vision model, and a text model is wanted here",
            where=where,
            fix="take its text part out: puna convert SRC DST --to text",
        )
    for key, allowed in expected.items():
        if hf.get(key) not in allowed:
            raise InputError(
                f"{key} = {hf.get(key)!r} is not a Llama 3 (expected {allowed[0]!r})",
                where=where,
                fix="use a checkpoint of the Llama family",
            )


def read_rope_scaling(rope: Mapping[str, Any], where: str) -> RopeScaling | None:
    """The scaling of a `rope_scaling` entry of config.json, None for none; InputError for an incomplete one or another kind."""
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind != "llama3":
        raise InputError(f"RoPE scaling of type '{kind}' is not supported", where=where, fix="use rope_type llama3 or none")
    try:
        return RopeScaling(
            factor=float(rope["factor"]),
            low_freq_factor=float(rope["low_freq_factor"]),
            high_freq_factor=float(rope["high_freq_factor"]),
            original_max_position_embeddings=int(rope["original_max_position_embeddings"]),
        )
    except KeyError as missing:
        raise InputError(f"llama3 RoPE scaling lacks {missing}", where=where, fix=COPY_CONFIG) from None
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"llama3 RoPE scaling is no numbers ({error})", where=where, fix=COPY_CONFIG) from None


def ffn_width(dim: int, multiplier: float = 1.0, multiple_of: int = 32) -> int:
    """SwiGLU width: int(multiplier * int(8 dim / 3)) rounded up to `multiple_of` (published reference code).

    (4096, 1.3, 1024), (8192, 1.3, 4096) and (16384, 1.2, 4096) give the widths of Table 3.
    """
    width = int(multiplier * int(2 * (4 * dim) / 3))
    return multiple_of * -(-width // multiple_of)


def _llama31(dim: int, layers: int, heads: int, multiplier: float, multiple_of: int) -> ModelConfig:
    """A released Llama 3.1 text model: 128,256 ids, 8 KV heads, 131,072 positions (Table 3)."""
    return ModelConfig(
        vocab_size=128_000 + SPECIAL_SLOTS, dim=dim, layers=layers, heads=heads, kv_heads=8,
        ffn_dim=ffn_width(dim, multiplier, multiple_of), rope_scaling=RopeScaling(), max_seq_len=131_072,
    )  # fmt: skip


def _tiny(dim: int, layers: int, heads: int, kv_heads: int, vocab_size: int = 1280, max_seq_len: int = 128) -> ModelConfig:
    """A model of the embedded recipe: RoPE base 10,000; 1,280 ids unless a tokenizer says otherwise (`with_vocab`)."""
    return ModelConfig(
        vocab_size=vocab_size, dim=dim, layers=layers, heads=heads, kv_heads=kv_heads,
        ffn_dim=ffn_width(dim), rope_theta=10_000.0, max_seq_len=max_seq_len,
    )  # fmt: skip


PRESETS: dict[str, ModelConfig] = {
    "llama3.1-8b": _llama31(4096, 32, 32, 1.3, 1024),
    "llama3.1-70b": _llama31(8192, 80, 64, 1.3, 4096),
    "llama3.1-405b": _llama31(16384, 126, 128, 1.2, 4096),
    "tiny": _tiny(32, 2, 4, 2, vocab_size=512),
    "cria-student": _tiny(64, 3, 4, 2),
    "cria-flagship": _tiny(96, 4, 4, 2),
}


def preset(name: str) -> ModelConfig:
    """The preset called `name`, upper and lower case alike; InputError with the nearest name otherwise."""
    key = name.lower()
    if key not in PRESETS:
        raise InputError(f"no model preset is called '{name}'", fix=did_you_mean(key, PRESETS))
    return PRESETS[key]
