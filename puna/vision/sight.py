"""The media of a batch and who sees them (section 7.1 and Meta's published masks): ragged, not padded to a number of tiles.

A medium is seen from its token on, up to the next media token that does not directly follow, or to the end of the document; media
side by side are seen together. Spans are positions of the row, so packed documents stay blind to each other's pictures.

Shape legend: B rows, T text positions, S tokens of media, N tiles, I images (or frames of a video), M media, P tokens of a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from puna.train.packing import Batch
from puna.vision.cross import Visible


@dataclass
class Media:
    """What `batch.extra` brings of media, rows in order.

    Attributes:
        tiles_N3SS: float32, normalised tiles. tiles_I, ratio_I: tiles and aspect ratio id of each image.
        images_M: images of each medium: 1, or the frames of a video. video_M: bool, whether it is a video.
        row_M, start_M, end_M: its row, and the positions [start, end) that see it.
    """

    tiles_N3SS: Tensor
    tiles_I: Tensor
    ratio_I: Tensor
    images_M: Tensor
    video_M: Tensor
    row_M: Tensor
    start_M: Tensor
    end_M: Tensor

    @classmethod
    def of(cls, batch: Batch) -> Media | None:
        """The media of a batch; None if it has none."""
        if "row_M" not in batch.extra or not len(batch.extra["row_M"]):
            return None
        return cls(**{field.name: batch.extra[field.name] for field in fields(cls)})


def sight_spans(at: Sequence[int], end: int) -> list[tuple[int, int]]:
    """[start, end) of the text that sees each medium of one document.

    Args:
        at: positions of its media tokens, in order. end: position after the document's last token.
    """
    spans, until = [], end
    for i in reversed(range(len(at))):
        if i + 1 < len(at) and at[i + 1] != at[i] + 1:
            until = at[i + 1]
        spans.append((at[i], until))
    return spans[::-1]


@dataclass
class Gathered:
    """Media of one kind by rows.

    Attributes:
        memory_BSF: their features, rows padded with zeros. sees_BTS: bool, which of them each position sees.
    """

    memory_BSF: Tensor
    sees_BTS: Tensor

    def visible(self, leak: bool) -> Visible:
        """For a cross-attention layer."""
        return Visible.of(self.sees_BTS, leak=leak)


def gathered(
    media: Media, features: Tensor, *, video: bool, shape: torch.Size, absent: Callable[[Tensor], Tensor] | None = None,
    merge: Callable[[Tensor, int, int], Tensor] | None = None,
) -> Gathered | None:  # fmt: skip
    """Lay the features of images, or of videos, out by rows; None if there are none of the kind.

    Args:
        features: [N,P,F] of tiles, or [I,T,P,F] with padding tiles, which nobody sees but `leak` reads.
        absent: gives the features [T,P,F] of an image that a row has less than others; only with padding tiles.
        merge: makes the tokens [S,F] of one video out of its tiles' features, its frames, and the tiles of one.
    """
    rows, length = shape
    parts: list[list[Tensor]] = [[] for _ in range(rows)]
    spans: list[list[Tensor]] = [[] for _ in range(rows)]
    for m, first, count, tiles in _kind(media, video):
        if features.dim() == 4 and merge is None:
            tokens = features[first].flatten(0, 1)
            real = torch.arange(features.shape[1]).repeat_interleave(features.shape[2]) < tiles
        else:
            of_medium = _real(media, features, first, count)
            tokens = of_medium.flatten(0, 1) if merge is None else merge(of_medium, count, tiles)
            real = torch.ones(len(tokens), dtype=torch.bool)
        span = torch.stack((media.start_M[m], media.end_M[m])).cpu().expand(len(tokens), 2)
        row = int(media.row_M[m])
        parts[row].append(tokens)
        spans[row].append(torch.where(real[:, None], span, 0))
    most = max((len(part) for part in parts), default=0)
    if not most:
        return None
    if absent is not None and any(len(part) < most for part in parts):
        filler = absent(features).flatten(0, 1)
        for row in range(rows):
            missing = most - len(parts[row])
            parts[row] += [filler] * missing
            spans[row] += [torch.zeros(len(filler), 2, dtype=torch.int64)] * missing
    width = next(part[0] for part in parts if part).shape[-1]
    memory_BSF = pad_sequence([torch.cat(part) if part else features.new_zeros(1, width) for part in parts], batch_first=True)
    span_BS2 = pad_sequence(
        [torch.cat(span) if span else torch.zeros(1, 2, dtype=torch.int64) for span in spans], batch_first=True
    ).to(memory_BSF.device)
    at_T1 = torch.arange(length, device=memory_BSF.device)[:, None]
    return Gathered(memory_BSF, (at_T1 >= span_BS2[:, None, :, 0]) & (at_T1 < span_BS2[:, None, :, 1]))


def _real(media: Media, features: Tensor, first: int, count: int) -> Tensor:
    """Features [n,P,F] of the real tiles of `count` images from number `first` on."""
    if features.dim() == 4:
        return torch.cat([features[i, : int(media.tiles_I[i])] for i in range(first, first + count)])
    begin = int(media.tiles_I[:first].sum())
    return features[begin : begin + int(media.tiles_I[first : first + count].sum())]


def _kind(media: Media, video: bool) -> list[tuple[int, int, int, int]]:
    """(medium, its first image, its images, tiles of one) of the images, or of the videos."""
    firsts = (media.images_M.cumsum(0) - media.images_M).tolist()
    found = zip(range(len(firsts)), firsts, media.images_M.tolist(), media.video_M.tolist(), strict=True)
    return [(m, first, count, int(media.tiles_I[first])) for m, first, count, is_video in found if is_video == video]
