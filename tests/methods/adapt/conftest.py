"""What tests of adapters that look at data before they change the model share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest


@pytest.fixture
def calibration(tiny_tokenizer: Any) -> Callable[..., Any]:
    """``calibration(examples=40)``: the engine's calibration over so many sentences of 3 to 12 words, so that batches have
    padding; ``calibration.ledger`` says what was charged."""
    from ftft.data.examples import Examples
    from ftft.engine.calibrating import CountedCalibration
    from ftft.engine.ledger import Ledger
    from ftft.tasks.text_classification import TextClassification

    def make(examples: int = 40) -> Any:
        source = np.random.default_rng(2)
        words = ["the", "a", "film", "movie", "food", "place", "good", "bad", "great", "boring", "happy", "sad", "red", "blue"]
        texts = [" ".join(source.choice(words, source.integers(3, 13))) for _ in range(examples)]
        ids = pa.array([f"e{row}" for row in range(examples)])
        given = Examples(ids, {"text": pa.array(texts)}, np.arange(examples) % 2, ("no", "yes"), "generated")
        task = TextClassification(max_length=32)
        return CountedCalibration(task, task.prepare(given, tiny_tokenizer), np.arange(examples), 0, Ledger())

    return make
