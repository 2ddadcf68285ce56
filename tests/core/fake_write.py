"""A stage that writes the lines it is told to, after a while; it can also fail in the ways stages fail."""

import os
import time

from puna.core.errors import InputError
from puna.core.settings import Settings as StageSettings
from puna.core.settings import execution

KIND = "lines"
REVISION = 1


class Model(StageSettings):
    layers: int = 2
    dim: int = 16


class Settings(StageSettings):
    lines: list[str] = ["a"]
    model: Model = Model()
    seconds: float = execution(0.0)
    fail: str = execution("")
    marker: str = execution("")
    licence: str = "MIT"


def run(settings, ctx):
    with (ctx.out / "lines.txt").open("w") as file:
        for index, line in enumerate(settings.lines):
            file.write(line + "\n")
            file.flush()
            ctx.progress(index + 1, len(settings.lines))
            time.sleep(settings.seconds / len(settings.lines))
    for artifact in ctx.inputs.artifacts:
        (ctx.out / f"from-{artifact.name}.txt").write_text(artifact.digest)
    ctx.add_source("fake", settings.licence, rows=len(settings.lines))
    ctx.timing(now=time.time(), run=ctx.run)
    if settings.marker:
        with open(settings.marker, "a") as file:
            file.write(f"{ctx.name} {time.time() - settings.seconds:.3f} {time.time():.3f}\n")
    _fail(settings.fail, ctx)
    return {"lines": len(settings.lines), "draw": ctx.stream_seed("x") % 1000}


def _fail(how, ctx):
    if how == "input":
        raise InputError("the rows are wrong", where="rows.jsonl:3", fix="mend row 3")
    if how == "bug":
        raise ZeroDivisionError("one by nothing")
    if how == "kill":
        os.kill(os.getpid(), 9)
    if how == "full":
        with open("/dev/full", "w") as file:
            file.write("x")
    if how == "native-full":
        raise RuntimeError("I/O error: No space left on device (os error 28)")
