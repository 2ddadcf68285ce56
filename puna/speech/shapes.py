"""The shapes of encoder and adapter as settings of a recipe; the defaults are small ones that learn on a CPU.

The paper's are `SpeechConfig()` (1.0B parameters) and `SpeechAdapterConfig()` (0.1B with the 8B text model).
"""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveInt, model_validator

from puna.core.errors import InputError
from puna.core.settings import Settings
from puna.speech.adapter import SpeechAdapterConfig
from puna.speech.encoder import SpeechConfig


class EncoderShape(Settings):
    """`SpeechConfig` as settings."""

    dim: PositiveInt = 96
    layers: PositiveInt = 3
    heads: PositiveInt = 4
    ffn_dim: PositiveInt = 192
    kernel: PositiveInt = 7
    stack: PositiveInt = 4
    chunk: PositiveInt | None = None
    left: NonNegativeInt = 4

    @model_validator(mode="after")
    def _check(self) -> EncoderShape:
        try:
            self.config()
        except InputError as error:
            raise ValueError(error.sentence()) from None
        return self

    def config(self) -> SpeechConfig:
        """The shape; InputError where it is impossible."""
        return SpeechConfig(**self.model_dump())


class AdapterShape(Settings):
    """`SpeechAdapterConfig` as settings."""

    dim: PositiveInt = 144
    heads: PositiveInt = 4
    ffn_dim: PositiveInt = 288

    @model_validator(mode="after")
    def _check(self) -> AdapterShape:
        if self.dim % self.heads or self.dim // self.heads % 2:
            raise ValueError("`dim` must be `heads` times an even head size")
        return self

    def config(self) -> SpeechAdapterConfig:
        """The shape."""
        return SpeechAdapterConfig(**self.model_dump())
