"""Block matrices in formats of another arrangement, beside the same ones in tiles."""

from __future__ import annotations

import numpy as np

from edgesparse.formats import Format, Weight, pack_blocks, unpack_blocks
from edgesparse.formats.blocks import has_minimum
from edgesparse.formats.weight import storage_bytes
from tests.portable.packing import random_weight

LOWEST = {Format.Q4: -8, Format.Q4M: 0}
"""Least code of the formats of nibbles."""


def random_blocks(
    rng: np.random.Generator, fmt: Format, shape: tuple[int, int]
) -> tuple[Weight, Weight]:
    """Give the same matrix in a format and in the tiled format with the same codes and steps."""
    low = LOWEST.get(fmt.row_format, -128)
    high = low + 16 if fmt.row_format in LOWEST else 128
    codes = rng.integers(low, high, shape).astype(np.int8)
    d = rng.normal(size=(shape[0], -(-shape[1] // 32))).astype(np.float16)
    m = rng.normal(size=d.shape).astype(np.float16) if has_minimum(fmt) else None
    none = np.zeros(0, np.float32)
    found = [
        Weight("w", kind, *shape, pack_blocks(codes, d, m, kind), none)
        for kind in (fmt, fmt.row_format)
    ]
    for weight in found:
        back = unpack_blocks(weight)
        assert weight.data.nbytes == storage_bytes(weight.format, *shape)
        np.testing.assert_array_equal(back[0], codes)
        np.testing.assert_array_equal(back[1], d)
    return found[0], found[1]


def check_picture(rng: np.random.Generator, fmt: Format, shape: tuple[int, int]) -> Weight:
    """Hold unpacking against the tests' own packer, one loop per picture; give the weight."""
    weight, (codes, d, m) = random_weight(rng, fmt, *shape)
    found = unpack_blocks(weight)
    np.testing.assert_array_equal(found[0], codes[:, : shape[1]])
    np.testing.assert_array_equal(found[1], d)
    assert (m is None) == (found[2] is None)
    if m is not None:
        np.testing.assert_array_equal(found[2], m)
    rows = np.array([shape[0] - 1, 0, shape[0] // 2])
    np.testing.assert_array_equal(unpack_blocks(weight, rows)[0], codes[rows, : shape[1]])
    return weight
