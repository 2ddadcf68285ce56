"""Every objective has one gradient: eight rows at once, eight times one row, and two ranks with three and five of them."""

import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

sys.path.insert(0, str(Path(__file__).parent))
from objective_cases import CASES, ROWS, SPLIT, step_of, two_ranks

LIMIT = 1e-5  # of the norm of each gradient


def distance(gradient, other):
    """Largest difference over the parameters, as a share of the parameter's gradient.

    A bias that moves all scores alike has a gradient of rounding errors: the least measure is a thousandth of the whole.
    """
    assert gradient.keys() == other.keys()
    least = 1e-3 * torch.stack([value.norm() for value in gradient.values()]).norm()
    return max(float((other[name] - value).norm() / value.norm().clamp(min=least)) for name, value in gradient.items())


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(two_ranks, args=(str(folder),), nprocs=2)
    return torch.load(folder / "answers.pt", weights_only=True)


@pytest.mark.parametrize("name", CASES)
def test_one_gradient_however_the_rows_are_divided(name, tmp_path, on_two_ranks):
    _, _, cut = CASES[name]
    assert len(cut(None)) == 1 and len(cut(1)) == ROWS
    gradient, row = step_of(name, tmp_path / "at-once", None)
    assert all(float(value.norm()) > 0 for name, value in gradient.items() if name != "head.bias")  # it moves all scores alike
    for other, again in (step_of(name, tmp_path / "one-by-one", 1), on_two_ranks[name]):
        assert distance(gradient, other) < LIMIT
        assert again == pytest.approx(row, rel=LIMIT)


@pytest.mark.parametrize("name", CASES)
def test_the_mean_of_two_ranks_means_is_another_gradient(name, tmp_path):
    """What the counts of the whole step are for: without them the difference is far above the limit."""
    gradient, _ = step_of(name, tmp_path / "all", 1)
    first, _ = step_of(name, tmp_path / "first", 1, slice(SPLIT))
    second, _ = step_of(name, tmp_path / "second", 1, slice(SPLIT, None))
    mean = {key: (first[key] + second[key]) / 2 for key in first}
    assert distance(gradient, mean) > 1000 * LIMIT
