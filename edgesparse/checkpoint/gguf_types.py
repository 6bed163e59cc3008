"""GGUF type ids: which storage type a number means, decided by byte size where engines collide.

Several engines gave the same number to different types. The distance to the next tensor tells
them apart; because rounding to the alignment can make tiny tensors tie, the decision is made per
id over the whole file: a candidate stays only if it fits every tensor of that id.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from edgesparse.checkpoint.gguf_header import GgufHeader, RawTensor
from edgesparse.checkpoint.source import shown
from edgesparse.checkpoint.types import MAX_TENSOR_BYTES, TensorType, n_bytes_of
from edgesparse.errors import ModelFormatError, UnsupportedTensorType, UsageError

__all__ = ["I2S_LAYOUTS", "resolve_types", "type_id"]

_T = TensorType
_PLAIN: dict[int, TensorType] = {
    0: _T.F32,
    1: _T.F16,
    2: _T.Q4_0,
    3: _T.Q4_1,
    6: _T.Q5_0,
    7: _T.Q5_1,
    8: _T.Q8_0,
    10: _T.Q2_K,
    11: _T.Q3_K,
    12: _T.Q4_K,
    13: _T.Q5_K,
    14: _T.Q6_K,
    24: _T.I8,
    25: _T.I16,
    26: _T.I32,
    27: _T.I64,
    28: _T.F64,
    30: _T.BF16,
    34: _T.TQ1_0,
    35: _T.TQ2_0,
    41: _T.Q1_0,
    143: _T.PTQ1_0,
}

_NUMBERS = {tensor_type: number for number, tensor_type in _PLAIN.items()}


def type_id(tensor_type: TensorType) -> int:
    """Return GGUF's number of a type that has one number and one meaning.

    Raises
    ------
    UsageError
        Writers of such a type do not agree.
    """
    if tensor_type not in _NUMBERS:
        raise UsageError(f"{tensor_type.name} cannot be written to a GGUF file.")
    return _NUMBERS[tensor_type]


I2S_LAYOUTS = {
    "128x32": TensorType.I2_S_128X32,
    "64x16": TensorType.I2_S_64X16,
    "row4": TensorType.I2_S_ROW4,
}

_TILED = (
    "{} is tuned to one machine's kernel configuration and cannot be decoded elsewhere. "
    "Use the I2_S file of the same model, or convert from safetensors: `edgesparse convert`."
)
_USE_K = "Use a Q4_K, Q6_K or Q8_0 file of the same model."
_INTERLEAVED = "It is interleaved for one CPU and withdrawn: use the plain Q4_0 file."
_RUN_TIME = "It exists only at run time and never belongs in a file."
_HEADERLESS = "An early ik_llama.cpp file without row scales: convert the model again."

_REFUSED: dict[int, tuple[str, str]] = {
    4: ("Q4_2", "The type was removed: convert the model again."),
    5: ("Q4_3", "The type was removed: convert the model again."),
    9: ("Q8_1", _RUN_TIME),
    15: ("Q8_K", _RUN_TIME),
    16: ("IQ2_XXS", _USE_K),
    17: ("IQ2_XS", _USE_K),
    18: ("IQ3_XXS", _USE_K),
    19: ("IQ1_S", _USE_K),
    20: ("IQ4_NL", _USE_K),
    21: ("IQ3_S", _USE_K),
    22: ("IQ2_S", _USE_K),
    23: ("IQ4_XS", _USE_K),
    29: ("IQ1_M", _USE_K),
    31: ("Q4_0_4_4", _INTERLEAVED),
    32: ("Q4_0_4_8", _INTERLEAVED),
    33: ("Q4_0_8_8", _INTERLEAVED),
    37: ("I8_S", _RUN_TIME),
    335: ("IQ2_BN_R4", "Use the IQ2_BN file of the same model."),
}


class _Candidate(NamedTuple):
    """One meaning of an ambiguous id: its size, and its type or the reason to refuse it."""

    n_bytes: Callable[[tuple[int, ...]], int | None]
    type: TensorType | None = None
    name: str = ""
    advice: str = ""


def resolve_types(
    header: GgufHeader, data_bytes: int, i2s_layout: str, path: str
) -> list[TensorType]:
    """Give the storage type of every tensor of a file.

    Parameters
    ----------
    header : GgufHeader
        Checked header.
    data_bytes : int
        Length of the data section.
    i2s_layout : {"auto", "128x32", "64x16", "row4"}
        Packing of I2_S tensors; nothing in a file tells, ``auto`` means what all published files
        use, ``128x32``.

    Raises
    ------
    UnsupportedTensorType
        The file holds a type that is known but not read, or an unknown id.
    ModelFormatError
        ``layout`` when an I2_S matrix has a shape that the packing cannot hold.
    """
    ambiguous = _ambiguous(I2S_LAYOUTS.get(i2s_layout, TensorType.I2_S_128X32))
    chosen: dict[int, TensorType] = {}
    for type_id in sorted({raw.type_id for raw in header.tensors}):
        if type_id in _PLAIN:
            chosen[type_id] = _PLAIN[type_id]
            continue
        first = next(raw for raw in header.tensors if raw.type_id == type_id)
        if type_id in _REFUSED:
            raise _refusal(first, path, *_REFUSED[type_id])
        if type_id not in ambiguous:
            detail = f"unknown tensor type {type_id}; {_guess(header, first, data_bytes)}"
            raise UnsupportedTensorType(
                "unsupported", shown(first.name), detail, path=shown(path, 400), advice=_USE_K
            )
        chosen[type_id] = _decide(header, data_bytes, type_id, ambiguous[type_id], path)
    return [chosen[raw.type_id] for raw in header.tensors]


def _refusal(raw: RawTensor, path: str, name: str, advice: str) -> UnsupportedTensorType:
    detail = f"tensor type {name} (id {raw.type_id}) is not read"
    return UnsupportedTensorType(
        "unsupported", shown(raw.name), detail, path=shown(path, 400), advice=advice
    )


def _distances(header: GgufHeader, data_bytes: int) -> list[int]:
    ends = [raw.offset for raw in header.tensors[1:]] + [data_bytes]
    return [end - raw.offset for raw, end in zip(header.tensors, ends, strict=True)]


def _decide(
    header: GgufHeader, data_bytes: int, type_id: int, candidates: list[_Candidate], path: str
) -> TensorType:
    members = [
        (raw, distance, index == len(header.tensors) - 1)
        for index, (raw, distance) in enumerate(
            zip(header.tensors, _distances(header, data_bytes), strict=True)
        )
        if raw.type_id == type_id
    ]
    for candidate in candidates:
        if all(
            _fits(candidate.n_bytes(raw.shape), distance, last, header.alignment)
            for raw, distance, last in members
        ):
            if candidate.type is None:
                raise _refusal(members[0][0], path, candidate.name, candidate.advice)
            return candidate.type
    for raw, _, _ in members:
        if type_id == 36 and candidates[0].type is not None:
            n_bytes_of(candidates[0].type, raw.shape, field=shown(raw.name))  # says what is wrong
    first, distance, _ = members[0]
    names = ", ".join(candidate.name or str(candidate.type) for candidate in candidates)
    raise UnsupportedTensorType(
        "unsupported",
        shown(first.name),
        f"id {type_id} may mean {names}; none of them fits {shown(first.shape)} "
        f"in {distance} bytes",
        path=shown(path, 400),
        advice="The file is damaged or of an unknown kind: convert the model again.",
    )


def _fits(n_bytes: int | None, distance: int, last: bool, alignment: int) -> bool:
    if n_bytes is None:
        return False
    padded = -(-n_bytes // alignment) * alignment
    return n_bytes <= distance <= padded if last else distance == padded


def _guess(header: GgufHeader, raw: RawTensor, data_bytes: int) -> str:
    distance = _distances(header, data_bytes)[header.tensors.index(raw)]
    n_weights = _n_weights(raw.shape)
    bits = f"{8 * distance / n_weights:.2f} bits per weight" if n_weights > 0 else "no weights"
    return f"{distance} bytes for shape {shown(raw.shape)}, about {bits}"


def _n_weights(shape: tuple[int, ...]) -> int:
    n_weights = 1
    for dim in shape:
        n_weights *= dim
    return n_weights


def _sized(tensor_type: TensorType) -> _Candidate:
    def n_bytes(shape: tuple[int, ...]) -> int | None:
        try:
            return n_bytes_of(tensor_type, shape)
        except ModelFormatError:
            return None

    return _Candidate(n_bytes, tensor_type, tensor_type.name)


def _ratio(name: str, advice: str, numerator: int, denominator: int, tail: int = 0) -> _Candidate:
    """Make a candidate to refuse that takes ``numerator / denominator`` bytes per weight."""

    def n_bytes(shape: tuple[int, ...]) -> int | None:
        total = _n_weights(shape) * numerator
        if total % denominator or total > MAX_TENSOR_BYTES:
            return None
        return total // denominator + tail

    return _Candidate(n_bytes, None, name, advice)


def _tl2() -> _Candidate:
    def n_bytes(shape: tuple[int, ...]) -> int | None:
        n_cols, n_rows = shape[-1], _n_weights(shape[:-1])
        if n_cols < 256 or n_rows * n_cols > MAX_TENSOR_BYTES:
            return None
        bits = (n_cols - 256) * n_rows // 3 * 5 + 256 * n_rows // 2 * 4
        return -(-(bits // 8) // 32) * 32 + 32

    return _Candidate(n_bytes, None, "TL2", _TILED.format("TL2"))


def _ambiguous(i2s: TensorType) -> dict[int, list[_Candidate]]:
    """List the meanings of each contested id, the likeliest first."""
    return {
        36: [_sized(i2s), _ratio("IQ4_NL_4_4", _INTERLEAVED, 9, 16)],
        38: [
            _ratio("TL1", _TILED.format("TL1"), 1, 4, 32),
            _ratio("IQ4_NL_8_8", _INTERLEAVED, 9, 16),
        ],
        39: [_ratio("MXFP4", _USE_K, 17, 32), _tl2()],
        40: [
            _ratio("NVFP4", _USE_K, 9, 16),
            _ratio("early Q1_0 (group 32)", "Use the Q1_0 (group 128) file.", 3, 16),
        ],
        42: [_sized(_T.Q2_0), _sized(_T.PQ2_0), _tl2()],
        134: [_sized(_T.IQ1_BN), _ratio("IQ1_BN without row scales", _HEADERLESS, 13, 64)],
        135: [_sized(_T.IQ2_BN), _ratio("IQ2_BN without row scales", _HEADERLESS, 1, 4)],
        142: [_sized(_T.PQ2_0)],
    }
