"""FP8 in a random model: its sharpness, its figures against the formulas, and the stage's summary."""

import copy
import math
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

sys.path.insert(0, str(Path(__file__).parent))
from small_model import TOKENIZER, lively

from puna.core.stage import local_artifact, local_context
from puna.infer import quantize
from puna.infer.fp8 import quantize_model
from puna.infer.fp8_random import RandomModel, compare_random, spread
from puna.model.checkpoint import save_model

SMALL = {"dim": 256, "layers": 3, "tokens": 60, "continuations": 3, "continuation_tokens": 4}
TEXTS = [[1, 2, 3, 4, 5, 6, 7], [300, 200, 100, 9], [11, 12, 13]]


def pair():
    reference = RandomModel(**SMALL).build(512, max_seq_len=32, seed=4)
    model = copy.deepcopy(reference)
    assert len(quantize_model(model)) == 3
    return reference, model


def test_the_model_is_bf16_with_logits_of_standard_deviation_one_and_layers_that_matter():
    reference, _ = pair()
    assert all(torch.equal(weight, weight.bfloat16().float()) for weight in reference.parameters())
    matrix = reference.model.layers[1].mlp.up_proj.weight
    assert matrix.shape == (704, 256) and matrix.std().item() == pytest.approx(256**-0.5, rel=0.01)
    ids = torch.randint(0, 512, (4, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = reference(ids)
    assert logits.std().item() == pytest.approx(1.0, abs=0.03)
    assert torch.equal(reference.lm_head.weight, RandomModel(**SMALL).build(512, max_seq_len=32, seed=4).lm_head.weight)
    assert 0.2 < compare_random(reference, reference, ids.tolist(), [1.0])["layers_share"] < 0.6


def test_figures_equal_the_formulas_at_every_sharpness():
    reference, model = pair()
    found = compare_random(reference, model, TEXTS, [0.5, 3.0])
    assert found["tokens"] == 14
    for column, std in zip(found["sharpness"], (0.5, 3.0), strict=True):
        kl, entropy, same = [], [], []
        with torch.no_grad():
            for text in TEXTS:
                p, q = ((m(torch.tensor([text]))[0].double() * std).softmax(-1) for m in (reference, model))
                kl += (p * (p / q).log()).sum(-1).tolist()
                entropy += (-p * p.log()).sum(-1).tolist()
                same += (p.argmax(-1) == q.argmax(-1)).tolist()
        mean = sum(kl) / len(kl)
        assert column["logit_std"] == std and column["tokens"] == 14 and 0 < mean < 0.1
        assert column["kl_mean"] == pytest.approx(mean, rel=1e-3) and column["kl_max"] == pytest.approx(max(kl), rel=1e-3)
        assert column["first_choice_agreement"] == pytest.approx(sum(same) / 14)
        assert column["perplexity_reference"] == pytest.approx(math.exp(sum(entropy) / 14), rel=1e-4)
        assert column["perplexity_change"] == pytest.approx(math.exp(mean) - 1, rel=1e-3)
    first, second = found["sharpness"]
    assert second["kl_mean"] > 4 * first["kl_mean"] and second["perplexity_reference"] < first["perplexity_reference"] < 512
    with torch.no_grad():
        states = [torch.cat([m.hidden(torch.tensor([text]))[0] for text in TEXTS]) for m in (reference, model)]
    assert found["state_error"] == pytest.approx(float((states[1] - states[0]).norm() / states[0].norm()), rel=1e-3)


def test_a_model_beside_itself_is_not_changed():
    reference, _ = pair()
    found = compare_random(reference, reference, TEXTS, [2.0])
    column = found["sharpness"][0]
    assert (found["state_error"], column["kl_max"], column["first_choice_agreement"], column["perplexity_change"]) == (0, 0, 1, 0)


def test_tokens_come_from_all_texts():
    texts = [[i] * 10 for i in range(20)]
    assert spread(texts, 40) == [[0] * 10, [5] * 10, [10] * 10, [15] * 10]
    assert spread(texts, 15) == [[0] * 10, [13] * 5] and spread([[1], [2, 3]], 100) == [[2, 3]]
    assert [len(text) for text in spread(texts, 1000)] == [10] * 20


def test_the_stage_holds_the_comparison_unless_it_is_left_out(tmp_path):
    save_model(lively(), tmp_path / "src", tokenizer=TOKENIZER)
    values = {"tokens": 120, "seq_len": 16, "continuations": 1, "continuation_tokens": 2}

    def run(out, **change):
        context = local_context(tmp_path / out, inputs=[local_artifact(tmp_path / "src", "model")])
        return quantize.run(quantize.Settings(**values, **change), context)

    summary, without = run("a", random_model=SMALL), run("b", random_model=None)
    random = summary.pop("random_model")
    assert without == summary
    assert random["shape"] == {"parameters": 3 * (704 * 256 * 3 + 256 * 256 * 2 + 256 * 64 * 2 + 512) + 2 * 512 * 256 + 256,
                               "dim": 256, "layers": 3}  # fmt: skip
    assert random["tokens"] == 60 and random["greedy"]["continuations"] == 3
    assert [column["logit_std"] for column in random["sharpness"]] == [1.5, 2.5, 4.0]
    assert list(random["layers"]) == [f"model.layers.1.mlp.{m}_proj" for m in ("gate", "up", "down")]
    assert all(0.02 < errors["output_error"] < 0.06 for errors in random["layers"].values())  # e4m3 keeps 3 mantissa bits
    assert quantize.Settings().random_model == RandomModel()  # on where nothing is said


@pytest.mark.parametrize(
    "wrong", [{"dim": 500}, {"dim": 0}, {"layers": 2}, {"tokens": 0}, {"logit_stds": []}, {"logit_stds": [0.0]}]
)
def test_shapes_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError):
        RandomModel(**wrong)
