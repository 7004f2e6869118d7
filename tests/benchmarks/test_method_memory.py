"""The benchmark of memory counts what is there: moments twice the gradients, nothing kept where no backward pass follows."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    threads = torch.get_num_threads()
    yield importlib.import_module("method_memory")
    torch.set_num_threads(threads)
    for name in ("method_memory", "common"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_every_row_is_counted(memory: ModuleType) -> None:
    found = {row: memory.measure(row, "tiny", 2) for row in memory.ROWS}
    full = found["full"]
    assert full["gradients"] > 0 and 2 * full["gradients"] <= full["optimizer_state"] <= 2.01 * full["gradients"]
    assert found["mezo"]["optimizer_state"] == found["mezo"]["gradients"] == found["mezo"]["saved_activations"] == 0
    for row in ("lift", "s2ft", "lora"):
        assert 0 < found[row]["optimizer_state"] < 0.5 * full["optimizer_state"]
    assert found["s2ft"]["saved_activations"] < 0.8 * full["saved_activations"]
    assert found["lisa"]["gradients"] == full["gradients"], "both of the two layers are active"


def test_storages_are_counted_once_and_parameters_not(memory: ModuleType) -> None:
    layer = torch.nn.Linear(4, 3, bias=False)
    inputs = torch.randn(5, 4)
    saved = memory.Saved(layer)
    with saved:
        layer(inputs).sum()
        (layer(inputs) * 2.0).sum()
    assert saved.bytes == 5 * 4 * 4
