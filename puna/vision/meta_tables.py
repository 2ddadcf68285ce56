"""Tables of the tiles of a canvas: Meta keeps one of the whole canvas, transformers a row for each aspect ratio (section 7.1).

Meta's table has a vector (or one for each token of a tile) at every place of a canvas of T x T tiles, and an image of h x w tiles
reads its upper left corner. transformers has read it beforehand for every aspect ratio, zeros where an image has no tile. Rows
trained on their own need not come from one table any more.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from puna.vision.config import ratios


def rows_of(table_TTPD: Tensor) -> Tensor:
    """Rows [1 + aspect ratios, T * P * D] of a canvas' table; the first, of no image, is zero."""
    most, _, tokens, dim = table_TTPD.shape
    canvases = ratios(most)
    rows = table_TTPD.new_zeros(1 + len(canvases), most, tokens, dim)
    for number, (high, wide) in enumerate(canvases, start=1):
        rows[number, : high * wide] = table_TTPD[:high, :wide].flatten(0, 1)
    return rows.flatten(1)


def table_of(rows: Tensor, most: int, dim: int) -> Tensor:
    """The table [T, T, P, D] whose rows are these where there is one, else that of their means; zero where no canvas reaches."""
    canvases = ratios(most)
    rows_RTPD = rows.view(1 + len(canvases), most, -1, dim)
    table = rows.new_zeros(most, most, rows_RTPD.shape[2], dim)
    for high in range(most):
        for wide in range(most):
            reads = [(n, high * w + wide) for n, (h, w) in enumerate(canvases, start=1) if h > high and w > wide]
            found = [rows_RTPD[number, tile] for number, tile in reads]
            if found:
                agree = all(torch.equal(each, found[0]) for each in found)
                table[high, wide] = found[0] if agree else torch.stack(found).float().mean(0).to(rows.dtype)
    return table


def resized_canvas(table_TTPD: Tensor, side: int) -> Tensor:
    """Positions in a canvas for `side` patches a side of a tile, bilinear with aligned corners; class tokens are kept.

    The whole canvas is stretched at once, as in Meta's code (`puna.vision.resize` stretches tile by tile).
    """
    most, old = table_TTPD.shape[0], round((table_TTPD.shape[2] - 1) ** 0.5)
    canvas = table_TTPD[:, :, 1:].unflatten(2, (old, old)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    grown_1DHW = F.interpolate(canvas.permute(2, 0, 1)[None].float(), (most * side,) * 2, mode="bilinear", align_corners=True)
    tiles = grown_1DHW[0].permute(1, 2, 0).unflatten(1, (most, side)).unflatten(0, (most, side)).transpose(1, 2)
    return torch.cat((table_TTPD[:, :, :1], tiles.flatten(2, 3).to(table_TTPD.dtype)), 2)
