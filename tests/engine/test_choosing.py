"""A sampler's epochs may be of any length: the training still ends, evaluates and lowers its rate where it was planned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate import Accelerator

from ftft.data.examples import Examples
from ftft.dynamics.buffer import DynamicsBuffer
from ftft.engine.batches import BatchSchedule
from ftft.engine.choosing import ChoosingSchedule, schedule_for
from ftft.engine.loop import TrainingLoop
from ftft.engine.processes import ALONE
from ftft.engine.settings import TrainSettings
from ftft.engine.step import Step
from ftft.engine.training import Training
from ftft.engine.walk import Walk
from ftft.methods.contract import Choice, Models, Selection
from ftft.methods.objective.cross_entropy import CrossEntropy
from ftft.state.algebra import weights_sha256
from ftft.tasks.contract import Prepared
from ftft.tasks.text_classification import TextClassification

N, BATCH = 40, 4  # ten planned steps an epoch
TASK = TextClassification(max_length=16)


class Given:
    """Chooses the first so many examples of every epoch, each loss times ``factor``; remembers what it was shown."""

    def __init__(self, *sizes: int, factor: float | None = None) -> None:
        self.sizes, self.factor = sizes, factor
        self.selection = Selection(pa.array([f"x{i}" for i in range(N)]), np.ones(N), {"name": "given"})
        self.asked: list[tuple[int, float]] = []
        self.shown: list[tuple[np.ndarray, np.ndarray]] = []

    def choose(self, epoch: int, progress: float) -> Choice:
        self.asked.append((epoch, progress))
        size = self.sizes[epoch % len(self.sizes)]
        return Choice(np.arange(size), None if self.factor is None else np.full(size, self.factor))

    def observe(self, positions: np.ndarray, losses: np.ndarray) -> None:
        self.shown.append((positions, losses))

    def state(self) -> Any:
        return {"shown": len(self.shown)}

    def load_state(self, state: Any) -> None:
        pass


def schedule(sampler: Given, **train: Any) -> ChoosingSchedule:
    found = schedule_for(
        TrainSettings(batch_size=BATCH, **train),
        np.arange(N)[::-1].copy(),
        np.full(N, 6),
        seed=0,
        sampler=sampler,
        processes=ALONE,
    )
    assert isinstance(found, ChoosingSchedule)
    return found


def walked(sampler: Given, **train: Any) -> list[tuple[float, float, bool, int]]:
    """Per step: the position before it, the rate's factor, whether an evaluation is due after it, its batch's size."""
    settings = TrainSettings(batch_size=BATCH, **train)
    walk, steps = Walk(schedule(sampler, **train), settings), []
    while not walk.ended:
        epoch = walk.epoch()
        before = walk.position, walk.rate_factor(), len(epoch.batches[walk.step - epoch.first])
        walk.advance()
        steps.append((before[0], before[1], walk.evaluation_is_due(), before[2]))
    return steps


def test_epochs_of_any_length_end_at_the_planned_end() -> None:
    sampler = Given(40, 8, 20, 1)  # 10, 2, 5 and 1 batches
    steps = walked(sampler, epochs=4, warmup=0.0, schedule="linear")
    assert len(steps) == 10 + 2 + 5 + 1
    assert sampler.asked == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)]
    positions = [position for position, *_ in steps]
    assert positions == pytest.approx([*range(10), 10, 15, 20, 22, 24, 26, 28, 30])
    assert [rate for _, rate, *_ in steps] == pytest.approx([1 - position / 40 for position in positions])
    assert [index for index, (_, _, due, _) in enumerate(steps) if due] == [9, 11, 16, 17], "after every epoch"
    assert sum(size for *_, size in steps) == 40 + 8 + 20 + 1


def test_warm_up_and_an_end_before_the_end_go_by_the_same_measure() -> None:
    steps = walked(Given(20), epochs=2.5, warmup=0.4, end_at=0.8, schedule="cosine")
    assert [position for position, *_ in steps] == [2 * index for index in range(10)]  # up to 20 of 25
    assert [rate for _, rate, *_ in steps[:6]] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])


def test_part_of_an_epoch_is_part_of_its_batches() -> None:
    assert len(walked(Given(20), epochs=1.5)) == 5 + 3, "the half of five batches, rounded up"


def test_where_steps_are_given_every_batch_is_one() -> None:
    sampler = Given(40, 8)
    steps = walked(sampler, steps=17, epochs=None, warmup=0.0)
    assert [position for position, *_ in steps] == list(range(17))
    assert sampler.asked == [(0, 0.0), (1, 10 / 17), (2, 12 / 17)]


def test_evaluations_by_steps_and_by_shares() -> None:
    by_steps = [index + 1 for index, (_, _, due, _) in enumerate(walked(Given(20), epochs=4, evaluate_every=3.0)) if due]
    assert by_steps == [3, 6, 9, 12, 15, 18, 20]
    by_share = [position + 2 for position, _, due, _ in walked(Given(20), epochs=4, evaluate_every=0.1) if due]
    assert by_share == [4, 8, 12, 16, 20, 24, 28, 32, 36, 40]


def test_a_schedule_without_a_sampler_is_walked_step_by_step() -> None:
    settings = TrainSettings(batch_size=BATCH, epochs=2.2)
    plain = schedule_for(settings, np.arange(N), np.full(N, 6), seed=0, sampler=None, processes=ALONE)
    assert isinstance(plain, BatchSchedule)
    walk, taken = Walk(plain, settings), []
    while not walk.ended:
        epoch = walk.epoch()
        assert walk.position == walk.step and epoch.number == walk.step // 10
        taken.append(epoch.batches[walk.step - epoch.first])
        assert walk.advance() == (walk.step % 10 == 0)
    expected = [batch for number in range(3) for batch in plain.plan(number)][:22]
    assert len(taken) == 22 and all(np.array_equal(one, other) for one, other in zip(taken, expected))


def test_a_chosen_epochs_short_batch_is_filled_up_from_the_choice_with_its_weights() -> None:
    settings = TrainSettings(batch_size=BATCH, epochs=2.0)
    rows = np.arange(N)[::-1].copy()
    for fill in (False, True):
        sampler = Given(18, factor=2.0)
        found = schedule_for(settings, rows, np.full(N, 6), seed=0, sampler=sampler, processes=ALONE, fill=fill)
        epoch = found.epoch_at(0)
        assert sorted(map(len, epoch.batches)) == ([4] * 5 if fill else [2, 4, 4, 4, 4])
        assert epoch.weights is not None and [len(one) for one in epoch.weights] == [len(one) for one in epoch.batches]
        assert set(np.concatenate(epoch.batches)) == set(rows[:18]), "of the choice, and nothing else"
        assert all(len(set(batch)) == len(batch) for batch in epoch.batches)


def test_the_whole_pool_chosen_is_trained_on_as_without_a_sampler() -> None:
    chosen, plain = schedule(Given(40), epochs=3), BatchSchedule(np.arange(N)[::-1].copy(), np.full(N, 6), BATCH, 30, 0)
    step = 0
    for number in range(3):
        one, other = chosen.epoch_at(step), plain.epoch_at(step)
        assert (one.number, one.first, one.begin, one.length) == (other.number, other.first, other.begin, other.length)
        assert all(np.array_equal(a, b) for a, b in zip(one.batches, other.batches, strict=True)) and number == one.number
        step = one.end


@pytest.mark.parametrize(
    "choice",
    [
        Choice(np.array([], dtype=np.int64)),
        Choice(np.array([1, 1])),
        Choice(np.array([N])),
        Choice(np.array([-1])),
        Choice(np.array([1, 2]), np.array([1.0])),
        Choice(np.array([1]), np.array([0.0])),
        Choice(np.array([1]), np.array([np.nan])),
    ],
    ids=["none", "twice", "beyond", "before", "too few weights", "no weight", "not a number"],
)
def test_a_choice_that_makes_no_epoch_is_refused(choice: Choice) -> None:
    sampler = Given(40)
    sampler.choose = lambda epoch, progress: choice  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="a sampler"):
        schedule(sampler).epoch_at(0)


# -- in the loop -------------------------------------------------------------------------------------------------------


def training(tiny_model: Callable[..., Any], sampler: Given, **changes: Any) -> Training:
    source = np.random.default_rng(0)
    examples = Examples(pa.array([f"x{i}" for i in range(N)]), {}, source.integers(0, 2, N), ("a", "b"), "f")
    storage = {
        "input_ids": source.integers(5, 40, N * 6).astype(np.int32),
        "offsets": np.arange(0, N * 6 + 1, 6),
        "pad_token_id": 0,
    }
    model = tiny_model("bert").double()
    train = {"epochs": 3, "clip": None, "warmup": 0.0, "schedule": "constant", **changes.pop("train", {})}
    return Training(
        models=Models(model),
        task=TASK,
        data=Prepared(examples, np.full(N, 6, dtype=np.int32), storage),
        schedule=schedule(sampler, **train),
        objective=CrossEntropy(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
        settings=TrainSettings(batch_size=BATCH, **train),
        precision="fp64",
        accelerator=Accelerator(cpu=True),
        dynamics=DynamicsBuffer(examples.ids, examples.labels.astype(np.int32), num_classes=2),
        **changes,
    )


def test_books_and_dynamics_hold_what_was_learned_from(tiny_model: Callable[..., Any]) -> None:
    run = training(tiny_model, Given(40, 6, 21))
    outcome = TrainingLoop(run).run()
    assert outcome.steps == 10 + 2 + 6 and outcome.planned == 30 and not outcome.stopped_early
    books = run.ledger.effective["training"]
    assert (books.examples, books.steps, books.tokens) == (67, 18, 67 * 6)
    assert run.dynamics is not None
    dynamics = run.dynamics.dynamics()
    # The first positions are the last rows.
    assert [np.flatnonzero(epoch).tolist() for epoch in dynamics.seen] == [list(range(N - n, N)) for n in (40, 6, 21)]
    assert run.schedule.counts == [  # type: ignore[attr-defined]
        {"examples": 40, "steps": 10},
        {"examples": 6, "steps": 2},
        {"examples": 21, "steps": 6},
    ]


def test_the_sampler_sees_the_losses_that_the_dynamics_record(tiny_model: Callable[..., Any]) -> None:
    sampler = Given(40, 7, factor=3.0)
    run = training(tiny_model, sampler, train={"micro_batch_size": 2, "epochs": 2})
    TrainingLoop(run).run()
    assert run.dynamics is not None
    dynamics = run.dynamics.dynamics()
    assert dynamics.logits is not None and dynamics.gold is not None
    logits = torch.from_numpy(dynamics.logits)
    gold = torch.from_numpy(dynamics.gold).long()
    for epoch, part in enumerate((sampler.shown[:10], sampler.shown[10:])):
        expected = torch.nn.functional.cross_entropy(logits[epoch], gold, reduction="none").numpy()
        for positions, losses in part:
            np.testing.assert_allclose(losses, expected[N - 1 - positions], rtol=0, atol=1e-6)
    assert sorted(np.concatenate([positions for positions, _ in sampler.shown[:10]])) == list(range(N))


@pytest.mark.parametrize("micro", [None, 1])
def test_factors_multiply_the_losses_and_leave_the_divisor(micro: int | None, tiny_model: Callable[..., Any]) -> None:
    """g = (1 / sum_i w_i) sum_i w_i f_i grad l_i, with the examples' own weights w and the sampler's factors f."""
    weights, factors = np.linspace(0.5, 2.0, N), np.array([1.0, 2.5, 0.25, 4.0])
    run = training(tiny_model, Given(40), weights=weights, train={"micro_batch_size": micro})
    loop, rows = TrainingLoop(run), np.array([3, 30, 11, 7])
    run.models.main.eval()
    Step(run, loop.model, loop.loss_of, rows, loop.processes, factors)()
    found = [parameter.grad.clone() for parameter in run.models.main.parameters() if parameter.grad is not None]
    batch = TASK.collate(run.data, rows)
    losses = TASK.per_example_loss(TASK.forward(run.models.main, batch), batch)
    run.models.main.zero_grad()
    shares = torch.from_numpy((weights[rows].astype(np.float32) * factors) / weights[rows].astype(np.float32).sum())
    (shares * losses).sum().backward()
    expected = [parameter.grad for parameter in run.models.main.parameters() if parameter.grad is not None]
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-7)


def test_hooks_hear_how_much_of_the_training_is_over(tiny_model: Callable[..., Any]) -> None:
    told: list[tuple[int, int]] = []
    run = training(tiny_model, Given(20), before_step=[lambda step, steps, optimizer: told.append((step, steps))])
    events: list[dict[str, Any]] = []
    run.notify = events.append
    TrainingLoop(run).run()
    assert [step for step, _ in told] == list(range(15))
    assert told[0] == (0, 30) and {steps for _, steps in told[1:]} == {15}, "half as many steps as planned, once that shows"
    assert events[-1]["step"] == events[-1]["steps"] == 15


def test_the_last_step_told_is_the_last_one(tiny_model: Callable[..., Any]) -> None:
    """Where the first and the last epoch are whole and the others are not, the steps so far let expect too few at the end."""
    told: list[tuple[int, int]] = []
    run = training(tiny_model, Given(40, 6, 6, 6, 6, 6, 6, 40), train={"epochs": 8})
    run.before_step = [lambda step, steps, optimizer: told.append((step, steps))]
    events: list[dict[str, Any]] = []
    run.notify = events.append
    TrainingLoop(run).run()
    assert all(step < steps for step, steps in told)
    steps = [(event["step"], event["steps"]) for event in events if event["event"] == "step"]
    assert all(step <= of for step, of in steps) and steps[-1] == (32, 32)


@pytest.mark.parametrize(
    ("sizes", "epochs", "hashed"),
    [((20,), 3, 5), ((8, 4), 2, 3), ((40,), 0.4, 4), ((40,), 0.5, 5)],
    ids=["step 5", "fewer steps than planned", "no more planned", "step 5 is the last"],
)
def test_the_weights_are_hashed_after_step_5_or_at_the_end(
    sizes: tuple[int, ...], epochs: float, hashed: int, tiny_model: Callable[..., Any]
) -> None:
    run = training(tiny_model, Given(*sizes), train={"epochs": epochs})
    loop = TrainingLoop(run)
    outcome = loop.run()
    assert set(outcome.weights) == {hashed}
    if outcome.steps == hashed:
        assert outcome.weights[hashed] == weights_sha256(loop.unwrapped)


def test_a_limit_counts_the_steps_taken(tiny_model: Callable[..., Any]) -> None:
    """Five planned steps are one step of an epoch of two."""
    torch.manual_seed(0)  # of the dropout
    straight = TrainingLoop(training(tiny_model, Given(8))).run()
    loop = TrainingLoop(training(tiny_model, Given(8)))
    loop.walk.most_steps = 5
    torch.manual_seed(0)
    outcome = loop.run()
    assert outcome.steps == 5 and outcome.losses == straight.losses[:5] and outcome.weights == straight.weights


def test_the_loss_of_an_evaluation_is_of_the_steps_since_the_last_one(tiny_model: Callable[..., Any]) -> None:
    run = training(tiny_model, Given(40, 8, 20), validate=lambda model: {})
    outcome = TrainingLoop(run).run()
    assert [entry["step"] for entry in outcome.history] == [10, 12, 17]
    parts = (outcome.losses[:10], outcome.losses[10:12], outcome.losses[12:])
    assert [entry["loss"] for entry in outcome.history] == [float(np.mean(part)) for part in parts]
