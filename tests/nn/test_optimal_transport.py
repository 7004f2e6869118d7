"""Sinkhorn's potentials against the exact dual of the linear program, and the calibrated gradient against differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import torch

import ftft.nn.optimal_transport as module
from ftft.nn.optimal_transport import calibrated_gradient, sinkhorn


def clouds(n: int, m: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return source, 0.7 * torch.randn(m, 3, generator=generator, dtype=torch.float64) + 0.5


def exact(source: torch.Tensor, target: torch.Tensor, weights: np.ndarray | None = None) -> tuple[float, np.ndarray]:
    """(value, potentials of the source) of the linear program; with n and m coprime the potentials are unique up to a
    constant."""
    n, m = len(source), len(target)
    cost = torch.cdist(source, target).numpy()
    rows = np.kron(np.eye(n), np.ones((1, m)))
    columns = np.kron(np.ones((1, n)), np.eye(m))
    weights = np.full(n, 1 / n) if weights is None else weights
    sides = np.concatenate([weights, np.full(m, 1 / m)])
    found = scipy.optimize.linprog(cost.reshape(-1), A_eq=np.concatenate([rows, columns]), b_eq=sides, method="highs")
    return float(found.fun), np.asarray(found.eqlin.marginals)[:n]


def value(source: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, epsilon: float) -> float:
    """OT_e by plain iterations, for any weights of the source."""
    cost, uniform = torch.cdist(source, target), torch.full((len(target),), -math.log(len(target)), dtype=torch.float64)
    f, g = torch.zeros(len(source), dtype=torch.float64), torch.zeros(len(target), dtype=torch.float64)
    for _ in range(3000):
        f = -epsilon * torch.logsumexp(uniform + (g[None, :] - cost) / epsilon, dim=1)
        g = -epsilon * torch.logsumexp(weights.log()[:, None] + (f[:, None] - cost) / epsilon, dim=0)
    return float((weights * f).sum() + g.mean())


def test_a_small_entropy_gives_the_linear_programs_potentials() -> None:
    source, target = clouds(13, 8)
    expected_value, expected = exact(source, target)
    found = sinkhorn(source, target, regularisation=0.002, iterations=20000, tolerance=1e-9)
    assert found.error <= 1e-9
    np.testing.assert_allclose(
        calibrated_gradient(found.source).numpy(), calibrated_gradient(torch.from_numpy(expected)).numpy(), rtol=0, atol=0.02
    )
    assert float(found.source.mean() + found.target.mean()) == pytest.approx(expected_value, abs=0.02)
    order = calibrated_gradient(found.source).argsort()[:5].tolist()
    assert order == np.argsort(expected)[:5].tolist()


def test_the_calibrated_gradient_is_the_derivative_of_the_transports_cost() -> None:
    source, target = clouds(9, 5)
    found = sinkhorn(source, target, regularisation=0.1, tolerance=1e-12, iterations=5000)
    gradient, n, step = calibrated_gradient(found.source), 9, 1e-5
    for index in range(n):
        direction = torch.full((n,), -1.0 / (n - 1), dtype=torch.float64)
        direction[index] = 1.0
        ends = [value(source, target, 1 / n + sign * step * direction, found.epsilon) for sign in (1, -1)]
        assert float(gradient[index]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-6)


def test_the_linear_programs_value_changes_as_the_gradient_says() -> None:
    source, target = clouds(7, 4, seed=3)
    before, potentials = exact(source, target)
    gradient = calibrated_gradient(torch.from_numpy(potentials)).numpy()
    for index in (0, 3):
        weights = np.full(7, 1 / 7 - 1e-6 / 6)
        weights[index] = 1 / 7 + 1e-6
        assert (exact(source, target, weights)[0] - before) / 1e-6 == pytest.approx(gradient[index], abs=1e-4)


def test_the_gradient_sums_to_0_and_a_constant_is_nothing_to_it() -> None:
    f = torch.randn(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradient = calibrated_gradient(f)
    assert abs(float(gradient.sum())) < 1e-12
    torch.testing.assert_close(calibrated_gradient(f + 7.0), gradient, rtol=0, atol=1e-12)
    assert float(gradient[4]) == pytest.approx(float(f[4] - (f.sum() - f[4]) / 49), abs=1e-12)
    assert calibrated_gradient(torch.tensor([3.0])).tolist() == [0.0]


def test_the_plan_has_the_right_sums() -> None:
    source, target = clouds(11, 6)
    found = sinkhorn(source, target, regularisation=0.05, tolerance=1e-10, iterations=10000)
    mean = float(torch.cdist(source, target).mean())
    assert found.epsilon == pytest.approx(0.05 * mean)
    plan = torch.exp((found.source[:, None] + found.target[None, :] - torch.cdist(source, target)) / found.epsilon) / 66
    torch.testing.assert_close(plan.sum(dim=0), torch.full((6,), 1 / 6, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(plan.sum(dim=1), torch.full((11,), 1 / 11, dtype=torch.float64), rtol=0, atol=1e-9)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = clouds(23, 6)
    whole = sinkhorn(source, target, regularisation=0.1, iterations=50)
    monkeypatch.setattr(module, "BLOCK", 13)
    parts = sinkhorn(source, target, regularisation=0.1, iterations=50)
    torch.testing.assert_close(parts.source, whole.source, rtol=0, atol=1e-12)
    assert parts.iterations == whole.iterations


def test_few_iterations_say_how_far_off_they_are_and_one_point_costs_nothing() -> None:
    source, target = clouds(11, 6)
    assert sinkhorn(source, target, regularisation=0.01, iterations=1).error > 1e-3
    still = sinkhorn(source[:1].repeat(4, 1), source[:1], regularisation=0.1)
    assert (still.error, still.iterations) == (0.0, 0) and not still.source.any()


def test_points_that_cannot_be_transported_are_refused() -> None:
    source, target = clouds(3, 2)
    with pytest.raises(ValueError, match="both sides"):
        sinkhorn(source[:0], target, regularisation=0.1)
    with pytest.raises(ValueError, match="not finite"):
        sinkhorn(source * math.nan, target, regularisation=0.1)
