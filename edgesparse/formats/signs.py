"""`SignPlanes`: the signs of a matrix, one bit each, for predicting which outputs are negative.

Made from a weight in any storage format. A row is a plane of signs, bit i of it (byte i / 8, bit
i mod 8) set where weight i is negative, padded with zeros to whole runs of 32 bytes. A ternary
matrix gets a second plane behind the first in every row: set where the weight is not 0, because
nearly half of such weights are 0 and would vote otherwise. A float -0 counts as negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgesparse.formats.dequantize import dequantize
from edgesparse.formats.ternary import unpack_ternary
from edgesparse.formats.weight import Weight

__all__ = ["SignPlanes", "pack_signs", "plane_bytes", "sign_planes"]

U8 = npt.NDArray[np.uint8]

_RUN_BITS = 256
_SLICE_ROWS = 512


@dataclass(frozen=True, eq=False)
class SignPlanes:
    """Signs of an (n_rows, k) matrix.

    Attributes
    ----------
    name : str
        Of the matrix.
    n_rows, k : int
        Its shape.
    masked : bool
        Whether there is a plane of non-zeros.
    data : uint8 ndarray, shape (n_rows, n_planes * plane_bytes(k))
    n_weights : int32 ndarray, shape (n_rows,)
        Weights that vote: k, or the row's non-zeros.
    """

    name: str
    n_rows: int
    k: int
    masked: bool
    data: U8
    n_weights: npt.NDArray[np.int32]

    @property
    def n_bytes(self) -> int:
        """Bytes read when every row votes."""
        return self.data.nbytes


def plane_bytes(k: int) -> int:
    """Bytes of one row of one plane."""
    return -(-k // _RUN_BITS) * _RUN_BITS // 8


def pack_signs(bits: npt.NDArray[np.bool_]) -> U8:
    """Pack (n, k) booleans into rows of a plane, (n, plane_bytes(k)) uint8."""
    packed = np.zeros((bits.shape[0], plane_bytes(bits.shape[1])), np.uint8)
    bytes_ = np.packbits(bits, axis=1, bitorder="little")
    packed[:, : bytes_.shape[1]] = bytes_
    return packed


def sign_planes(weight: Weight) -> SignPlanes:
    """Take the signs of a weight."""
    masked = weight.format.is_ternary
    width = plane_bytes(weight.k)
    data = np.empty((weight.n_rows, width * (2 if masked else 1)), np.uint8)
    n_weights = np.full(weight.n_rows, weight.k, np.int32)
    for begin in range(0, weight.n_rows, _SLICE_ROWS):
        rows = np.arange(begin, min(begin + _SLICE_ROWS, weight.n_rows))
        if masked:
            codes = unpack_ternary(weight, rows)
            data[rows, :width] = pack_signs(codes < 0)
            data[rows, width:] = pack_signs(codes != 0)
            n_weights[rows] = np.count_nonzero(codes, axis=1)
        else:
            data[rows] = pack_signs(np.signbit(dequantize(weight, rows)))
    return SignPlanes(weight.name, weight.n_rows, weight.k, masked, data, n_weights)
