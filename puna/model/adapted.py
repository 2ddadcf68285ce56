"""A text model inside adapters (sections 7 and 8), as whoever trains or reads a `Llama` takes it; its weights never learn."""

from __future__ import annotations

from torch import Tensor, nn

from puna.model.attention import Mask
from puna.model.config import ModelConfig
from puna.model.llama import Attached, KVCache, Llama, Trunk


class Adapted(nn.Module):
    """What models that see and models that listen share: the text model, frozen, and the ways through it."""

    text: Llama

    @property
    def config(self) -> ModelConfig:
        """Shape of the text model."""
        return self.text.config

    @property
    def model(self) -> Trunk:
        """The text model's trunk."""
        return self.text.model

    @property
    def lm_head(self) -> nn.Module:
        """The text model's output matrix."""
        return self.text.lm_head

    def swap(self, text: Llama) -> None:
        """Put `text` in, frozen (section 7.4: the instruction-tuned model replaces the one the adapter was trained with)."""
        self.text = text.requires_grad_(False)

    def forward(
        self, ids_BT: Tensor, *, positions_BT: Tensor | None = None, mask: Mask | None = None, cache: KVCache | None = None,
        attached: Attached | None = None,
    ) -> Tensor:  # fmt: skip
        """Logits [B,T,V] in float32."""
        return self.lm_head(self.hidden(ids_BT, positions_BT=positions_BT, mask=mask, cache=cache, attached=attached)).float()

    def hidden(
        self, ids_BT: Tensor, *, positions_BT: Tensor | None = None, mask: Mask | None = None, cache: KVCache | None = None,
        attached: Attached | None = None,
    ) -> Tensor:  # fmt: skip
        """States [B,T,D] after the final norm, as `Llama.hidden`; `attached` is what the adapters give for a batch."""
        return self.text.hidden(ids_BT, positions_BT=positions_BT, mask=mask, cache=cache, attached=attached)
