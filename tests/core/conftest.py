"""A run with fake stages, and a quiet listener that remembers what it heard."""

import os
import sys
from pathlib import Path

import pytest

from puna.core.forkserver import ForkServer
from puna.core.graph import build_graph
from puna.core.recipe import recipe_from_data
from puna.core.run import up


class Heard:
    def __init__(self):
        self.events = []

    def event(self, event):
        self.events.append(event)

    def notes(self):
        return [e["text"] for e in self.events if e["event"] == "note"]


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One fork server for all tests, without torch: starting it is a tenth of a second."""
    made = ForkServer(tmp_path_factory.mktemp("server") / "log.txt", preload=("numpy", "pydantic", "puna.core.worker"))
    yield made
    made.close()


@pytest.fixture
def run_recipe(tmp_path, server):
    """`run_recipe(stages, **options)` runs a map of stages and returns (outcome, heard)."""

    def go(stages, *overrides, cores=2, seed=0, name="test", root=tmp_path, chat=None, **options):
        recipe = recipe_from_data({"name": name, "seed": seed, "stages": stages}, "test", overrides)
        heard = Heard()
        outcome = up(recipe, build_graph(recipe), root, cores=cores, listener=heard, server=server, **options)
        return outcome, heard

    return go


QUICK = """
import puna.core.forkserver as forkserver
forkserver.preload_for = lambda stages: ("puna.core.worker",)
from puna.cli import main
main()
"""


@pytest.fixture
def command():
    """The `puna` command as a program of its own, with a fork server that imports no torch for fake stages."""
    return [sys.executable, "-c", QUICK]


@pytest.fixture
def cli_environment():
    """Environment in which `puna` finds the fake stages."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
    }
