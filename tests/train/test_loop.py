"""The loop: one divisor for the whole step (traps 1 and 2), exact resume, non-finite steps, best and averaged weights."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

sys.path.insert(0, str(Path(__file__).parent))
from loop_cases import Recorder, SHAPE, batches, recorded_gradients, trained, two_ranks  # noqa: I001

from puna.core.errors import Preempted, RunError
from puna.core.stage import local_context
from puna.model.llama import Llama
from puna.train.loop import train
from puna.train.objectives import CrossEntropy, cross_entropy_sum, hidden_at_targets
from puna.train.optim import OptimSettings
from puna.train.packing import IGNORED, dialog_batches, empty_batch
from puna.train.schedule import LearningRate, Schedule


def same_gradients(one, other):
    for step, again in zip(one, other, strict=True):
        for name in step:
            assert torch.allclose(step[name], again[name], rtol=1e-5, atol=1e-7), name


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_gradient_is_that_of_the_global_token_mean(tmp_path):
    """Against plain autograd on the mean over all learnt tokens, and not the mean of row means."""
    model = Llama(SHAPE, seed=3)
    batch = batches()(0)[0]
    states, targets = hidden_at_targets(model, batch)
    torch.nn.functional.cross_entropy(model.lm_head(states), targets).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    gradients, rows = recorded_gradients(tmp_path / "a", steps=1)
    same_gradients(gradients, [expected])
    norm = torch.stack([g.norm() for g in expected.values()]).norm()
    assert rows[0]["grad_norm"] == pytest.approx(float(norm), rel=1e-5)


def test_micro_batches_give_the_same_gradient_and_loss(tmp_path):
    whole, rows = recorded_gradients(tmp_path / "a")
    single, single_rows = recorded_gradients(tmp_path / "b", micro_rows=1)
    assert len(batches(micro_rows=1)(0)) == 8 and len(batches()(0)) == 1
    same_gradients(whole, single)
    assert [r["loss"] for r in rows] == pytest.approx([r["loss"] for r in single_rows], rel=1e-6)
    means = [
        float(CrossEntropy().sums(Llama(SHAPE, seed=3), b)[0]["ce"].detach()) / CrossEntropy().counts(b)["ce"]
        for b in batches(micro_rows=1)(0)
    ]
    assert abs(sum(means) / len(means) / rows[0]["loss"] - 1) > 1e-4  # the wrong mean is visibly another number


def test_two_ranks_equal_one(tmp_path):
    mp.spawn(two_ranks, args=(str(tmp_path),), nprocs=2)
    answers = torch.load(tmp_path / "answers.pt", weights_only=True)
    gradients, rows = recorded_gradients(tmp_path / "one")
    same_gradients(gradients, answers["gradients"])
    for row, other in zip(rows, answers["rows"], strict=True):
        assert other == pytest.approx(row, rel=1e-5)
    model, result, _ = trained(tmp_path / "run")
    for name, value in weights(model).items():
        assert torch.allclose(value, answers["weights"][name], atol=1e-4), name
    assert [r["loss"] for r in answers["run_rows"]] == pytest.approx([r["loss"] for r in result.rows], rel=1e-4)
    assert not (tmp_path / "run-1" / "metrics.jsonl").exists() and (tmp_path / "run-0" / "metrics.jsonl").exists()


def test_weighted_and_chunked_cross_entropy():
    model = Llama(SHAPE, seed=3)
    batch = batches()(1)[0]
    batch.weights_BT = torch.rand(batch.ids_BT.shape, generator=torch.Generator().manual_seed(0))
    (total,) = CrossEntropy().sums(model, batch)[0].values()
    logp = torch.log_softmax(model(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask()), -1)
    learnt = batch.targets_BT != IGNORED
    picked = logp.gather(-1, batch.targets_BT.clamp(0)[..., None])[..., 0]
    assert float(total.detach()) == pytest.approx(-float((picked * batch.weights_BT)[learnt].sum().detach()), rel=1e-5)
    assert CrossEntropy().counts(batch)["ce"] == pytest.approx(float(batch.weights_BT[learnt].sum()), rel=1e-6)
    total.backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    CrossEntropy(chunk=7).sums(model, batch)[0]["ce"].backward()
    for name, p in model.named_parameters():
        assert torch.allclose(p.grad, whole[name], rtol=1e-4, atol=1e-5)
    nothing = empty_batch(2, 8)
    assert float(cross_entropy_sum(model.lm_head, *hidden_at_targets(model, nothing)).detach()) == 0.0


class Killed(BaseException):
    """Stands for kill -9: nothing of the stage's own clean-up runs."""


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_resume_after_random_kills_is_bit_exact(tmp_path, name):
    def probe(model, step):
        return {"probe": float(model.lm_head.weight.detach().sum())}

    options = {"evaluate": probe, "evaluate_every": 4, "steps": 14, "average_every": 5, "keep_best": "probe", "name": name}
    model, result, ctx = trained(tmp_path / "whole", **options)
    expected = (ctx.out / "metrics.jsonl").read_bytes()
    draw = random.Random(7)
    for attempt in range(12):
        fatal = draw.randrange(1, 6)

        def report(event, left=[fatal]):  # noqa: B006
            if event["event"] == "metric":
                left[0] -= 1
                if left[0] == 0:
                    raise Killed

        out = tmp_path / "cut"
        if out.exists():
            for file in out.glob("*"):
                if file.is_file():
                    file.unlink()  # an unfinished stage's own folder is emptied; scratch stays
        try:
            again, second, ctx = trained(out, report=report if attempt < 11 else None, checkpoint_seconds=0.0, **options)
            break
        except Killed:
            continue
    assert (ctx.out / "metrics.jsonl").read_bytes() == expected
    assert all(torch.equal(value, weights(again)[key]) for key, value in weights(model).items())
    assert all(torch.equal(value, second.average[key]) for key, value in result.average.items())
    assert (second.best_step, second.best_value) == (result.best_step, result.best_value)


def test_a_stop_saves_at_once_and_the_next_run_goes_on(tmp_path):
    whole, _, ctx = trained(tmp_path / "whole", steps=9)
    expected = (ctx.out / "metrics.jsonl").read_bytes()
    for stop_at in (0, 1, 5):
        calls = iter(range(100))
        with pytest.raises(Preempted):
            trained(tmp_path / "cut", steps=9, stopping=lambda calls=calls, at=stop_at: next(calls) >= at)
        (tmp_path / "cut" / "metrics.jsonl").unlink(missing_ok=True)
    model, _, ctx = trained(tmp_path / "cut", steps=9)
    assert (ctx.out / "metrics.jsonl").read_bytes() == expected
    assert all(torch.equal(value, weights(model)[key]) for key, value in weights(whole).items())
    finished, _, _ = trained(tmp_path / "cut", steps=9, stopping=None)  # a finished run is loaded, not repeated
    assert all(torch.equal(value, weights(finished)[key]) for key, value in weights(whole).items())


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    trained(tmp_path / "a", steps=6, checkpoint_seconds=0.0)
    folders = sorted((tmp_path / "a.scratch" / "train").iterdir())
    assert [f.name for f in folders] == ["step-5", "step-6"]
    data = bytearray((folders[1] / "state.safetensors").read_bytes())
    data[-3] ^= 1
    (folders[1] / "state.safetensors").write_bytes(data)
    notes = []
    _, result, _ = trained(tmp_path / "a", steps=6, report=lambda e: notes.append(e.get("text")))
    assert result.steps == 6 and any("step-6 is damaged" in (n or "") for n in notes)


def test_other_settings_do_not_use_the_checkpoint(tmp_path):
    trained(tmp_path / "a", steps=4)
    fresh, _, _ = trained(tmp_path / "b", steps=5)
    notes = []
    model, _, _ = trained(tmp_path / "a", steps=5, report=lambda e: notes.append(e.get("text")))
    assert any("other settings" in (n or "") for n in notes)
    assert all(torch.equal(value, weights(model)[key]) for key, value in weights(fresh).items())


class Poisoned(CrossEntropy):
    """A loss that is not a number at the given calls."""

    def __init__(self, at):
        super().__init__()
        self.at, self.calls = at, -1

    def sums(self, model, batch):
        self.calls += 1
        terms, others = super().sums(model, batch)
        return ({"ce": terms["ce"] * float("nan")} if self.calls in self.at else terms), others


def run_poisoned(path, at, steps):
    model = Llama(SHAPE, seed=3)
    ctx = local_context(path)
    result = train(model, Poisoned(at), batches(), Schedule(steps=steps), OptimSettings(lr=1e-3), ctx, log_every=2)
    return model, result, ctx


def test_a_step_that_is_not_finite_leaves_no_trace(tmp_path):
    model, result, ctx = run_poisoned(tmp_path / "a", {2, 4}, 6)
    assert result.skipped == [2, 4]
    assert all(torch.isfinite(p).all() for p in model.parameters())
    rows = [json.loads(line) for line in (ctx.out / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["skipped"] == 2 and all(row["loss"] == row["loss"] for row in rows)
    assert "step 2 left out" in (ctx.out / "volatile" / "notes.txt").read_text()


def test_three_in_a_row_end_the_run(tmp_path):
    with pytest.raises(RunError, match="3 steps in a row"):
        run_poisoned(tmp_path / "a", {3, 4, 5}, 9)


def test_a_step_without_learnt_tokens_is_an_error(tmp_path):
    with pytest.raises(RunError, match="not one token to learn"):
        train(Llama(SHAPE, seed=3), CrossEntropy(), lambda step: [empty_batch(1, 8)], Schedule(steps=1), OptimSettings(),
              local_context(tmp_path / "a"))  # fmt: skip


def test_best_weights_come_back_and_step_zero_counts(tmp_path):
    def worse_and_worse(model, step):
        return {"dev": -float(step)}

    start = weights(Llama(SHAPE, seed=3))
    model, result, _ = trained(tmp_path / "a", evaluate=worse_and_worse, evaluate_every=2, keep_best="dev")
    assert result.best_step == 0 and all(torch.equal(value, weights(model)[key]) for key, value in start.items())


def test_average_is_the_mean_of_the_saved_weights(tmp_path):
    saved = []

    def keep(model, step):
        saved.append(weights(model))
        return None

    _, result, _ = trained(tmp_path / "a", steps=8, evaluate=keep, evaluate_every=2, average_every=2)
    assert len(saved) == 4
    for name, value in result.average.items():
        assert torch.allclose(value, torch.stack([s[name] for s in saved]).mean(0), atol=1e-6)


def test_reported_sums_are_divided_by_their_own_count(tmp_path):
    class Reporting(CrossEntropy):
        def counts(self, batch):
            return {**super().counts(batch), "accuracy": 4.0}

        def sums(self, model, batch):
            return super().sums(model, batch)[0], {"accuracy": 3.0, "seen": torch.tensor(2.0)}

    model = Llama(SHAPE, seed=3)
    result = train(model, Reporting(), batches(micro_rows=4), Schedule(steps=2), OptimSettings(), local_context(tmp_path / "a"),
                   optimizer=Recorder(model), log_every=2)  # fmt: skip
    assert result.rows[0]["accuracy"] == 0.75 and result.rows[0]["seen"] == 8.0


def test_sixty_steps_learn_eight_sentences_by_heart(tmp_path):
    draw = random.Random(0)
    sentences = [[i, *[draw.randrange(8, 40) for _ in range(12)]] for i in range(8)]
    data = dialog_batches([(s, [1] * len(s)) for s in sentences], 32, 256, seed=0)
    model = Llama(SHAPE, seed=1)
    schedule = Schedule(steps=60, lr=LearningRate(shape="linear", warmup=5, final=0.0))
    result = train(model, CrossEntropy(), data, schedule, OptimSettings(name="muon", lr=2e-2), local_context(tmp_path / "a"))
    assert result.first_loss > 2.5 and result.loss < 0.05
    for sentence in sentences:
        with torch.no_grad():
            assert model(torch.tensor([sentence[:-1]]))[0].argmax(-1).tolist() == sentence[1:]


def test_kill_nine_in_the_middle_of_anything(tmp_path):
    """A process killed without warning, checkpointing at every step, twice; the third one finishes with the same bytes."""
    whole, _, ctx = trained(tmp_path / "whole", steps=12)
    expected = (ctx.out / "metrics.jsonl").read_bytes()
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path; from loop_cases import trained\n"
        f"trained(Path({str(tmp_path / 'cut')!r}), steps=12, checkpoint_seconds=0.0)"
    )
    command = [sys.executable, "-c", code]
    scratch = tmp_path / "cut.scratch" / "train"
    for reached in (3, 8):
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
        while process.poll() is None and not any((scratch / f"step-{s}").exists() for s in range(reached, 13)):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        (tmp_path / "cut" / "metrics.jsonl").unlink(missing_ok=True)
    (scratch / "step-99.tmp").mkdir()  # what a kill in mid-write leaves
    model, _, ctx = trained(tmp_path / "cut", steps=12)
    assert (ctx.out / "metrics.jsonl").read_bytes() == expected
    assert all(torch.equal(value, weights(model)[key]) for key, value in weights(whole).items())


def test_a_rank_with_nothing_to_do_still_takes_part(tmp_path):
    gradients, _ = recorded_gradients(tmp_path / "a", steps=1)
    model = Llama(SHAPE, seed=3)
    recorder = Recorder(model)
    train(model, CrossEntropy(), lambda step: [empty_batch(2, 32), *batches()(step)], Schedule(steps=1), OptimSettings(clip=0.0),
          local_context(tmp_path / "b"), optimizer=recorder)  # fmt: skip
    same_gradients(gradients, recorder.seen)
