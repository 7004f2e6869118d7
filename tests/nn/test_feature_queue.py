"""The oracles of DR-Tune's calibration, in float64, and the queue."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ftft.nn.feature_queue import FeatureQueue, calibrated, input_of, moved_to_class_centres, rotation


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def a_rotation(d, seed=1):
    q, _ = torch.linalg.qr(normal(d, d, seed=seed))
    q[:, 0] *= torch.linalg.det(q).sign()
    return q


def unit(rows):
    return rows / rows.norm(dim=-1, keepdim=True)


def test_a_rotation_about_the_mean_is_recovered():
    source, turn = normal(40, 6) + 3.0, a_rotation(6)
    mean = source.mean(dim=0)
    target = (source - mean) @ turn.T + mean - 5.0
    found = rotation(source, target)
    torch.testing.assert_close(found, turn, rtol=0, atol=1e-10)
    assert float(torch.linalg.det(found)) == pytest.approx(1.0)


def test_a_reflection_is_answered_with_the_best_proper_rotation():
    source = normal(30, 3)
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    found = rotation(source, source @ mirror)
    assert float(torch.linalg.det(found)) == pytest.approx(1.0)
    torch.testing.assert_close(found @ found.T, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-12)
    centred = source - source.mean(dim=0)
    best = (centred @ found.T - centred @ mirror).square().sum()
    for seed in range(200):
        assert best <= (centred @ a_rotation(3, seed).T - centred @ mirror).square().sum() + 1e-9


def test_fewer_rows_than_dimensions_are_turned_onto_one_another():
    source, turn = normal(4, 9), a_rotation(9)
    centred = source - source.mean(dim=0)
    found = rotation(source, source @ turn.T)
    torch.testing.assert_close(centred @ found.T, centred @ turn.T, rtol=0, atol=1e-10)


def test_every_class_mean_becomes_the_attended_mean():
    source, target, directions = normal(12, 5), normal(12, 5, seed=2), unit(normal(4, 5, seed=3))
    labels = torch.tensor([0, 1, 1, 0, 2, 1, 0, 1, 0, 1, 0, 1])  # one row of class 2, none of class 3
    moved = moved_to_class_centres(source, target, labels, directions)
    for label in (0, 1, 2):
        here = labels == label
        scores = np.exp((target[here] @ directions[label]).numpy())
        centre = (scores[:, None] * target[here].numpy()).sum(axis=0) / scores.sum()
        np.testing.assert_allclose(moved[here].mean(dim=0).numpy(), centre, rtol=0, atol=1e-12)
        within = source[here] - source[here].mean(dim=0)
        torch.testing.assert_close(moved[here] - moved[here].mean(dim=0), within, rtol=0, atol=1e-12)
    torch.testing.assert_close(moved[4], target[4], rtol=0, atol=1e-12)
    assert torch.equal(source, normal(12, 5))


def by_hand(frozen, tuned, labels, head, length, rotate):
    """The steps of the paper, row by row."""
    p, q, w = unit(frozen).numpy(), unit(tuned).numpy(), unit(head).numpy()
    if rotate:
        pc, qc = p - p.mean(axis=0), q - q.mean(axis=0)
        u, _, vt = np.linalg.svd(pc.T @ qc)
        v = vt.T.copy()
        v[:, -1] *= np.linalg.det(v @ u.T)
        p = np.stack([v @ u.T @ row for row in pc])
    result = p.copy()
    for c in sorted(set(labels.tolist())):
        rows = [k for k in range(len(p)) if labels[k] == c]
        attention = np.exp([q[k] @ w[c] for k in rows])
        centre = sum(a * q[k] for a, k in zip(attention / attention.sum(), rows))
        for k in rows:
            result[k] = p[k] + centre - sum(p[j] for j in rows) / len(rows)
    return float(length) * result / np.linalg.norm(result, axis=1, keepdims=True)


@pytest.mark.parametrize("rotate", [True, False])
def test_calibration_is_that_of_the_paper(rotate):
    frozen, tuned, head = 3 * normal(20, 6), normal(20, 6, seed=5) + 0.3, normal(4, 6, seed=6)
    labels, length = torch.arange(20) % 3, torch.tensor(2.5, dtype=torch.float64)
    found = calibrated(frozen, tuned, labels, head, length=length, rotate=rotate)
    np.testing.assert_allclose(found.numpy(), by_hand(frozen, tuned, labels, head, length, rotate), rtol=0, atol=1e-10)
    torch.testing.assert_close(found.norm(dim=1), length.expand(20), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 2])
def test_calibration_of_one_or_two_rows_is_finite(rows):
    found = calibrated(
        normal(rows, 4), normal(rows, 4, seed=1), torch.zeros(rows, dtype=torch.int64), normal(2, 4, seed=2),
        length=torch.tensor(1.0, dtype=torch.float64), rotate=True,
    )  # fmt: skip
    assert found.isfinite().all()
    if rows == 1:
        torch.testing.assert_close(found, unit(normal(1, 4, seed=1)))


def test_calibration_is_not_rounded_by_autocast():
    arguments = normal(20, 6).float(), normal(20, 6, seed=5).float(), torch.arange(20) % 2, normal(2, 6, seed=6).bfloat16()
    length = torch.tensor(1.0)
    plain = calibrated(*arguments, length=length, rotate=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(calibrated(*arguments, length=length, rotate=True), plain)


@pytest.mark.parametrize("sizes", [[4, 4, 4], [3, 3, 3, 3], [7], [1] * 9, [2, 12, 1]])
def test_the_queue_holds_the_newest(sizes):
    queue, size, total = FeatureQueue(5), 5, 0
    assert len(queue) == 0
    for count in sizes:
        new = torch.arange(total, total + count)
        queue.push(new[:, None] * 1.0, new[:, None] * 2.0, new, new * 3.0)
        total += count
        expected = torch.arange(max(0, total - size), total)
        assert torch.equal(queue.labels, expected) and torch.equal(queue.weights, expected * 3.0)
        assert torch.equal(queue.tuned[:, 0], expected * 1.0) and torch.equal(queue.frozen[:, 0], expected * 2.0)


def test_the_queue_keeps_no_gradient_and_comes_back():
    queue, features = FeatureQueue(8), normal(4, 3).requires_grad_()
    queue.push(features, features * 2, torch.arange(4), torch.ones(4))
    assert not queue.tuned.requires_grad and not queue.frozen.requires_grad
    again = FeatureQueue(8)
    again.load_state(queue.state(), torch.device("cpu"))
    for one in (queue, again):
        one.push(features + 1, features, torch.arange(4), torch.ones(4))
    assert len(again) == 8 and all(torch.equal(again.state()[name], value) for name, value in queue.state().items())


def test_the_input_of_a_layer_is_seen_only_inside():
    layer = torch.nn.Linear(3, 2)
    with input_of(layer) as seen:
        layer(torch.ones(1, 3))
    layer(torch.zeros(1, 3))
    assert len(seen) == 1 and torch.equal(seen[0], torch.ones(1, 3))
