"""Pictures into packed rows (section 7.4): each media token finds its medium, and the stretch of text that sees it.

This works on any batch that `puna.train.packing` or `puna.post` has packed, since a row's media are found by their token.
Documents that share a row stay blind to each other's pictures; answers in blocks see those of their prompt, which are encoded
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import torch

from puna.train.packing import Batch
from puna.vision.sight import Media, sight_spans
from puna.vision.tile_store import Shown, normalised
from puna.vision.tiles import ImageShape

Place = tuple[int, int, int, Shown]  # row, and positions [start, end) that see it


def with_media(batch: Batch, shown: Sequence[Sequence[Shown]], image_id: int, shape: ImageShape) -> Batch:
    """The batch with what `puna.vision.sight.Media` describes in `extra`; without media it comes back as it is.

    Args:
        shown: media of each document by its number in `documents_BT`, in the order of their tokens.
        image_id: the media token.

    Raises ValueError where a document has more or fewer media tokens than media.
    """
    places = _places(batch, shown, image_id)
    if not places:
        return batch
    media = [place[3] for place in places]
    tiles = torch.cat([one.tiles_N3SS for one in media])
    rows, starts, ends = (torch.tensor([place[i] for place in places]) for i in range(3))
    found = Media(
        tiles_N3SS=normalised(tiles, shape),
        tiles_I=torch.tensor([tiles for one in media for tiles in one.tiles_I]),
        ratio_I=torch.tensor([ratio for one in media for ratio in one.ratio_I]),
        images_M=torch.tensor([len(one.tiles_I) for one in media]),
        video_M=torch.tensor([one.video for one in media]),
        row_M=rows,
        start_M=starts,
        end_M=ends,
    )
    return replace(batch, extra={**batch.extra, **{field.name: getattr(found, field.name) for field in fields(Media)}})


def _places(batch: Batch, shown: Sequence[Sequence[Shown]], image_id: int) -> list[Place]:
    """Every medium of the batch with its row and the positions that see it, rows and positions in order."""
    tokens: dict[tuple[int, int], list[int]] = {}  # positions of media tokens by row and document
    for row, at in (batch.ids_BT == image_id).nonzero().tolist():
        tokens.setdefault((row, int(batch.documents_BT[row, at])), []).append(at)
    if {document: len(at) for (_, document), at in tokens.items()} != {d: len(part) for d, part in enumerate(shown) if part}:
        raise ValueError("the media tokens of a document are not as many as its media")
    found = []
    for (row, document), at in tokens.items():
        end = int((batch.documents_BT[row] == document).nonzero()[-1]) + 1
        spans = sight_spans(at, end)
        found += [(row, start, until, one) for (start, until), one in zip(spans, shown[document], strict=True)]
    return found
