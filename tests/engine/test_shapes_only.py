"""Tensors without numbers: what is answered in their place, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch

from ftft.engine import shapes_only
from ftft.engine.shapes_only import ShapesOnly, with_numbers


def test_every_number_is_one_and_a_mask_takes_everything() -> None:
    with ShapesOnly():
        values = torch.zeros(3, 4)
        assert float(values.norm()) == 1.0 and bool((values > 0).any()) and int(torch.zeros(1, dtype=torch.int64)) == 1
        assert values[values > 0].shape == (12,) and values[torch.zeros(3, dtype=torch.bool)].shape == (3, 4)
        assert torch.bincount(torch.zeros(5, dtype=torch.int64), minlength=3).shape == (3,)
        with with_numbers():
            assert torch.zeros(2).tolist() == [0.0, 0.0]


def test_a_model_is_copied_and_moved_like_any_other() -> None:
    with ShapesOnly():
        layer = torch.nn.BatchNorm1d(64).to("cpu")
        twin = copy.deepcopy(layer)
        assert twin.running_mean is not layer.running_mean and twin.weight.requires_grad
        twin(torch.zeros(8, 64)).sum().backward()
        assert twin.weight.grad is not None and layer.weight.grad is None


def test_a_program_that_waits_for_a_number_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes_only, "MOST_ANSWERS", 20)
    with ShapesOnly(), pytest.raises(RuntimeError, match="20 numbers of tensors that have none"):
        while bool(torch.rand(1) > 0.5):
            pass
