"""Weights as loaded against the `gguf` package's own dequantisation."""

from __future__ import annotations

from collections import Counter

import gguf
import numpy as np

import edgesparse
from edgesparse.formats import Weight, dequantize
from tests.models import tiny

K = {"Q4_K", "Q5_K", "Q6_K"}
FILES = [name for name in tiny.NAMES if name.endswith(".gguf") and "i2_s" not in name]
EXPECTED_TYPES = {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0"}


def bound(tensor: gguf.ReaderTensor, expected: np.ndarray) -> np.ndarray:
    """How far a value may move, per element: what the table of formats promises."""
    n_rows, k = expected.shape
    if tensor.tensor_type.name == "Q6_K":
        largest = np.abs(expected.reshape(n_rows, k // 32, 32)).max(axis=-1, keepdims=True)
        # half a step of the rounded-up scale, and the scale's own rounding over 127 steps
        allowed = np.broadcast_to(largest * (1 / 254 + 2.0**-11), (n_rows, k // 32, 32))
        return allowed.reshape(n_rows, k)
    # Two rounded numbers, d times scale times code and dmin times minimum: 2^-11 of each.
    blocks = tensor.data.reshape(n_rows, k // 256, -1)
    d = np.ascontiguousarray(blocks[..., 0:2]).view("<f2").astype(np.float32)
    dmin = np.ascontiguousarray(blocks[..., 2:4]).view("<f2").astype(np.float32)
    top = 15 if tensor.tensor_type.name == "Q4_K" else 31
    allowed = (np.abs(d) * 63 * top + np.abs(dmin) * 63) * 2.0**-11
    return np.repeat(allowed, 256, axis=-1).reshape(n_rows, k)


def stored_as(key: str) -> tuple[str, int | None]:
    """Name the tensor that holds a matrix, and its number in the stack of an expert's."""
    parts = key.split(".")
    if len(parts) < 5:
        return key, None
    return f"{'.'.join(parts[:3])}_exps.weight", int(parts[3])


def compare(weight: Weight, tensor: gguf.ReaderTensor, number: int | None) -> None:
    found = dequantize(weight)
    data = tensor.data if number is None else tensor.data[number]
    expected = gguf.dequantize(data, tensor.tensor_type)
    if expected.ndim == 1:  # the gate of a shared expert
        expected = expected[None]
    assert found.shape == expected.shape
    if tensor.tensor_type.name in K:
        moved = np.abs(found - expected)
        assert (moved <= bound(tensor, expected)).all()
        assert moved.max() > 0
    else:
        np.testing.assert_array_equal(found, expected)


def test_every_matrix() -> None:
    seen: Counter[str] = Counter()
    for name in FILES:
        tensors = {t.name: t for t in gguf.GGUFReader(tiny.path(name)).tensors}
        with edgesparse.load(tiny.path(name), threads=2, head="exact") as model:
            for key, weight in model.parameters.weights.items():
                name, number = stored_as(key)
                compare(weight, tensors[name], number)
                assert weight.source == tensors[name].tensor_type.name
                seen[weight.source] += 1
            for key, vector in model.parameters.vectors.items():
                np.testing.assert_array_equal(vector, tensors[key].data)
            matrices = {key for key, t in tensors.items() if len(t.shape) >= 2 or "inp" in key}
            assert {stored_as(key)[0] for key in model.parameters.weights} == matrices
    assert set(seen) == EXPECTED_TYPES | K
    assert sum(seen.values()) == 190


def test_ternary_weights_stay_ternary() -> None:
    for name in ("bitnet-tq1_0.gguf", "bitnet-tq2_0.gguf", "bitnet-i2_s.gguf", "bitnet-packed"):
        with edgesparse.load(
            tiny.path(name), threads=1, executor="reference", head="exact"
        ) as model:
            kinds = Counter(w.format.name for w in model.parameters.weights.values())
        assert (kinds["T2"], kinds["T2N"]) == (12, 2)
        assert sum(kinds.values()) == 15


def test_equal_ternary_matrices_are_stored_in_equal_bytes() -> None:
    def stored(name: str) -> dict[str, tuple[bytes, bytes]]:
        with edgesparse.load(tiny.path(name), threads=2, head="exact") as model:
            weights = model.parameters.weights
            return {k: (w.data.tobytes(), w.scales.tobytes()) for k, w in weights.items()}

    assert stored("bitnet-tq1_0.gguf") == stored("bitnet-tq2_0.gguf")
    assert stored("bitnet-i2_s.gguf") == stored("bitnet-packed")
