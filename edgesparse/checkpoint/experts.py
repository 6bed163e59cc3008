"""Experts that GGUF stores stacked in one tensor become matrices of their own."""

from __future__ import annotations

import re

from edgesparse.checkpoint.source import shown
from edgesparse.checkpoint.types import TensorInfo, layout_of
from edgesparse.errors import ModelFormatError

__all__ = ["MAX_EXPERTS", "split_experts"]

MAX_EXPERTS = 1024
"""Experts of one layer, at most; `ES_MAX_EXPERTS`."""

_STACKED = re.compile(r"^(blk\.\d{1,4}\.ffn_(?:gate|up|down))_exps\.weight$", re.ASCII)
_SHARED_GATE = re.compile(r"^blk\.\d{1,4}\.ffn_gate_inp_shexp\.weight$", re.ASCII)


def split_experts(tensors: dict[str, TensorInfo], path: str) -> dict[str, TensorInfo]:
    """Replace ``blk.0.ffn_up_exps.weight`` by ``blk.0.ffn_up.0.weight`` and so on.

    Older files have the matrices of their experts under those names already. The gate of a shared
    expert, a vector in files, becomes a matrix of one row.

    Parameters
    ----------
    tensors : dict of str to TensorInfo
        As the file names them.
    path : str
        File, for messages.

    Raises
    ------
    ModelFormatError
        ``shape`` for a stack that is none or has too many experts, ``layout`` for types whose
        experts have no bytes of their own, ``duplicate``.
    """
    found: dict[str, TensorInfo] = {}
    for info in tensors.values():
        parts = [info]
        match = _STACKED.match(info.name)
        if match is not None:
            parts = _parts(info, match[1], path)
        elif _SHARED_GATE.match(info.name) and len(info.shape) == 1:
            parts = [_renamed(info, info.name, (1, *info.shape), info.n_bytes, info.offset)]
        for part in parts:
            if part.name in found:
                raise _error("duplicate", part.name, f"{shown(info.name)} holds it too", path)
            found[part.name] = part
    return found


def _parts(info: TensorInfo, stem: str, path: str) -> list[TensorInfo]:
    if len(info.shape) != 3 or not 1 <= info.shape[0] <= MAX_EXPERTS or 0 in info.shape:
        detail = f"expected 1 to {MAX_EXPERTS} stacked matrices, found shape {shown(info.shape)}"
        raise _error("shape", info.name, detail, path)
    n_experts, n_rows, k = info.shape
    layout = layout_of(info.type)
    if layout.tensor_tail or n_rows % layout.row_group:
        detail = f"{info.type.name} matrices cannot be stacked: their scale is the tensor's"
        raise _error("layout", info.name, detail, path)
    n_bytes = info.n_bytes // n_experts
    return [
        _renamed(info, f"{stem}.{e}.weight", (n_rows, k), n_bytes, info.offset + e * n_bytes)
        for e in range(n_experts)
    ]


def _renamed(
    info: TensorInfo, name: str, shape: tuple[int, ...], n_bytes: int, offset: int
) -> TensorInfo:
    return TensorInfo(name, info.type, shape, n_bytes, offset, info.file, info.scale)


def _error(kind: str, field: str, detail: str, path: str) -> ModelFormatError:
    return ModelFormatError(kind, shown(field), detail, path=shown(path, 400))
