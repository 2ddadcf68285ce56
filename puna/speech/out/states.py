"""What the text model knows of a text: its states after the middle layer, beside the pieces they belong to (section 8.2.2).

The paper takes the output of the 16th of 32 layers, for a text as if the model had written it after an empty user prompt; the
model is frozen. States are causal, so those of the first tokens never change while a text grows.

Shape legend: B texts, S tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from puna.model.llama import Llama
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Message, render


@dataclass(frozen=True)
class Known:
    """States [B,S,D] of texts and, for each, which piece it belongs to [B,S], -1 for padding."""

    states_BSD: Tensor
    pieces_BS: Tensor

    def to(self, device: str | torch.device) -> Known:
        """These on `device`."""
        return Known(self.states_BSD.to(device), self.pieces_BS.to(device))


class MiddleStates:
    """The lower half of a text model, and what it says of texts.

    Args:
        text: all of its layers up to the middle one, or more. layer: how many of them are passed; None is half of them.
    """

    def __init__(self, text: Llama, tokenizer: Tokenizer, layer: int | None = None):
        self.text, self.tokenizer = text.eval().requires_grad_(False), tokenizer
        self.layer = max(1, text.config.layers // 2) if layer is None else layer
        self.prompt = render(tokenizer, [Message("user", "")], generation_prompt=True).ids

    @property
    def dim(self) -> int:
        """Width of a state."""
        return self.text.config.dim

    @torch.no_grad()
    def of(self, texts: Sequence[Sequence[str]]) -> Known:
        """What is known of texts, each given as its pieces; tokens beyond the model's longest row are not read."""
        room = self.text.config.max_seq_len - len(self.prompt)
        rows = []
        for pieces in texts:
            tokens = [self.tokenizer.encode(" " * (i > 0) + piece) for i, piece in enumerate(pieces)]
            rows.append([(token, i) for i, own in enumerate(tokens) for token in own][:room])
        longest = max(1, *(len(row) for row in rows))
        ids = torch.tensor([self.prompt + [t for t, _ in row] + [0] * (longest - len(row)) for row in rows])
        pieces_BS = torch.tensor([[i for _, i in row] + [-1] * (longest - len(row)) for row in rows])
        device = self.text.lm_head.weight.device
        tap = _Tap(self.layer)
        final_BTD = self.text.hidden(ids.to(device), attached=tap)
        states_BTD = final_BTD if tap.states is None else tap.states
        states_BSD = states_BTD[:, len(self.prompt) :].float()
        return Known(torch.nn.functional.rms_norm(states_BSD, (self.dim,)), pieces_BS.to(device))

    def lower(self) -> Llama:
        """The layers that are needed and the one after, as a model to keep: its input is the states."""
        layers = min(self.layer + 1, self.text.config.layers)
        kept = Llama(replace(self.text.config, layers=layers), seed=None)
        own = self.text.state_dict()
        kept.load_state_dict({name: own[name].float().cpu() for name in kept.state_dict()})
        return kept


class _Tap:
    """Keeps the states that go into one layer (`puna.model.llama.Attached`)."""

    def __init__(self, layer: int):
        self.layer = layer
        self.states: Tensor | None = None

    def embed(self, ids_BT: Tensor, embedding: nn.Embedding) -> Tensor:
        """The text's own embeddings."""
        return embedding(ids_BT)

    def before(self, layer: int, x_BTD: Tensor) -> Tensor:
        """The states as they are."""
        if layer == self.layer:
            self.states = x_BTD
        return x_BTD
