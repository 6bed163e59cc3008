"""Which storage format a tensor gets, and why: the one table of the engine.

Exact means that stored values equal the file's, bit for bit. Whatever is rounded says so in the
choice's note, which `edgesparse inspect` prints.
"""

from __future__ import annotations

from edgesparse.checkpoint import TERNARY_TYPES, TensorInfo, TensorType
from edgesparse.checkpoint.source import shown
from edgesparse.errors import UnsupportedTensorType, UsageError
from edgesparse.formats.choice import Choice
from edgesparse.formats.grouped import grouped_choice
from edgesparse.formats.stored_slices import slices_of
from edgesparse.formats.weight import Format, Slices, Zeros

__all__ = ["BLOCK_SCALE_OFFSET", "KEPT", "SLICED", "choose", "is_roundable", "keeps_codes"]

_T = TensorType

BLOCK_SCALE_OFFSET = {
    _T.TQ1_0: 52,
    _T.TQ2_0: 64,
    _T.PTQ1_0: 26,
    _T.Q2_0: 0,
    _T.PQ2_0: 0,
    _T.Q1_0: 0,
}
"""Ternary types with a half-precision scale in every block, and where it stands there."""

KEPT = {
    _T.F32: Format.F32,
    _T.F16: Format.F16,
    _T.BF16: Format.BF16,
    _T.Q8_0: Format.Q8,
    _T.Q5_0: Format.Q8,
    _T.Q4_0: Format.Q4,
    _T.Q4_1: Format.Q4M,
    _T.Q5_1: Format.Q8M,
    _T.Q4_K: Format.Q4M,
    _T.Q5_K: Format.Q8M,
    **dict.fromkeys(BLOCK_SCALE_OFFSET, Format.Q8),
}
"""Block formats that keep a type's own codes (ternary types: when their block scales differ)."""
_TERNARY_SLICES = (Format.BS2, Slices(128, Zeros.POINTS))
SLICED = {
    _T.Q4_0: (Format.BS4, Slices(32)),
    _T.Q4_1: (Format.BS4, Slices(32, Zeros.OFFSETS)),
    _T.Q4_K: (Format.BS4, Slices(32, Zeros.OFFSETS, wide=True)),
    _T.Q2_0: (Format.BS2, Slices(64, Zeros.POINTS)),
    _T.Q1_0: (Format.BS1, Slices(128)),
    **dict.fromkeys((_T.PQ2_0, _T.TQ1_0, _T.TQ2_0, _T.PTQ1_0), _TERNARY_SLICES),
}
"""Bit slices that hold every number of a type, and how steps are stored there."""

_PER_16 = frozenset({_T.Q2_K, _T.Q3_K, _T.Q6_K})
_FLOATS = frozenset({_T.F32, _T.F16, _T.BF16})
_REQUANTISABLE = _FLOATS | _PER_16 | {_T.Q8_0, _T.Q5_0}
_ERROR = {Format.Q8: "1/254", Format.Q6: "1/62", Format.Q4: "1/14"}
"""Formats that numbers can be rounded to: half of a step, as a share of the block's largest."""
_ROUNDED_STEPS = "steps d·scale and dmin·minimum rounded to half: relative error at most 2^-11"


def keeps_codes(tensor_type: TensorType, fmt: Format) -> bool:
    """Tell whether `fmt` stores the codes of the file type, rather than newly rounded ones."""
    return KEPT.get(tensor_type) is fmt


def is_roundable(info: TensorInfo) -> bool:
    """Tell whether the numbers of a matrix can be rounded to q8, q6 or q4."""
    return info.type in _REQUANTISABLE and not info.ternarize


def choose(
    info: TensorInfo,
    *,
    uniform: bool = True,
    ternary: Format = Format.T2,
    override: Format | None = None,
    slices: bool | None = None,
    sort: bool = True,
) -> Choice:
    """Choose the storage format of a matrix.

    Parameters
    ----------
    info : TensorInfo
        The tensor in its file.
    uniform : bool
        Whether every row is ternary with one scale; only block-scaled types can say no.
    ternary : Format
        What ternary rows become: `Format.T2`, `Format.T2N`, `Format.T5` or `Format.BST`.
    override : Format, optional
        Wish of the user for this tensor: `Format.Q8`, `Format.Q6` or `Format.Q4` for floats, Q8_0,
        Q5_0, Q6_K, Q3_K and Q2_K.
    slices : bool, optional
        Whether what bit slices can hold exactly is stored so. By default GPTQ and its kin are, and
        ternary types whose block scales differ: in blocks these take more bytes than in the file.
    sort : bool
        Whether columns may be stored in another order than the file's, see `Weight.order`.

    Raises
    ------
    UnsupportedTensorType
        A type that holds no weights (integers, F64).
    UsageError
        An override that this type cannot follow.
    """
    if not ternary.has_row_scales:
        raise UsageError(
            f"{ternary.name} is not a ternary format.", advice="Choose t2, t2n, t5 or bst."
        )
    chosen = _default(info, uniform, ternary, slices, sort)
    if override is None or override is chosen.format:
        return chosen
    if not is_roundable(info) or override not in _ERROR:
        raise UsageError(
            f"{shown(info.name)}: {info.type.name} cannot be stored as {override.name}.",
            advice="Floats, Q8_0, Q5_0, Q6_K, Q3_K and Q2_K can become q8, q6 or q4.",
        )
    return Choice(override, _requantised(info.type, override), is_rounded=True)


def _default(
    info: TensorInfo, uniform: bool, ternary: Format, slices: bool | None, sort: bool
) -> Choice:
    sliced = SLICED.get(info.type)
    if info.ternarize and info.type in _FLOATS:
        return Choice(ternary, f"{info.type.name} masters rounded to ternary, scale mean|W|")
    if info.type in TERNARY_TYPES:
        if uniform:
            return Choice(ternary)
        note = "not ternary with one scale per row; codes kept exactly"
        if sliced is not None and slices is not False:
            return Choice(sliced[0], note, slices=sliced[1])
        return Choice(Format.Q8, note)
    if info.slices is not None:
        fmt = Format(Format.BS1 + info.slices.bits - 1)
        return Choice(fmt, slices=slices_of(info))
    if info.has_outliers:
        return Choice(Format.CSR, "outliers of the matrix beside it")
    if info.packed is not None:
        return grouped_choice(info.packed, slices=slices is not False, sort=sort)
    if sliced is not None and slices:
        return Choice(sliced[0], "as bit slices, as asked", slices=sliced[1])
    if info.type in (_T.Q4_K, _T.Q5_K):
        return Choice(KEPT[info.type], _ROUNDED_STEPS, is_rounded=True)
    if info.type in KEPT:
        return Choice(KEPT[info.type])
    if info.type in _PER_16:
        note = _requantised(info.type, Format.Q8) + " (its scales span 16)"
        return Choice(Format.Q8, note, is_rounded=True)
    raise UnsupportedTensorType(
        "unsupported",
        shown(info.name),
        f"{info.type.name} is read for auxiliary data, not as a weight matrix",
        advice="Convert the tensor to F32, F16 or a quantised type.",
    )


def _requantised(tensor_type: TensorType, fmt: Format) -> str:
    return (
        f"{tensor_type.name} rounded anew per 32 columns: "
        f"error at most about {_ERROR[fmt]} of their largest"
    )
