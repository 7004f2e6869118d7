"""Training dynamics made by hand for the selectors' tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ftft.dynamics.table import Dynamics
from ftft.methods.selection import ExamplesOfDynamics

# The gold probability of ten examples over four epochs; logits are (ln p, ln(1-p)) with the gold class first.
FIXTURE = {
    "a": (0.90, 0.95, 0.97, 0.98),
    "b": (0.10, 0.05, 0.08, 0.10),
    "c": (0.10, 0.40, 0.70, 0.95),
    "d": (0.80, 0.30, 0.70, 0.20),
    "e": (0.50, 0.50, 0.50, 0.50),
    "f": (0.20, 0.20, 0.20, 0.90),
    "g": (0.60, 0.60, 0.60, 0.60),
    "h": (0.30, 0.45, 0.20, 0.40),
    "i": (0.85, 0.99, 0.99, 0.99),
    "j": (0.45, 0.55, 0.45, 0.55),
}


def dynamics_of(
    ids: list[str],
    probability: np.ndarray,
    gold: np.ndarray,
    classes: int = 2,
    seen: np.ndarray | None = None,
    metadata: dict[str, Any] | None = None,
) -> Dynamics:
    """Dynamics whose gold class has ``probability`` ([E, N]); the other classes share the rest."""
    epochs, n = probability.shape
    logits = np.repeat(np.log((1 - probability) / (classes - 1))[:, :, None], classes, axis=2)
    for row in range(epochs):
        logits[row, np.arange(n), gold] = np.log(probability[row])
    return Dynamics(
        ids=pa.array(ids, type=pa.string()),
        epochs=tuple(range(epochs)),
        seen=np.ones((epochs, n), dtype=bool) if seen is None else seen,
        gold=gold.astype(np.int32),
        logits=logits.astype(np.float32),
        metadata=metadata or {},
    )


@pytest.fixture
def fixture_a() -> Dynamics:
    """The ten examples; gold is the row index mod 2."""
    probability = np.array(list(FIXTURE.values())).T
    return dynamics_of(list(FIXTURE), probability, np.arange(10) % 2)


@pytest.fixture
def make_dynamics() -> Callable[..., Dynamics]:
    """``dynamics_of``, for tests that make their own."""
    return dynamics_of


@pytest.fixture
def imbalanced() -> Dynamics:
    """200 examples over 4 epochs and 3 classes (70, 25 and 5 %), where the rarer class is the more ambiguous."""
    rng = np.random.default_rng(3)
    gold = np.repeat([0, 1, 2], [140, 50, 10])
    spread = np.array([0.02, 0.1, 0.3])[gold]
    probability = np.clip(0.6 + spread * rng.normal(size=(4, 200)), 0.01, 0.99)
    ids = [f"row-{index:03d}" for index in rng.permutation(200)]
    names = ["common", "rare", "rarest"]
    return dynamics_of(ids, probability, gold, classes=3, metadata={"label_names": names, "data_fingerprint": "f" * 64})


@pytest.fixture
def view() -> Callable[[Dynamics], ExamplesOfDynamics]:
    """The examples as the dynamics know them."""
    return ExamplesOfDynamics.of


@pytest.fixture
def permuted() -> Callable[[Dynamics, int], Dynamics]:
    """The same dynamics with their rows in another order."""

    def permute(dynamics: Dynamics, seed: int) -> Dynamics:
        order = np.random.default_rng(seed).permutation(len(dynamics))
        assert dynamics.gold is not None and dynamics.logits is not None
        return Dynamics(
            ids=dynamics.ids.take(pa.array(order)),
            epochs=dynamics.epochs,
            seen=dynamics.seen[:, order],
            gold=dynamics.gold[order],
            logits=dynamics.logits[:, order],
            metadata=dynamics.metadata,
        )

    return permute
