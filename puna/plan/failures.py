"""How often a large run is interrupted, how often it should write a checkpoint, and what both cost (section 3.3.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

INTERRUPTIONS, DAYS, GPUS = 419, 54, 16_384  # unexpected ones in the paper's snapshot of pre-training (Table 5)
STORAGE_BYTES_PER_SECOND = 2e12  # sustained, of the paper's file system (section 3.3.1)
RESTART_SECONDS = 600.0  # from an interruption to the next step: an assumption, the paper gives none


def seconds_between_interruptions(gpus: float) -> float:
    """Mean time to interruption of a run on `gpus` GPUs, at the paper's rate for each."""
    return DAYS * 86_400 * GPUS / (INTERRUPTIONS * gpus)


def young(write_seconds: float, mtti: float) -> float:
    """Seconds of work between checkpoints that lose least time, first order: sqrt(2 write MTTI) (Young 1974)."""
    return math.sqrt(2 * write_seconds * mtti)


def daly(write_seconds: float, mtti: float) -> float:
    """The same to a higher order (Daly 2006, eq. 37); MTTI itself where a checkpoint takes twice as long or more."""
    if write_seconds >= 2 * mtti:
        return mtti
    half = write_seconds / (2 * mtti)
    return young(write_seconds, mtti) * (1 + math.sqrt(half) / 3 + half / 9) - write_seconds


@dataclass(frozen=True)
class Reliability:
    """Seconds of a run's rhythm, and the share of time that is useful.

    Attributes:
        mtti: mean time to interruption. write: to write one checkpoint. interval: of work between two (Daly).
        useful: share of the time left after checkpoints, work done again, and restarts.
    """

    mtti: float
    write: float
    interval: float
    useful: float


def reliability(gpus: float, checkpoint_bytes: float, restart_seconds: float = RESTART_SECONDS) -> Reliability:
    """What to expect of `gpus` GPUs whose training waits for each checkpoint to be written at the paper's storage rate."""
    mtti, write = seconds_between_interruptions(gpus), checkpoint_bytes / STORAGE_BYTES_PER_SECOND
    interval = daly(write, mtti)
    lost = write / interval + (interval / 2 + restart_seconds) / mtti
    return Reliability(mtti, write, interval, max(0.0, 1 - lost))
