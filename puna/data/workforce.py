"""The two verbs of `puna.data.engine` bound to a stage: its engine, its workers, its progress, its scratch.

Half-done work lies in the stage's scratch, which outlives a kill; `keep` moves the folders of the result to their place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from puna.core.stage import StageContext
from puna.data.engine import EngineSettings, map_shards, partition_count, shuffle


class Workforce:
    """`map` and `shuffle` of one stage; progress counts every call as one of `phases` (a shuffle as two), and a stop is heard
    after each shard."""

    def __init__(self, engine: EngineSettings, workers: int, ctx: StageContext, phases: int):
        self.engine, self.workers, self.ctx, self.phases = engine, workers, ctx, phases
        self.finished = 0

    def map(self, function: Callable[[Any], Any], shards: Sequence[Any]) -> list[Any]:
        """`map_shards` with this stage's engine."""
        results = map_shards(
            function,
            shards,
            engine=self.engine,
            workers=self.workers,
            done=self._progress(len(shards)),
            scratch=self.ctx.scratch,
        )
        self.finished += 1
        return results

    def shuffle(
        self,
        rows_of: Callable[[Any], np.ndarray],
        shards: Sequence[Any],
        reduce: Callable[[np.ndarray], np.ndarray],
        *,
        out: Path,
        partitions: int,
    ) -> list[Path]:
        """`shuffle` with this stage's engine."""
        files = shuffle(
            rows_of,
            shards,
            reduce,
            out=out,
            partitions=partitions,
            engine=self.engine,
            workers=self.workers,
            done=self._progress(len(shards) + partitions, share=2),
            scratch=self.ctx.scratch,
        )
        self.finished += 2
        return files

    def partitions(self, rows: int, row_bytes: int) -> int:
        """Partitions of a shuffle of so many rows that fit the memory a reduce task may take."""
        return partition_count(rows, row_bytes, self.engine)

    def keep(self, *folders: str) -> None:
        """Move finished folders from scratch to the artifact; what a kill left there half-written stays behind."""
        for name in folders:
            for left in (self.ctx.scratch / name).glob("*.part"):
                left.unlink()
            (self.ctx.scratch / name).rename(self.ctx.out / name)

    def _progress(self, total: int, share: int = 1) -> Callable[[int], None]:
        before = self.finished

        def done(count: int) -> None:
            self.ctx.progress(round(before + share * count / max(total, 1), 3), self.phases)
            self.ctx.checkpoint_or_stop(lambda: None)

        return done
