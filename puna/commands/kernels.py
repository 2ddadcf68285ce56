"""Compile the kernels of curation and of the tokenizer ahead of time, as `make` does after an installation.

numba compiles a function when it is first called and keeps the result beside the source; for all of them together that is
most of a minute, which a first run would wait for. `python -m puna.commands.kernels` makes two small runs side by side in a
folder that is deleted again: generated pages through curation and tokenizer, which begins with HTML, and the facts of a text,
which begin with words, so that two cores share the work.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PAGES = 80  # of the generated world: enough for every kernel to be called
TEXT = "The river rises in the hills above the town and flows for ninety miles to the sea. Der Fluss entspringt in den Bergen.\n"


def recipes(folder: Path) -> dict[str, dict[str, Any]]:
    """The stages of the two runs, by name."""
    return {
        "pages": {
            "pages": {"uses": "data.collect", "sources": [{"world": {"pages": PAGES}}]},
            "documents": {"uses": "data.curate", "from": "pages", "workers": 1},
            "tokenizer": {"uses": "tokenizer.train", "from": "documents", "vocab": 600},
            "tokens": {"uses": "data.shards", "from": ["documents", "tokenizer"], "mix": {"general": 1}},
        },
        "texts": {
            "pages": {"uses": "data.collect", "sources": [{"path": str(folder / "river"), "group": "general"}]},
            "facts": {"uses": "data.facts", "from": "pages", "workers": 1},
        },
    }


def compile_kernels() -> int:
    """Run both; returns the exit code of the first that failed, 0 when none did."""
    print("compiling the kernels of curation, once per installation (about a minute) ...", flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "river").mkdir()
        (folder / "river" / "river.txt").write_text(TEXT * 20)
        running = [_start(folder / name, stages) for name, stages in recipes(folder).items()]
        outputs = [process.communicate()[0] for process in running]
    failed = [(process.returncode, output) for process, output in zip(running, outputs, strict=True) if process.returncode]
    for _, output in failed:
        print(output, file=sys.stderr)
    return failed[0][0] if failed else 0


def _start(folder: Path, stages: dict[str, Any]) -> subprocess.Popen[str]:
    folder.mkdir()
    recipe = folder / "kernels.yaml"
    recipe.write_text(json.dumps({"name": "kernels", "stages": stages}))
    command = [sys.executable, "-m", "puna", "up", str(recipe), "--dir", str(folder), "--no-page", "--cores", "1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


if __name__ == "__main__":
    sys.exit(compile_kernels())
