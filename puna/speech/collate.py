"""Sounds into batches: frames of all clips padded to the longest, in the order of their placeholders (`SpeechLlama.attach`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from puna.train.packing import Batch, Example


def with_sounds(batch: Batch, clips: Sequence[Tensor]) -> Batch:
    """The batch with clips, normalised frames [F, M] each, in `extra`; without clips it comes back as it is.

    Padding is zeros, which no clip's states depend on.
    """
    if not clips:
        return batch
    counts_C = torch.tensor([len(clip) for clip in clips])
    return replace(batch, extra={**batch.extra, "frames_CFM": pad_sequence(list(clips), batch_first=True), "frames_C": counts_C})


def respaced(example: Example, placeholder: int, counts: Sequence[int]) -> Example:
    """The example with as many placeholders for each of its sounds as `counts` says; a sound's stand side by side."""
    ids, mask = (np.asarray(part) for part in example)
    of_sound = ids == placeholder
    starts = np.flatnonzero(of_sound & ~np.append(False, of_sound[:-1]))
    ends = np.flatnonzero(of_sound & ~np.append(of_sound[1:], False)) + 1
    repeats = np.ones(len(ids), np.int64)
    for start, end, count in zip(starts, ends, counts, strict=True):
        repeats[start:end] = 0
        repeats[start] = count
    return np.repeat(ids, repeats), np.repeat(mask, repeats)
