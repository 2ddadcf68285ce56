"""What an engine needs of a model that sees: media are looked at once each, and what was seen is kept for later requests.

A picture enters by cross-attention (paper 7.2), so all there is to keep of it are keys and values for each cross layer. Samples of
one request, later turns of a conversation and other requests with the same picture share them. Text goes the way it goes without
sight: rows that see and rows that do not are computed in calls of their own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from puna.infer.request import Loaded, Shown
from puna.infer.spans import Spans, Steps
from puna.infer.torch_steps import TorchSteps

SEEN_BYTES = 512 << 20  # default size of what is kept of media that no request is using


class Seen(Protocol):
    """What a model keeps of a medium (`puna.vision.cross.Seen`)."""

    @property
    def bytes(self) -> int: ...


SeenAt = tuple[Any, int]  # what was seen of a medium, and the position of its token


@runtime_checkable
class Seeing(Protocol):
    """A model that sees (`puna.vision.model.VisionLlama`)."""

    text: Any

    def see(self, medium: Any) -> Any:
        """Look at a medium."""
        ...

    def attach_seen(self, rows: Sequence[Sequence[SeenAt]], positions_BT: Tensor) -> Any:
        """What `hidden` takes as `attached`: the media of each row, seen from these positions."""
        ...


class Sight:
    """Media that were looked at, the ones used last kept.

    Args:
        most_bytes: what may be kept; requests that run hold what they see besides.

    Attributes:
        looked: how often a medium had to be looked at.
    """

    def __init__(self, model: Seeing, most_bytes: int = SEEN_BYTES):
        self.model, self.most_bytes, self.looked = model, most_bytes, 0
        self._kept: OrderedDict[bytes, Seen] = OrderedDict()

    @torch.no_grad()
    def see(self, shown: Sequence[Shown]) -> tuple[SeenAt, ...]:
        """What is seen of each medium, and where."""
        return tuple((self._one(each.medium), each.at) for each in shown)

    def forget(self) -> None:
        """Drop all: needed when the weights have changed."""
        self._kept.clear()

    def _one(self, medium: Loaded) -> Seen:
        seen = self._kept.pop(medium.key, None)
        if seen is None:
            self.looked += 1
            seen = self.model.see(medium)
        self._kept[medium.key] = seen
        while len(self._kept) > 1 and sum(each.bytes for each in self._kept.values()) > self.most_bytes:
            self._kept.popitem(last=False)
        return seen


class SightSteps:
    """Steps of a model that sees: runs without media as the text model's own steps take them, the others by PyTorch."""

    def __init__(self, text: Steps, seeing: TorchSteps):
        self.text, self.seeing, self.mixes = text, seeing, text.mixes

    def logits(self, spans: Spans) -> Tensor:
        """Write the runs' keys and values to their pages; logits [Q, V] after the tokens asked for."""
        if spans.seen is None:
            return self.text.logits(spans)
        sees = np.array([bool(seen) for seen in spans.seen])
        if sees.all():
            return self.seeing.logits(spans)
        blind, seeing = spans.select(~sees), spans.select(sees)
        blind.seen = None
        found = torch.cat((self.text.logits(blind).float(), self.seeing.logits(seeing).float()))
        asked = sees[spans.sequence[spans.wanted]]
        place = np.empty(len(asked), np.int64)
        place[np.concatenate((np.flatnonzero(~asked), np.flatnonzero(asked)))] = np.arange(len(asked))
        return found[torch.from_numpy(place).to(found.device)]
