"""Exact counts of every method and pattern."""

import itertools

import numpy as np
import pytest

from edgesparse.compress.magnitude import magnitude_mask
from edgesparse.compress.patterns import Pattern, n_zeros, smallest
from edgesparse.compress.sparsegpt import BLOCK, sparsegpt
from edgesparse.compress.wanda import wanda_mask
from edgesparse.errors import UsageError

SHARES = (0.0, 0.1, 0.29, 0.5, 0.6, 0.7, 0.99)
SHAPES = ((1, 1), (3, 5), (33, 200), (16, 257))
PATTERNS = ("2:4", "4:8", "1:4", "8:16", "1:2")


def matrix(shape: tuple[int, int], kind: str) -> np.ndarray:
    rng = np.random.default_rng(shape[0] + shape[1])
    if kind == "equal":
        return np.ones(shape, np.float32)
    if kind == "coarse":  # many ties
        return rng.integers(-3, 4, shape).astype(np.float32)
    return rng.standard_normal(shape).astype(np.float32)


KINDS = ("normal", "coarse", "equal")


def hessian(k: int) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((300, k))
    return x.T @ x


def test_counts_are_exact_everywhere() -> None:
    n_cases = 0
    hessians = {k: hessian(k) for _, k in SHAPES}
    for shape, kind, share in itertools.product(SHAPES, KINDS, SHARES):
        w = matrix(shape, kind)
        pattern = Pattern(share)
        norms = np.abs(matrix((1, shape[1]), "normal"))[0]
        assert magnitude_mask(w, pattern).sum() == n_zeros(w.size, share)
        rows = wanda_mask(w, norms, pattern).sum(axis=1)
        assert (rows == n_zeros(shape[1], share)).all()
        mask = sparsegpt(w, hessians[shape[1]], pattern).mask
        for begin in range(0, shape[1], BLOCK):
            block = mask[:, begin : begin + BLOCK]
            assert block.sum() == n_zeros(block.size, share)
        n_cases += 1
    assert n_cases == 84


def test_every_group_keeps_exactly_n() -> None:
    n_cases = 0
    for text, kind, n_rows in itertools.product(PATTERNS, KINDS, (1, 5, 32)):
        pattern = Pattern.parse(text)
        w = matrix((n_rows, 144), kind)
        x = np.random.default_rng(2).standard_normal((300, 144))
        norms = np.sqrt((x * x).sum(axis=0)).astype(np.float32)
        masks = (
            magnitude_mask(w, pattern),
            wanda_mask(w, norms, pattern),
            sparsegpt(w, x.T @ x, pattern).mask,
        )
        for mask in masks:
            assert ((~mask).reshape(n_rows, -1, pattern.m).sum(axis=2) == pattern.n).all()
            n_cases += 1
    assert n_cases == 135


def test_ties_go_to_the_lower_index() -> None:
    assert smallest(np.array([2.0, 1, 1, 1, 0]), 3).tolist() == [False, True, True, False, True]


def test_products_that_are_whole_stay_whole() -> None:
    assert n_zeros(100, 0.29) == 29  # 28.999999999999996
    assert n_zeros(45_088_768, 0.7) == 31_562_137
    assert n_zeros(7, 0.5) == 3


@pytest.mark.parametrize("text", ["", "4", "0:4", "4:4", "5:4", "1:3", "2:4:8", "a:b", "1:256"])
def test_other_patterns_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no pattern"):
        Pattern.parse(text)


def test_ragged_groups_are_refused() -> None:
    with pytest.raises(UsageError, match="10 inputs"):
        Pattern.parse("4:8").check(10, "blk.0.ffn_up.weight")


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_sparsity_out_of_range(share: float) -> None:
    with pytest.raises(UsageError, match="sparsity"):
        Pattern(share)
