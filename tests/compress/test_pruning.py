"""What theory says of magnitude, Wanda, SparseGPT and OWL."""

import itertools

import numpy as np
import pytest

from edgesparse.compress.magnitude import magnitude_mask
from edgesparse.compress.owl import outlier_share, owl_sparsities
from edgesparse.compress.patterns import Pattern, n_zeros, smallest
from edgesparse.compress.sparsegpt import BLOCK, inverse_factor, layer_error, sparsegpt
from edgesparse.compress.store import STORES, Rounder
from edgesparse.compress.wanda import wanda_mask

Float32 = np.ndarray


def weights(n_rows: int = 48, k: int = 192, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).standard_normal((n_rows, k)).astype(np.float32)


def outlier_inputs(k: int = 192, n: int = 1500, seed: int = 1) -> np.ndarray:
    """Correlated inputs, every hundredth of which is twenty times as large."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, k)) + rng.standard_normal((n, 12)) @ rng.standard_normal((12, k))
    x[:, rng.choice(k, max(1, k // 100), replace=False)] *= 20
    return x


def norms_of(x: np.ndarray) -> Float32:
    return np.sqrt((x * x).sum(axis=0)).astype(np.float32)


def test_wanda_with_equal_norms_is_magnitude_by_rows() -> None:
    w = weights()
    n_cases = 0
    for share, factor in itertools.product((0.3, 0.5, 0.7), (0.25, 1.0, 8.0)):
        mask = wanda_mask(w, np.full(192, factor, np.float32), Pattern(share))
        assert np.array_equal(mask, smallest(np.abs(w), n_zeros(192, share)))
        n_cases += 1
    for text in ("2:4", "4:8"):
        pattern = Pattern.parse(text)
        mask = wanda_mask(w, np.ones(192, np.float32), pattern)
        assert np.array_equal(mask, magnitude_mask(w, pattern))
        n_cases += 1
    assert n_cases == 11


def test_wanda_is_best_where_features_are_orthogonal() -> None:
    rng = np.random.default_rng(3)
    n_cases = 0
    for k, share in itertools.product((5, 8, 10), (0.3, 0.5, 0.7)):
        count = n_zeros(k, share)
        q = np.linalg.qr(rng.standard_normal((40, k)))[0] * rng.uniform(0.1, 5, k)
        w = rng.standard_normal((4, k)).astype(np.float32)
        mask = wanda_mask(w, norms_of(q), Pattern(share))
        for row, chosen in zip(w, mask, strict=True):
            error = np.linalg.norm(q @ (row * chosen))
            others = [
                np.linalg.norm(q[:, list(zeros)] @ row[list(zeros)])
                for zeros in itertools.combinations(range(k), count)
            ]
            assert error <= min(others) * (1 + 1e-6)
            n_cases += len(others)
    assert n_cases > 2000


@pytest.mark.parametrize("c", [0.5, 1.0, 64.0])
def test_sparsegpt_with_a_multiple_of_one_is_magnitude_by_blocks(c: float) -> None:
    w = weights(k=2 * BLOCK + 40)
    k = w.shape[1]
    pruned = sparsegpt(w, c * np.eye(k), Pattern(0.5))
    for begin in range(0, k, BLOCK):
        block = w[:, begin : begin + BLOCK]
        assert np.array_equal(
            pruned.mask[:, begin : begin + BLOCK], magnitude_mask(block, Pattern(0.5))
        )
    assert np.array_equal(pruned.weight, np.where(pruned.mask, 0, w))  # survivors keep their bits


def test_orthogonal_features_give_sparsegpt_the_scores_of_wanda() -> None:
    """With H diagonal, w² / U² = w² · ‖x‖² (damping aside), and nothing is corrected."""
    w = weights(n_rows=1, k=BLOCK)
    norms = np.random.default_rng(4).uniform(0.5, 2, BLOCK).astype(np.float32)
    pruned = sparsegpt(w, np.diag(norms.astype(np.float64) ** 2), Pattern(0.5), damping=0.0)
    assert np.array_equal(pruned.mask, wanda_mask(w, norms, Pattern(0.5)))
    assert np.array_equal(pruned.weight, np.where(pruned.mask, 0, w))


def test_zero_sparsity_changes_nothing() -> None:
    w, x = weights(), outlier_inputs()
    assert not magnitude_mask(w, Pattern(0)).any()
    assert not wanda_mask(w, norms_of(x), Pattern(0)).any()
    pruned = sparsegpt(w, x.T @ x, Pattern(0))
    assert np.array_equal(pruned.weight, w)
    assert not pruned.mask.any()


def test_dead_inputs_lose_their_weights() -> None:
    x = outlier_inputs()
    x[:, [0, 77]] = 0
    for pattern in (Pattern(0.0), Pattern(0.5), Pattern.parse("2:4")):
        pruned = sparsegpt(weights(), x.T @ x, pattern)
        assert not pruned.weight[:, [0, 77]].any()
        assert np.isfinite(pruned.weight).all()


def test_scale_of_the_inputs_does_not_matter() -> None:
    w, x = weights(), outlier_inputs()
    h = x.T @ x
    for pattern in (Pattern(0.5), Pattern.parse("4:8")):
        one, other = sparsegpt(w, h, pattern), sparsegpt(w, h * 2.0**20, pattern)
        assert np.array_equal(one.weight, other.weight)
        norms = norms_of(x)
        assert np.array_equal(wanda_mask(w, norms, pattern), wanda_mask(w, norms * 1024, pattern))


def errors_of(w: Float32, h: np.ndarray, norms: Float32, pattern: Pattern) -> dict[str, float]:
    pruned = sparsegpt(w, h, pattern)
    return {
        "magnitude": layer_error(w, np.where(magnitude_mask(w, pattern), 0, w), h),
        "wanda": layer_error(w, np.where(wanda_mask(w, norms, pattern), 0, w), h),
        "same mask": layer_error(w, np.where(pruned.mask, 0, w), h),
        "no update": layer_error(w, sparsegpt(w, h, pattern, update=False).weight, h),
        "sparsegpt": layer_error(w, pruned.weight, h),
    }


PATTERNS = [Pattern(0.5), Pattern(0.6), Pattern(0.7), Pattern.parse("4:8"), Pattern.parse("2:4")]


def test_errors_are_ordered_on_outlier_heavy_inputs() -> None:
    n_cases = 0
    for seed, pattern in itertools.product(range(4), PATTERNS):
        w, x = weights(seed=seed), outlier_inputs(seed=100 + seed)
        found = errors_of(w, x.T @ x, norms_of(x), pattern)
        assert found["sparsegpt"] < found["wanda"] < found["magnitude"]
        assert found["sparsegpt"] < min(found["same mask"], found["no update"])
        n_cases += 1
    assert n_cases == 20


def test_errors_grow_with_sparsity_and_with_structure() -> None:
    w, x = weights(), outlier_inputs()
    arguments = (w, x.T @ x, norms_of(x))
    by_share = [errors_of(*arguments, Pattern(s)) for s in (0.0, 0.3, 0.5, 0.6, 0.7, 0.9)]
    by_pattern = [errors_of(*arguments, p) for p in (Pattern(0.5), *PATTERNS[3:])]
    for method in ("magnitude", "wanda", "sparsegpt"):
        for found in (by_share, by_pattern):
            values = [each[method] for each in found]
            assert values == sorted(values), method
        assert by_share[0][method] == 0


def test_inverse_factor() -> None:
    x = outlier_inputs()
    h = x.T @ x
    u, damping = inverse_factor(h)
    damped = h + damping * np.mean(np.diag(h)) * np.eye(len(h))
    assert damping == 0.01
    assert np.allclose(u, np.triu(u), atol=1e-12)
    assert np.allclose(u @ damped @ u.T, np.eye(len(h)), atol=1e-8)


def test_damping_rises_until_the_factor_exists() -> None:
    rng = np.random.default_rng(5)
    h = np.diag(rng.uniform(1, 2, 64))
    h[0, 1] = h[1, 0] = 3.0  # not positive definite: the eigenvalue below 0 is about −1.5
    _, damping = inverse_factor(h)
    assert damping == pytest.approx(1.0) or damping == pytest.approx(10.0)
    h[0, 1] = h[1, 0] = 1e6
    with pytest.raises(np.linalg.LinAlgError):
        inverse_factor(h)


def test_rounding_is_made_up_for() -> None:
    w, x = weights(), outlier_inputs()
    h = x.T @ x
    for name, pattern in itertools.product(("int8", "int4"), PATTERNS):
        rounder = Rounder(STORES[name], w.shape)
        pruned = sparsegpt(w, h, pattern, rounding=rounder)
        assert not pruned.weight[pruned.mask].any()
        _, stored = STORES[name].encode(pruned.weight, rounder.steps)
        assert np.array_equal(stored, pruned.weight)
        if name == "int4":
            _, after = STORES[name].encode(sparsegpt(w, h, pattern).weight)
            assert layer_error(w, pruned.weight, h) < layer_error(w, after, h)


def test_owl_keeps_the_mean_and_its_range() -> None:
    rng = np.random.default_rng(6)
    for _ in range(50):
        outliers = rng.uniform(0, 9, rng.integers(2, 40))
        found = owl_sparsities(list(outliers), 0.7)
        assert np.mean(found) == pytest.approx(0.7, abs=1e-6)
        assert max(found) - min(found) == pytest.approx(0.16)
        # The more outliers, the less is pruned.
        assert np.array_equal(np.argsort(found), np.argsort(-outliers))
    assert owl_sparsities([3.0, 3.0], 0.7) == [0.7, 0.7]


def test_outlier_share_pools_the_matrices_of_a_layer() -> None:
    flat = np.ones((10, 9), np.float32)
    peak = np.ones((1, 10), np.float32)
    peak[0, 3] = 1000
    assert outlier_share([flat]) == 0
    assert outlier_share([flat, peak]) == 1.0
