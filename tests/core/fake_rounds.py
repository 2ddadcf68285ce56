"""A stage that is a small graph: parts that write, and a last one that joins them."""

import fake_join

from puna.core.settings import Settings as StageSettings

KIND = "joined"
REVISION = 1


class Settings(StageSettings):
    rounds: int = 2


def expand(name, settings, sources):
    graph = {}
    previous = list(sources)
    for r in range(1, settings.rounds + 1):
        graph[f"{name}.r{r}.write"] = {"uses": "fake_write", "from": previous, "lines": [f"round {r}"]}
        previous = [f"{name}.r{r}.write"]
    graph[name] = {"uses": "fake_rounds", "from": list(graph), "rounds": settings.rounds}
    return graph


def run(settings, ctx):
    return fake_join.run(fake_join.Settings(), ctx)
