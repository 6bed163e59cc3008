"""Loaded weights as bit slices, where every value can be kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgesparse.errors import UsageError
from edgesparse.formats.bitslice import pack_bitslice, pack_ternary_slices
from edgesparse.formats.blocks import unpack_blocks
from edgesparse.formats.ternary import unpack_ternary
from edgesparse.formats.weight import BLOCK, Format, Weight

__all__ = ["as_slices"]


def as_slices(weight: Weight) -> Weight:
    """Store a ternary, q4 or q4m matrix as bit planes: the same values, other bytes.

    Ternary matrices become bst, whose products have the same bits as t2's; q4 and q4m become bs4,
    whose activations are int8 per block where theirs are int16.

    Parameters
    ----------
    weight : Weight
        In t2, t2n, t5, q4 or q4m.

    Raises
    ------
    UsageError
        Another format.
    """
    if weight.format.is_ternary:
        made = pack_ternary_slices(unpack_ternary(weight), weight.scales, name=weight.name)
        return replace(made, order=weight.order)
    if weight.format not in (Format.Q4, Format.Q4M):
        raise UsageError(f"{weight.format.name.lower()} cannot be stored as bit slices exactly.")
    codes, d, m = unpack_blocks(weight)
    stored = (codes + np.int8(8 if weight.format is Format.Q4 else 0)).view(np.uint8)
    made = pack_bitslice(
        *(stored, 4, BLOCK, d.astype(np.float32)),
        offsets=None if m is None else m.astype(np.float32),
        name=weight.name,
        source=weight.source,
        note=weight.note,
        is_rounded=weight.is_rounded,
    )
    return replace(made, order=weight.order)
