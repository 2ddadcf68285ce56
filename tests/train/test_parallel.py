"""Every layout trains like one process (section 3.3.2): loss, gradient norm and weights over three steps with document masks.

All cases of one number of processes share one session of gloo processes, since starting them is most of the time.
"""

import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

sys.path.insert(0, str(Path(__file__).parent))
from parallel_cases import CASES, compared, session

pytestmark = pytest.mark.cores


NAMES = [(processes, name) for processes, cases in CASES.items() for name in cases]
MEASURED = ("loss", "grad_norm", "held_loss")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """`answers(processes, name)`: what each process of a case found; a session runs when one of its cases is first asked for."""
    folder = tmp_path_factory.mktemp("layouts")
    done = set()

    def ask(processes, name):
        if processes not in done:
            done.add(processes)
            mp.spawn(session, args=(processes, str(folder), CASES[processes]), nprocs=processes)
        return [torch.load(folder / name / f"answer-{n}.pt", weights_only=True) for n in range(processes)]

    return ask


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """`alone(options)`: the same run in one process."""
    found = {}

    def ask(**options):
        key = tuple(sorted(options.items()))
        if key not in found:
            found[key] = compared(0, tmp_path_factory.mktemp("alone"), None, **options)
        return found[key]

    return ask


def assert_same_rows(rows, expected, rel=1e-5):
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert row.keys() == other.keys()
        for name in row.keys() & set(MEASURED):
            assert row[name] == pytest.approx(other[name], rel=rel), (row["step"], name)


@pytest.mark.parametrize(("processes", "name"), [pair for pair in NAMES if "first" not in CASES[pair[0]][pair[1]]])
def test_equals_one_process(processes, name, answers, alone):
    case = CASES[processes][name]
    expected = alone(**{key: case[key] for key in case.keys() & {"optim", "tied"}})
    first = answers(processes, name)[0]
    assert_same_rows(first["rows"], expected["rows"])
    assert first["weights"].keys() == expected["weights"].keys()
    for weight, value in expected["weights"].items():
        assert torch.allclose(first["weights"][weight], value, rtol=0, atol=1e-4), weight  # three steps of 0.01 by Adam


@pytest.mark.parametrize(("processes", "name"), [pair for pair in NAMES if "first" in CASES[pair[0]][pair[1]]])
def test_resumed_equals_uninterrupted(processes, name, answers):
    case, found = CASES[processes][name], answers(processes, name)
    if case["first"] == case["then"]:
        assert all(answer["equal"] for answer in found)  # weights and optimiser, to the bit
        assert found[0]["again"] == found[0]["rows"]
    for weight, value in found[0]["weights"].items():
        assert torch.allclose(found[0]["after"][weight], value, rtol=0, atol=1e-4), weight
    assert_same_rows(found[0]["again"], found[0]["rows"], rel=1e-6)
