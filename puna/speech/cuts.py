"""A sound of any length in pieces that a model reads one by one: stretches of speech, from a stream, in bounded memory.

A short sound is one piece, as it is, which is how training has it. Of a longer one only what voice activity finds is read:
stretches with short pauses between them stay together as far as a piece goes, and one that goes on for longer is cut where it is
quietest. Where nobody speaks there is no piece, so birds and trumpets get no transcript.

Shape legend: N samples at 16 kHz.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from puna.speech.sound import RATE
from puna.speech.voice import segments

LONGEST_S = 20.0  # of a piece; the paper's limit for supervised data is 60
BLOCK_S = 60.0  # looked at together for voice activity
PAUSE_S = 1.0  # between stretches of one piece, at most
QUIET_S = 0.1  # over which the quietest place is looked for


@dataclass(frozen=True, eq=False)
class Cut:
    """A piece of a sound: its samples at 16 kHz, and where it stands, in seconds."""

    wave_N: Tensor
    start: float

    @property
    def end(self) -> float:
        """Where it ends."""
        return self.start + len(self.wave_N) / RATE


def cuts(blocks: Iterable[Tensor], *, longest: float = LONGEST_S, activity: bool = True) -> Iterator[Cut]:
    """The pieces of a sound that comes in blocks.

    Args:
        longest: seconds of a piece.
        activity: whether pieces without speech are left out; otherwise everything is read.
    """
    waiting_N, at = torch.zeros(0), 0  # what is not decided, and its place in samples
    for block_N, last in _with_last(blocks):
        waiting_N = torch.cat((waiting_N, block_N))
        if not last and len(waiting_N) < BLOCK_S * RATE:
            continue
        if last and at == 0 and len(waiting_N) <= longest * RATE:
            if not activity or segments(waiting_N, RATE):
                yield Cut(waiting_N, 0.0)
            return
        spans = [part for span in _joined(_spoken(waiting_N, activity), longest) for part in _split(waiting_N, *span, longest)]
        done = len(waiting_N)
        if not last and spans and spans[-1][1] > done - PAUSE_S * RATE:  # it may go on
            done = spans.pop()[0]
        for start, end in spans:
            yield Cut(waiting_N[start:end].clone(), (at + start) / RATE)
        waiting_N, at = waiting_N[done:].clone(), at + done


def _with_last(blocks: Iterable[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    """Each block, and whether it is the last."""
    before = None
    for block_N in blocks:
        if before is not None:
            yield before, False
        before = block_N
    if before is not None:
        yield before, True


def _spoken(wave_N: Tensor, activity: bool) -> list[tuple[int, int]]:
    """Stretches of speech in samples."""
    if not activity:
        return [(0, len(wave_N))] if len(wave_N) else []
    return [(int(start * RATE), min(len(wave_N), int(end * RATE))) for start, end in segments(wave_N, RATE)]


def _joined(spans: list[tuple[int, int]], longest: float) -> list[tuple[int, int]]:
    """Neighbours with a short pause between them as one, while a piece has room for both."""
    found: list[tuple[int, int]] = []
    for start, end in spans:
        if found and start - found[-1][1] <= PAUSE_S * RATE and end - found[-1][0] <= longest * RATE:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def _split(wave_N: Tensor, start: int, end: int, longest: float) -> Iterator[tuple[int, int]]:
    """A stretch in parts of at most `longest` seconds, each of which ends at the quietest place of its last third."""
    most, width = int(longest * RATE), int(QUIET_S * RATE)
    while end - start > most:
        third_N = wave_N[start + most * 2 // 3 : start + most].square()
        power = third_N[: len(third_N) // width * width].unflatten(0, (-1, width)).mean(1)
        until = start + most * 2 // 3 + int(power.argmin()) * width + width // 2
        yield start, until
        start = until
    yield start, end
