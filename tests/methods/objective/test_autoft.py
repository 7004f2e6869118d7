"""AutoFT's losses by hand, each alone; with cross-entropy alone it is plain training bit by bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from contract_trial import Trial

from ftft.errors import UserError
from ftft.methods.contract import Models
from ftft.methods.objective.autoft import AutoFT
from ftft.tasks.contract import Batch, UnitLogits

LOGITS = torch.tensor([[2.0, 1.0, 0.5], [0.0, 1.5, 1.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 2])  # the second is misclassified


class Task:
    """A linear classifier whose inputs are its logits at the start."""

    def forward(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return model(batch.inputs["x"])

    def per_example_loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs, batch.labels, reduction="none")

    def units(self, batch: Batch) -> torch.Tensor:
        return torch.ones(len(batch))

    def unit_logits(self, outputs: torch.Tensor, batch: Batch) -> UnitLogits:
        return UnitLogits(outputs, batch.labels, torch.arange(len(batch)))


def linear(weight: Any = 1.0) -> torch.nn.Module:
    model = torch.nn.Linear(3, 3, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(weight * torch.eye(3))
    return model


def loss(method: AutoFT, model: torch.nn.Module | None = None) -> Any:
    batch = Batch(["a", "b"], torch.arange(2), LABELS, torch.tensor([1.0, 3.0]), {"x": LOGITS})
    models = Models(model or linear(), {"frozen": linear()})
    return method.start(models, Task())(batch)


P = [[math.exp(float(z)) / sum(math.exp(float(v)) for v in row) for z in row] for row in LOGITS]
ENTROPY = [-sum(p * math.log(p) for p in row) for row in P]
HINGE = [(max(0, 1 - 2 + 1) + max(0, 1 - 2 + 0.5)) / 3, (max(0, 1 - 1 + 0) + max(0, 1 - 1 + 1.5)) / 3]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("cross_entropy", [-math.log(P[0][0]), -math.log(P[1][2])]),
        ("entropy", ENTROPY),
        ("entropy_when_wrong", [0.0, ENTROPY[1]]),
        ("hinge", HINGE),
    ],
)
def test_each_loss_by_hand(setting: str, expected: list[float]) -> None:
    found = loss(AutoFT(**{"cross_entropy": 0.0, setting: 0.7}))
    assert found.per_example.tolist() == pytest.approx([0.7 * one for one in expected], abs=1e-6)
    assert float(found.total.detach()) == pytest.approx(0.7 * (expected[0] + 3 * expected[1]), abs=1e-12)


def test_each_regulariser_by_hand() -> None:
    """Weights 1.5 on the diagonal and 0 elsewhere, from 1: distances 0.5, nine parameters; counted once a batch."""
    for setting, expected in {"l1_zero": 4.5, "l2_zero": 6.75, "l1_start": 1.5, "l2_start": 0.75}.items():
        found = loss(AutoFT(**{"cross_entropy": 0.0, setting: 0.2}), linear(1.5))
        assert float(found.total.detach()) / 4 == pytest.approx(0.2 * expected / 9, abs=1e-12), setting
        assert found.parts["penalty"] == pytest.approx(0.2 * expected / 9)
        assert found.per_example.tolist() == [0.0, 0.0]


def test_they_add_up_with_gradient() -> None:
    model = linear(1.5)
    mixed = AutoFT(entropy=0.3, entropy_when_wrong=0.5, hinge=2.0, l1_zero=0.1, l2_zero=0.2, l1_start=0.3, l2_start=0.4)
    singles = [AutoFT(cross_entropy=1.0)] + [
        AutoFT(**{"cross_entropy": 0.0, name: getattr(mixed, name)})
        for name in ("entropy", "entropy_when_wrong", "hinge", "l1_zero", "l2_zero", "l1_start", "l2_start")
    ]

    def gradient(method: AutoFT) -> torch.Tensor:
        (found,) = torch.autograd.grad(loss(method, model).total, [model.weight])
        return found

    expected = sum(gradient(one) for one in singles)
    torch.testing.assert_close(gradient(mixed), expected, rtol=0, atol=1e-12)
    assert float(gradient(singles[-1]).abs().sum()) > 0 and float(gradient(singles[2]).abs().sum()) > 0


def test_cross_entropy_alone_is_plain_training_bit_by_bit(tiny_model: Callable[..., Any], tiny_tokenizer: Any) -> None:
    one, other = (
        Trial(
            tiny_model, tiny_tokenizer, {"objective": name, "optimize": "adamw"}, 1e-2, dropout=0.2, dtype=torch.float32
        ).train(5)
        for name in ("autoft", "cross_entropy")
    )
    assert one.losses == other.losses
    assert all(torch.equal(value, other.state[name]) for name, value in one.state.items())


def test_nothing_to_regularise_is_refused() -> None:
    models = Models(linear(), {"frozen": SimpleNamespace(named_parameters=lambda: iter([]))})
    with pytest.raises(UserError, match="autoft has no parameter to regularise"):
        AutoFT(l2_start=0.1).start(models, Task())
    AutoFT(hinge=0.1).start(models, Task())
