"""How uncertainty and AP go together, against the definitions in loops and by hand."""

import numpy as np
import pytest

from sret_jax.evaluation.calibration import auroc, risk_coverage


def test_auroc_counts_the_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    uncertainty = rng.integers(0, 6, 50) / 4  # with ties
    bad = rng.random(50) < 0.2 + 0.3 * uncertainty
    pairs = [(u > v) + 0.5 * (u == v) for u in uncertainty[bad] for v in uncertainty[~bad]]
    assert auroc(uncertainty, bad) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert 0.5 < auroc(uncertainty, bad) < 1
    assert auroc(-uncertainty, bad) == pytest.approx(1 - auroc(uncertainty, bad))


def test_auroc_of_the_extremes():
    bad = np.array([True, False, True, False])
    assert auroc(np.array([2.0, 0.0, 3.0, 1.0]), bad) == 1
    assert auroc(np.array([0.0, 2.0, 1.0, 3.0]), bad) == 0
    assert auroc(np.ones(4), bad) == 0.5
    assert np.isnan(auroc(np.ones(4), bad | True)) and np.isnan(auroc(np.ones(4), bad & False))


def test_risk_and_coverage_by_hand():
    uncertainty, ap = np.array([0.7, 0.0, 0.7, 0.0, 2.0, 1.0]), np.array([0.5, 1.0, 0.9, 0.8, 0.0, np.nan])
    coverage, risk = risk_coverage(uncertainty, ap)
    np.testing.assert_allclose(coverage, [2 / 5, 4 / 5, 1])
    np.testing.assert_allclose(risk, [0.2 / 2, 0.8 / 4, 1.8 / 5])


def test_risk_of_all_is_the_mean_and_the_order_does_not_matter():
    rng = np.random.default_rng(1)
    uncertainty, ap = rng.integers(0, 9, 40) / 3, rng.random(40)
    shuffled = rng.permutation(40)
    curves = risk_coverage(uncertainty, ap), risk_coverage(uncertainty[shuffled], ap[shuffled])
    np.testing.assert_allclose(curves[0], curves[1], atol=1e-12)
    assert curves[0][0][-1] == 1 and curves[0][1][-1] == pytest.approx(1 - ap.mean())
    assert all(len(x) == 0 for x in risk_coverage(np.ones(2), np.full(2, np.nan)))
