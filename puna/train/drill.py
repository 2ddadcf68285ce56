"""Faults on purpose, to see that a run survives them: a process is killed or hangs, once.

`drill` in a stage's layout is a list such as `kill:1@5` (process 1 at step 5), `kill:0@6:saving`, `kill:0@6:committing` (all is
written and nothing has its name), `hang:2@7`.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

FAULT = re.compile(r"(kill|hang):(\d+)@(\d+)(?::(saving|committing))?")


def with_faults(alive: Callable[[int, str], None], faults: Sequence[str], rank: int, folder: Path) -> Callable[[int, str], None]:
    """`alive`, which every step calls, with the faults of one process in it; each happens once, which `folder` remembers."""
    mine = [found for text in faults if (found := FAULT.fullmatch(text)) and int(found[2]) == rank]

    def told(step: int, doing: str) -> None:
        alive(step, doing)
        for fault in mine:
            happened = folder / f"drill-{fault[0].replace(':', '-')}"
            if step >= int(fault[3]) and doing.startswith(fault[4] or "reading") and not happened.exists():
                happened.touch()
                if fault[1] == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                while True:
                    time.sleep(1)

    return told if mine else alive
