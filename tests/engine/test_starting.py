"""How an objective begins in one process of several."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

import ftft.engine.loop
from ftft.engine.batches import BatchSchedule
from ftft.engine.loop import Training, TrainingLoop
from ftft.engine.processes import Processes
from ftft.engine.settings import TrainSettings
from ftft.methods.contract import Models
from ftft.tasks.text_classification import TextClassification


def drawn() -> list[float]:
    return [float(torch.rand(())), float(np.random.rand()), random.random()]


class Drawing:
    """An objective that draws from every generator as it begins."""

    def __init__(self) -> None:
        self.drawn: list[float] = []

    def start(self, models: Models, task: Any) -> Callable[..., Any]:
        self.drawn = drawn()
        return lambda batch: None


def seeded(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def test_an_objective_begins_with_the_same_random_numbers_in_all_processes_and_each_goes_on_with_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[Any] = []

    class Told(Processes):
        def from_first(self, value: Any) -> Any:
            if self.is_first:
                sent.append(value)
            return sent[0]

    later = []
    objectives = [Drawing(), Drawing()]
    for index, objective in enumerate(objectives):
        monkeypatch.setattr(ftft.engine.loop, "processes_of", lambda accelerator, index=index: Told(index, 2))
        model = torch.nn.Linear(2, 2)
        training = Training(
            models=Models(model),
            task=TextClassification(),
            data=None,
            schedule=BatchSchedule(np.arange(4), np.ones(4, dtype=np.int32), 2, 2, 0),
            objective=objective,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            settings=TrainSettings(batch_size=2),
            precision="fp32",
            accelerator=Accelerator(cpu=True),
        )
        seeded(index)
        TrainingLoop(training)
        later.append(drawn())
    assert objectives[0].drawn == objectives[1].drawn
    seeded(0)
    assert [drawn(), drawn()] == [objectives[0].drawn, later[0]], "the first, or one alone, draws as ever"
    seeded(1)
    assert drawn() == later[1], "the other has drawn nothing of its own"
