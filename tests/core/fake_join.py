"""A stage that joins its inputs' lines in upper case, so that different inputs can give equal outputs."""

from puna.core.settings import Settings as StageSettings
from puna.core.settings import execution

KIND = "joined"
REVISION = 3


class Settings(StageSettings):
    keep: int = 100
    workers: int = execution(1)


def run(settings, ctx):
    lines = []
    for artifact in ctx.inputs.artifacts:
        for path in sorted(artifact.path.glob("*.txt")):
            if not path.name.startswith("from-"):
                lines += path.read_text().split("\n")[: settings.keep]
    (ctx.out / "joined.txt").write_text("\n".join(sorted({line.upper() for line in lines if line})))
    return {"joined": len(lines)}
