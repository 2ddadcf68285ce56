"""Shapes of the image encoder and of the adapters (section 7.1 and 7.2), and where adapters stand in the text network.

The defaults of `VisionConfig` are the released Llama 3.2 Vision encoder: ViT-H/14 with 32 layers, 8 gated global ones, tiles of
560 pixels. Where Meta's code and transformers' disagree, the defaults are Meta's; `taps_at` and `leak` name the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from puna.core.errors import InputError

PER_VIDEO = 4  # image cross-attention layers to each one for video (section 7.2)
EXTRA_ROWS = 8  # embeddings an image adapter owns; the first is that of the image token, as in the released checkpoints
MOST_FRAMES = 64  # of a video (section 7.2)
MOST_LAYERS, MOST_TILES, MOST_PIXELS = 1024, 64, 4096  # no model has more; a damaged file may, and would fill the memory


@dataclass(frozen=True)
class VisionConfig:
    """Shape of the image encoder.

    Attributes:
        dim, layers, global_layers, heads, mlp_dim: of the Transformer; the global layers are gated and come after the others.
        tile, patch: pixels of a side of a tile, and of a patch of it. max_tiles: most tiles of an image.
        taps: 0-based layers whose states are part of the features (4th, 8th, 16th, 24th and 31st in the paper).
        taps_at: the state before such a layer (Meta's code, for which the released weights were made) or after it (transformers
            from 4.56 on).
        attend_padding: pad every image to `max_tiles`, and let its patches attend to the padding, as Meta's code and transformers
            do; without it the cost is linear in the tiles.
    """

    dim: int = 1280
    layers: int = 32
    global_layers: int = 8
    heads: int = 16
    mlp_dim: int = 5120
    tile: int = 560
    patch: int = 14
    max_tiles: int = 4
    taps: tuple[int, ...] = (3, 7, 15, 23, 30)
    norm_eps: float = 1e-5
    taps_at: Literal["before", "after"] = "before"
    attend_padding: bool = True

    def __post_init__(self) -> None:
        least = min(
            self.dim, self.layers, 1 + self.global_layers, self.heads, self.mlp_dim, self.tile, self.patch, self.max_tiles
        )
        if (
            least < 1
            or max(self.layers, self.global_layers) > MOST_LAYERS
            or self.tile > MOST_PIXELS
            or self.max_tiles > MOST_TILES
        ):
            what = f"an encoder has 1 to {MOST_LAYERS} layers, and 1 to {MOST_TILES} tiles of at most {MOST_PIXELS} pixels a side"
            raise InputError(what, where=str(self))
        if self.tile % self.patch or self.dim % self.heads:
            raise InputError(
                "a tile must be whole patches, and `dim` a multiple of `heads`",
                where=f"tile={self.tile} patch={self.patch} dim={self.dim} heads={self.heads}",
            )
        if any(not 0 <= tap < self.layers for tap in self.taps) or list(self.taps) != sorted(set(self.taps)):
            raise InputError(f"taps are layers 0 to {self.layers - 1}, in order, each once", where=f"taps={list(self.taps)}")

    @property
    def patches(self) -> int:
        """Patches of a tile."""
        return (self.tile // self.patch) ** 2

    @property
    def tokens(self) -> int:
        """Tokens of a tile: its patches and the class token."""
        return self.patches + 1

    @property
    def features(self) -> int:
        """Width of what the encoder says of a token: the last state and the taps (7,680 in the paper)."""
        return self.dim * (1 + len(self.taps))


def ratios(max_tiles: int) -> list[tuple[int, int]]:
    """Canvases of at most `max_tiles` tiles as (high, wide); an image's aspect ratio id is 1 + its index here, 0 is no image."""
    sides = range(1, max_tiles + 1)
    return [(high, wide) for high in sides for wide in sides if high * wide <= max_tiles]


def are_places(places: Any, layers: int) -> bool:
    """Whether these are text layers before which adapter layers can run: a list of one or more of `layers`, in order."""
    if not isinstance(places, list) or not all(type(place) is int and 0 <= place < layers for place in places):
        return False
    return bool(places) and places == sorted(set(places))


def cross_places(layers: int, count: int) -> tuple[int, ...]:
    """The `count` layers (of `layers`) before which an adapter layer runs: every k-th from the last one backwards.

    k = ceil(layers / count), as in Meta's fusion schedule: 32 and 8 give 3, 7, ... 31.
    """
    if not 0 < count <= layers:
        raise InputError(f"from 1 to {layers} layers can be inserted", where=f"{count} cross-attention layers",
                         fix=f"set cross_layers to {layers} or less")  # fmt: skip
    stride = -(-layers // count)
    return tuple(sorted(range(layers - 1, -1, -stride)))


@dataclass(frozen=True)
class AdapterConfig:
    """Where image cross-attention stands.

    Attributes:
        places: text layers (0-based) before which a cross-attention layer runs.
        leak: text that sees no image attends to all images evenly, as in transformers; Meta's code leaves it alone.
        image_id: id of `<|image|>` in the tokenizer; ids beyond the vocabulary mean the adapter's embeddings too.
    """

    places: tuple[int, ...]
    leak: bool = False
    image_id: int | None = None


@dataclass(frozen=True)
class VideoConfig:
    """The video adapter (section 7.2).

    Attributes:
        places: text layers before which a video cross-attention layer runs, before the image's there.
        factor: consecutive frames that become one.
        dim, layers, heads: of the temporal aggregator, a perceiver resampler whose latents are the tokens of one tile.
        frames: most frames of a video.
    """

    places: tuple[int, ...]
    factor: int = 32
    dim: int = 1280
    layers: int = 6
    heads: int = 16
    frames: int = MOST_FRAMES

    def __post_init__(self) -> None:
        if (
            min(self.factor, self.dim, self.layers, self.heads, self.frames) < 1
            or self.dim % self.heads
            or self.layers > MOST_LAYERS
        ):
            raise InputError("`dim` of a video adapter is a multiple of `heads`, and it has layers and frames", where=str(self))


def video_places(image_places: tuple[int, ...], count: int | None = None) -> tuple[int, ...]:
    """Places of `count` video layers; None is one before every fourth image cross-attention layer (2 of 8 in the 8B model)."""
    chosen = cross_places(len(image_places), count or max(1, len(image_places) // PER_VIDEO))
    return tuple(image_places[i] for i in chosen)
