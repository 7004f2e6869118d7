"""One step's closure: every call sees the same examples, the same dropout masks and the same memory of the objective."""

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
from ftft.engine.loop import Training, TrainingLoop
from ftft.engine.settings import TrainSettings
from ftft.methods.contract import Loss, Models
from ftft.methods.objective.cross_entropy import CrossEntropy
from ftft.tasks.contract import Prepared
from ftft.tasks.text_classification import TextClassification

TASK = TextClassification(max_length=16)


class Looks(torch.optim.SGD):
    """Asks for the loss three times: with its gradient, with it again, and without."""

    needs_closure = True

    def __init__(self, parameters: Any, move: bool) -> None:
        super().__init__(parameters, lr=0.1)
        self.move, self.seen = move, []

    def step(self, closure: Callable[[], float]) -> None:
        start = [p.detach().clone() for p in self.param_groups[0]["params"]]
        first = (closure(), [p.grad.clone() for p in self.param_groups[0]["params"] if p.grad is not None])
        if self.move:
            with torch.no_grad():
                for p in self.param_groups[0]["params"]:
                    p.add_(0.1)
        second = (closure(), [p.grad.clone() for p in self.param_groups[0]["params"] if p.grad is not None])
        with torch.no_grad():
            third = closure()
            for p, value in zip(self.param_groups[0]["params"], start):
                p.copy_(value)
        self.seen.append((first, second, third))
        super().step()


class Counting(CrossEntropy):
    """Cross-entropy that remembers how many batches it has seen."""

    def start(self, models: Models, task: Any) -> Any:
        return _Counted(super().start(models, task))


class _Counted:
    def __init__(self, inner: Callable[[Any], Loss]) -> None:
        self.inner, self.batches, self.begun_with = inner, torch.zeros(1), []

    def __call__(self, batch: Any) -> Loss:
        self.begun_with.append(float(self.batches))
        self.batches += 1
        return self.inner(batch)

    def state(self) -> dict[str, torch.Tensor]:
        return {"batches": self.batches}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self.batches = state["batches"]


def run(
    tiny_model: Callable[..., Any], *, move: bool = False, objective: Any = None, steps: int = 2, **changes: Any
) -> TrainingLoop:
    source = np.random.default_rng(0)
    n, length = 16, 6
    examples = Examples(pa.array([f"x{i}" for i in range(n)]), {}, source.integers(0, 2, n), ("a", "b"), "f")
    tokens = source.integers(5, 40, n * length).astype(np.int32)
    storage = {"input_ids": tokens, "offsets": np.arange(0, n * length + 1, length), "pad_token_id": 0}
    data = Prepared(examples, np.full(n, length, dtype=np.int32), storage)
    model = tiny_model("bert", hidden_dropout_prob=0.3)
    torch.manual_seed(5)
    training = Training(
        models=Models(model),
        task=TASK,
        data=data,
        schedule=BatchSchedule(np.arange(n), data.lengths, 8, steps, 0),
        objective=objective or CrossEntropy(),
        optimizer=Looks(list(model.parameters()), move),
        settings=TrainSettings(batch_size=8, micro_batch_size=4, clip=None, warmup=0.0, schedule="constant"),
        precision="fp32",
        accelerator=Accelerator(cpu=True),
        dynamics=DynamicsBuffer(examples.ids, examples.labels.astype(np.int32), num_classes=2),
        **changes,
    )
    loop = TrainingLoop(training)
    loop.run()
    return loop


def test_every_call_has_the_same_examples_and_dropout_masks(tiny_model: Callable[..., Any]) -> None:
    loop = run(tiny_model)
    seen = loop.training.optimizer.seen  # type: ignore[attr-defined]
    for (one, gradient), (two, again), three in seen:
        assert one == two == three
        assert all(torch.equal(g, h) for g, h in zip(gradient, again)) and gradient
    assert seen[0][0][0] != seen[1][0][0], "the next step draws anew"
    assert loop.losses == [one for (one, _), _, _ in seen]


def test_only_the_weights_tell_the_calls_apart_and_the_first_is_the_steps(tiny_model: Callable[..., Any]) -> None:
    moved, still = run(tiny_model, move=True, steps=1), run(tiny_model, steps=1)
    (first, second, third) = moved.training.optimizer.seen[0]  # type: ignore[attr-defined]
    assert first[0] == still.losses[0] == moved.losses[0] and second[0] == third != first[0]
    recorded = [loop.training.dynamics.dynamics().logits for loop in (moved, still)]  # type: ignore[union-attr]
    assert recorded[0] is not None and np.array_equal(recorded[0], recorded[1]), "what the first call said is recorded"


def test_an_objective_with_a_memory_moves_on_once_a_step(tiny_model: Callable[..., Any]) -> None:
    loop = run(tiny_model, objective=Counting())
    # Two micro-batches a step, three calls of the closure, two steps.
    assert loop.loss_of.begun_with == [0.0, 1.0] * 3 + [2.0, 3.0] * 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["train", "forward"])
def test_the_work_of_every_call_is_charged(kind: str, tiny_model: Callable[..., Any]) -> None:
    loop = run(tiny_model, steps=1)
    known = loop.training.flops.known
    (train,) = (flops for (name, *_), flops in known.items() if name == "train")
    (forward,) = (flops for (name, *_), flops in known.items() if name == "forward")
    assert train > 2 * forward > 0
    # Two micro-batches in each of two calls with a gradient and one without.
    assert loop.training.ledger.effective["training"].flops == 4 * train + 2 * forward
