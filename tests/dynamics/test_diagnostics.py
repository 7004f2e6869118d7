"""The reference diagnostics: their identity, their ends, and the figures of a published data map."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftft.dynamics.cartography import read_metrics
from ftft.dynamics.diagnostics import reference_diagnostics
from ftft.errors import UserError


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 200), fraction=st.floats(0.01, 1.0))
def test_the_easy_part_follows_from_the_overlap(seed, n, fraction):
    generator = np.random.default_rng(seed)
    confidence, variability = generator.random(n).round(2), generator.random(n).round(2)
    found = reference_diagnostics(confidence, variability, fraction=fraction)
    q = found.selected / n
    assert found.easy == pytest.approx(1 - 2 * q + q * found.overlap)
    assert found.union == pytest.approx(1 - found.easy)


def test_known_regions_of_the_fixture(fixture_a):
    expected = fixture_a.expected
    found = reference_diagnostics(expected["confidence"], expected["variability"], fraction=0.3)
    assert found.selected == 3
    assert found.overlap == pytest.approx(1 / 3)  # ambiguous c d f; hard b f h
    assert found.easy == pytest.approx(0.5)  # a e g i j
    assert found.mean_confidence_hard == pytest.approx((0.0825 + 0.375 + 0.3375) / 3)
    assert found.smallest_variability == pytest.approx(0.254951)


def test_examples_without_a_score_are_left_out():
    confidence, variability = np.array([0.1, 0.9, np.nan, 0.5]), np.array([0.2, 0.1, 0.3, np.nan])
    found = reference_diagnostics(confidence, variability, fraction=0.5)
    assert (found.examples, found.selected, found.overlap, found.easy) == (2, 1, 1.0, 0.5)
    with pytest.raises(UserError, match="nothing to diagnose"):
        reference_diagnostics(np.array([np.nan]), np.array([0.1]))
    with pytest.raises(UserError, match="the fraction is 0"):
        reference_diagnostics(confidence, variability, fraction=0)


def test_a_published_data_map_has_its_known_figures():
    """WinoGrande, RoBERTa-Large, six epochs (allenai/cartography): figures computed independently."""
    data = Path(os.environ.get("FTFT_DATA") or Path(__file__).parents[2] / ".." / "shared" / "data")
    path = data / "datamap_winogrande" / "coordinates.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"the published data map is not at {path}; set FTFT_DATA to the folder of the real data")
    metrics = read_metrics(path)
    confidence, variability, correctness = (metrics.scores[name] for name in ("confidence", "variability", "correctness"))
    assert len(metrics.ids) == 40_398
    assert confidence.mean() == pytest.approx(0.897429, abs=1e-6)
    assert np.median(confidence) == pytest.approx(0.915036, abs=1e-6)
    assert variability.mean() == pytest.approx(0.148024, abs=1e-6)
    assert np.bincount(correctness.astype(int)).tolist() == [27, 84, 266, 698, 2208, 12215, 24900]
    assert np.corrcoef(confidence, variability)[0, 1] == pytest.approx(-0.781852, abs=1e-6)
    assert (variability / np.sqrt(confidence * (1 - confidence))).max() == pytest.approx(0.99214, abs=1e-5)
    found = reference_diagnostics(confidence, variability, metrics.ids, fraction=0.33)
    assert found.selected == 13_331
    assert found.smallest_variability == pytest.approx(0.190621, abs=1e-6)
    assert found.overlap == pytest.approx(0.710674, abs=1e-6)
    assert found.union == pytest.approx(0.425467, abs=1e-6)
    assert found.mean_confidence_ambiguous == pytest.approx(0.809308, abs=1e-6)
    assert found.mean_confidence_hard == pytest.approx(0.793679, abs=1e-6)
