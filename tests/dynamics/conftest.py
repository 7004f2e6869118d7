"""Ten binary examples over four epochs with known scores: population std, sample std and the rest, computed elsewhere with
the released code of dataset cartography and FTFT. Gold is the row index mod 2, logits are (ln p, ln(1-p)) gold first."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from ftft.dynamics.table import Dynamics

# id: p_true | confidence, variability, sample std, with CI, correctness, forgetting, closeness, AUM, EL2N, Dyn-Unc, DUAL
TABLE = """
a .90 .95 .97 .98 | .950000 .030822 .035590 .030827 4    0 .047500  3.127396  .028284 .025665 .001336
b .10 .05 .08 .10 | .082500 .020463 .023629 .020465 0 1000 .075694 -2.445309 1.272792 .025166 .023237
c .10 .40 .70 .95 | .537500 .318934 .368273 .324296 2    0 .248594   .297262  .070711 .287689 .133602
d .80 .30 .70 .20 | .500000 .254951 .294392 .257698 2    2 .250000  0        1.131371 .264575 .132288
e .50 .50 .50 .50 | .500000 0       0       0       4    0 .250000  0         .707107 0       0
f .20 .20 .20 .90 | .375000 .303109 .350000 .307715 1    0 .234375  -.490415  .141421 .202073 .114508
g .60 .60 .60 .60 | .600000 0       0       0       4    0 .240000   .405465  .565685 0       0
h .30 .45 .20 .40 | .337500 .096014 .110868 .096162 0 1000 .223594  -.709932  .848528 .129059 .085986
i .85 .99 .99 .99 | .955000 .060622 .070000 .060659 4    0 .042975  3.879990  .014142 .040415 .002290
j .45 .55 .45 .55 | .500000 .050000 .057735 .050021 2    1 .250000  0         .636396 .057735 .028868
"""
_LINES = [line.split(" | ") for line in TABLE.strip().splitlines()]
IDS = [left.split()[0] for left, _ in _LINES]
P_TRUE = np.array([[float(word) for word in left.split()[1:]] for left, _ in _LINES]).T  # [4, 10]
GOLD = np.arange(10, dtype=np.int32) % 2
_EXPECTED = np.array([[float(word) for word in right.split()] for _, right in _LINES])
_HEAD = "confidence variability sample_std with_ci correctness forgetting threshold_closeness aum el2n dyn_unc dual"
NAMES = _HEAD.split()
EXPECTED = dict(zip(NAMES, _EXPECTED.T, strict=True))


def _dynamics_a() -> Dynamics:
    logits = np.empty((4, 10, 2), dtype=np.float32)
    rows = np.arange(10)
    logits[:, rows, GOLD] = np.log(P_TRUE)
    logits[:, rows, 1 - GOLD] = np.log(1 - P_TRUE)
    return Dynamics(pa.array(IDS), (0, 1, 2, 3), np.ones((4, 10), dtype=bool), gold=GOLD, logits=logits)


def _random_dynamics(n: int = 40, epochs: int = 4, classes: int = 3, seed: int = 0, unseen: float = 0.0) -> Dynamics:
    generator = np.random.default_rng(seed)
    seen = generator.random((epochs, n)) >= unseen
    logits = generator.normal(0, 3, (epochs, n, classes)).astype(np.float32)
    logits[~seen] = 0
    gold = generator.integers(0, classes, n).astype(np.int32)
    ids = pa.array([f"row-{index:04d}" for index in generator.permutation(n)], type=pa.string())
    return Dynamics(ids, tuple(range(epochs)), seen, gold=gold, logits=logits, metadata={"num_classes": classes})


@pytest.fixture(scope="session")
def fixture_a() -> SimpleNamespace:
    """``dynamics`` (logits float32 [4, 10, 2]), ``ids``, ``p_true`` [4, 10], ``gold`` and ``expected``: name -> [10]."""
    return SimpleNamespace(dynamics=_dynamics_a(), ids=IDS, p_true=P_TRUE, gold=GOLD, expected=EXPECTED)


@pytest.fixture(scope="session")
def random_dynamics() -> Callable[..., Dynamics]:
    """A function (n, epochs, classes, seed, unseen) -> random logits of which a share ``unseen`` is masked."""
    return _random_dynamics
