"""A stage that starts processes of its own, as curation does; they must die with it."""

import multiprocessing
import os
import time

from puna.core.settings import Settings as StageSettings

KIND = "pool"
REVISION = 1
CORES = 2


class Settings(StageSettings):
    pids: str
    seconds: float = 30.0


def run(settings, ctx):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map_async(_wait, [settings.seconds] * 2, chunksize=1)
        with open(settings.pids, "w") as file:
            file.write(" ".join(str(p.pid) for p in pool._pool) + f" {os.getpid()}")
        found.get()
    (ctx.out / "done.txt").write_text("done")


def _wait(seconds):
    time.sleep(seconds)
