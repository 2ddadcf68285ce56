"""Position tables for another tile size (section 7.3: annealing at a higher resolution than pre-training).

The tables of positions in a tile are images themselves, one vector a patch: they are interpolated bilinearly with aligned
corners, as Meta's code does when it loads a checkpoint at another size. The class token's vector stays. Everything else of the
encoder does not know how large a tile is.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from puna.core.errors import InputError
from puna.vision.encoder import ImageEncoder

TABLES = ("gated_positional_embedding.embedding", "gated_positional_embedding.tile_embedding.weight")


def resized(encoder: ImageEncoder, tile: int) -> ImageEncoder:
    """The encoder for tiles of `tile` pixels a side, other weights shared; itself where nothing changes.

    InputError if a tile is not whole patches.
    """
    config = encoder.config
    if tile == config.tile:
        return encoder
    if tile % config.patch:
        raise InputError(f"a tile of {tile} pixels is not whole patches of {config.patch}", where="tile")
    with torch.device(encoder.class_embedding.device):
        larger = ImageEncoder(replace(config, tile=tile))
    state = encoder.state_dict()
    old, new = config.tokens, larger.config.tokens
    for name in TABLES:
        shape = larger.get_parameter(name).shape
        state[name] = grid_resized(state[name].reshape(-1, old, config.dim), new).reshape(shape)
    larger.load_state_dict(state)
    return larger


def grid_resized(table_RPD: Tensor, tokens: int) -> Tensor:
    """R tables [P, D] of a class token and a square of patches, for `tokens` of them."""
    side, wanted = round((table_RPD.shape[1] - 1) ** 0.5), round((tokens - 1) ** 0.5)
    grid_RDHW = table_RPD[:, 1:].transpose(1, 2).unflatten(-1, (side, side)).float()
    grown = F.interpolate(grid_RDHW, (wanted, wanted), mode="bilinear", align_corners=True)
    return torch.cat((table_RPD[:, :1], grown.flatten(2).transpose(1, 2).to(table_RPD.dtype)), 1)
