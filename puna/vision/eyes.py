"""What gives an engine sight: every medium is looked at once, and what was seen of it is kept for whoever shows it again.

All there is to keep of a picture are keys and values for each cross-attention layer, so samples of one prompt, later turns of a
conversation and other conversations with the same picture share them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from puna.core.errors import InputError
from puna.infer.request import Shown
from puna.model.checkpoint import CONFIG, read_config
from puna.model.llama import Attached, Llama
from puna.vision.hf import image_shape_of, load_vision
from puna.vision.media import FRAMES, Loaded
from puna.vision.mllama import MODEL_TYPE
from puna.vision.model import VisionLlama
from puna.vision.seen import Place, Seen, attach_seen, see
from puna.vision.sight import sight_spans
from puna.vision.tiles import ImageShape

SEEN_BYTES = 512 << 20  # default size of what is kept of media that no prompt is using


class Eyes:
    """The adapters of a model, for the engine of its text model.

    Args:
        shape: how the model's pictures are cut.
        most_bytes: what is kept for later prompts; prompts that are being answered hold what they see besides.

    Attributes:
        looked: how often a medium had to be looked at.
    """

    def __init__(self, model: VisionLlama, shape: ImageShape, most_bytes: int = SEEN_BYTES):
        self.model, self.shape, self.most_bytes, self.looked = model, shape, most_bytes, 0
        self._kept: OrderedDict[bytes, Seen] = OrderedDict()

    @property
    def video(self) -> bool:
        """Whether the model sees videos too."""
        return self.model.video is not None

    @property
    def frames(self) -> int:
        """Frames of a video that names no number."""
        return FRAMES if self.model.video is None else min(FRAMES, self.model.video.config.frames)

    def check(self, media: Sequence[Shown]) -> None:
        """InputError for a video where there is no video adapter, and for one with too many frames or of changing size."""
        for shown in media:
            loaded = _loaded(shown)
            if loaded.kind == "image":
                continue
            if self.model.video is None:
                raise InputError("this model sees pictures and no videos", fix="take a model with a video adapter")
            most = self.model.video.config.frames
            if len(loaded.images) > most:
                what = f"this model sees {most} frames of a video and there are {len(loaded.images)}"
                raise InputError(what, fix="ask for fewer")
            if len({image.ratio for image in loaded.images}) > 1:
                raise InputError("the frames of a video have one size", fix="make them equal")

    def keys(self, media: Sequence[Shown]) -> list[tuple[int, bytes]]:
        """Place and key of each medium; with `leak` text before a medium is computed of it too, so all count from the start."""
        leak = self.model.adapter.config.leak
        return [(0 if leak else shown.at, shown.medium.key) for shown in media]

    def see(self, media: Sequence[Shown]) -> tuple[Place, ...]:
        """What is seen of each medium, and from where in the text."""
        spans = sight_spans([shown.at for shown in media], self.model.config.max_seq_len)
        return tuple((self._seen(_loaded(shown)), *span) for shown, span in zip(media, spans, strict=True))

    def attach(self, rows: Sequence[tuple[Place, ...]], positions_BT: Tensor) -> Attached | None:
        """What rows see from these positions."""
        return attach_seen(self.model, rows, positions_BT)

    def to(self, dtype: torch.dtype) -> None:
        """Cast encoder and adapters."""
        for part in (self.model.encoder, self.model.adapter, self.model.video):
            if part is not None:
                part.to(dtype)

    def forget(self) -> None:
        """Drop what is kept: needed when the weights have changed."""
        self._kept.clear()

    def _seen(self, loaded: Loaded) -> Seen:
        seen = self._kept.pop(loaded.key, None)
        if seen is None:
            self.looked += 1
            tiles = torch.cat([torch.from_numpy(image.pixels) for image in loaded.images])
            counts = torch.tensor([len(image.pixels) for image in loaded.images])
            ratios = torch.tensor([image.ratio for image in loaded.images])
            seen = see(self.model, tiles, counts, ratios, video=loaded.kind == "video")
        self._kept[loaded.key] = seen
        while len(self._kept) > 1 and sum(each.bytes for each in self._kept.values()) > self.most_bytes:
            self._kept.popitem(last=False)
        return seen


def sees(directory: str | Path) -> bool:
    """Whether a directory holds a model that sees."""
    directory = Path(directory)
    return (directory / CONFIG).is_file() and read_config(directory).get("model_type") == MODEL_TYPE


def open_seeing(directory: Path, dtype: torch.dtype | None, device: str) -> tuple[Llama, Eyes]:
    """The text model of a `vision_model` directory and its eyes, for `puna.infer.load.load_engine`."""
    model = load_vision(directory, dtype=dtype, device=device).eval()
    return model.text, Eyes(model, image_shape_of(model, directory))


def _loaded(shown: Shown) -> Loaded:
    assert isinstance(shown.medium, Loaded)
    return shown.medium
