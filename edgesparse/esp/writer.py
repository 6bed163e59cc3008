"""Writes a loaded model as a pre-packed file: its arrays as they lie in memory, its frozen plan.

The plan is the C structs of edgesparse.h with file offsets for pointers, behind a head that says
how large these structs are: a runner built with other structs refuses it.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgesparse import _native
from edgesparse.errors import EdgesparseError, UsageError
from edgesparse.esp.layout import (
    BLOB,
    ENTRY,
    HEADER,
    INDEX,
    METADATA,
    PLAN,
    TOKENIZER_JSON,
    TOKENIZER_MODEL,
    Section,
    pack_table,
    place,
)
from edgesparse.esp.metadata import pack_metadata
from edgesparse.executors.native import NativeExecutor
from edgesparse.formats.load import load_vector
from edgesparse.whole_file import replacing

if TYPE_CHECKING:
    from edgesparse.checkpoint import Checkpoint
    from edgesparse.model import Model

__all__ = ["write_esp"]

PLAN_VERSION = 2
_HEAD = struct.Struct("<4I10i")
"""Version, bytes of es_op and es_weight, 0; then the numbers of es_plan in their order."""
_COUNTS = (
    "n_ops",
    "n_buffers",
    "n_weights",
    "n_layers",
    "n_ctx",
    "n_vocab",
    "max_tokens",
    "kv_dim",
)
_OP_POINTERS = ("norm", "norm_k", "rope", "coarse", "coarse_scales", "factors", "experts", "order")
_OUTPUT_POINTERS = ("bias", "live_factors", "limits")
_SAMPLING = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repeat_penalty": "penalty_repeat",
    "repeat_last_n": "penalty_last_n",
}
_STEP = 16 << 20


def write_esp(model: Model, checkpoint: Checkpoint, path: str | os.PathLike[str]) -> int:
    """Write `model`, loaded from `checkpoint` on the native executor, to `path`.

    Returns
    -------
    int
        Bytes of the file.

    Raises
    ------
    UsageError
        The model runs on another executor, or has a two-stage head, thresholds or predictions.
    EdgesparseError
        The file cannot be written; nothing of it stays.
    """
    executor, parameters = model.engine.executor, model.parameters
    if not isinstance(executor, NativeExecutor):
        raise UsageError("only a model on the native executor can be pre-packed.")
    if parameters.coarse is not None or parameters.signs:
        raise UsageError(
            "a pre-packed file holds neither a coarse head nor sign planes.",
            advice="Leave --head two-stage and --predict out; --head two-stage can be asked for "
            "when the file is run.",
        )
    c_plan, arrays = executor.frozen_plan()
    blobs: dict[int, npt.NDArray[Any]] = {}
    for array in arrays:
        blobs.setdefault(array.ctypes.data, array)
    vectors = dict(parameters.vectors)
    if "rope_freqs.weight" in checkpoint.tensors:
        vectors["rope_freqs.weight"] = load_vector(checkpoint, "rope_freqs.weight")
    for array in vectors.values():
        blobs.setdefault(array.ctypes.data, array)
    numbers = {address: i for i, address in enumerate(blobs)}
    small = {
        INDEX: _index(model, vectors, numbers),
        METADATA: pack_metadata(_metadata(model, checkpoint)),
        PLAN: b"",
    }
    if checkpoint.tokenizer_json is not None:
        small[TOKENIZER_JSON] = checkpoint.tokenizer_json
    if checkpoint.tokenizer_model is not None:
        small[TOKENIZER_MODEL] = checkpoint.tokenizer_model
    # The plan's length is known before the offsets in it are.
    small[PLAN] = _plan(c_plan, dict.fromkeys(blobs, 0))
    bodies: list[Any] = [*blobs.values(), *small.values()]
    sizes = [memoryview(body).nbytes for body in bodies]
    offsets = place(sizes)
    bodies[len(blobs) + list(small).index(PLAN)] = _plan(
        c_plan, dict(zip(blobs, offsets, strict=False))
    )
    names = [BLOB] * len(blobs) + list(small)
    target = Path(path)
    try:
        _require_space(target, offsets[-1] + sizes[-1])
        with replacing(target) as file:
            file.seek(HEADER.size + ENTRY.size * len(names))
            sections = []
            for name, body, offset, size in zip(names, bodies, offsets, sizes, strict=True):
                file.write(bytes(offset - file.tell()))
                view, crc = memoryview(body).cast("B"), 0
                for begin in range(0, size, _STEP):
                    crc = zlib.crc32(view[begin : begin + _STEP], crc)
                    file.write(view[begin : begin + _STEP])
                sections.append(Section(name, offset, size, crc))
            file.seek(0)
            file.write(pack_table(sections))
    except OSError as error:
        raise EdgesparseError(f"{target}: cannot be written ({error.strerror}).") from None
    return offsets[-1] + sizes[-1]


def _require_space(target: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if n_bytes > free:
        raise EdgesparseError(
            f"{target}: the file needs {n_bytes / 1e6:.0f} MB, {free / 1e6:.0f} MB are free there.",
            advice="Choose another place.",
        )


def _index(model: Model, vectors: dict[str, Any], numbers: dict[int, int]) -> bytes:
    weights = []
    for name, w in model.parameters.weights.items():
        record: dict[str, Any] = {
            "name": name,
            "format": w.format.name,
            "n_rows": w.n_rows,
            "k": w.k,
            "data": numbers[w.data.ctypes.data],
            "source": w.source,
            "note": w.note,
            "is_rounded": w.is_rounded,
        }
        if len(w.scales):
            record["scales"] = numbers[w.scales.ctypes.data]
        if w.order is not None:
            record["order"] = numbers[w.order.ctypes.data]
        if w.slices is not None:
            record |= {
                "group": w.slices.group,
                "zeros": int(w.slices.zeros),
                "wide": int(w.slices.wide),
            }
        weights.append(record)
    listed = [
        {"name": name, "data": numbers[v.ctypes.data], "length": v.size}
        for name, v in vectors.items()
    ]
    return json.dumps({"weights": weights, "vectors": listed}).encode()


def _metadata(model: Model, checkpoint: Checkpoint) -> dict[str, Any]:
    """Add what stood beside the weights: recommended settings, offsets of norms."""
    metadata = dict(checkpoint.metadata)
    if "edgesparse.norm_offset" in metadata:
        metadata["edgesparse.norm_offset"] = 0.0  # the stored norms have it already
    for name, value in model.info.recommended.changes.items():
        metadata.setdefault(f"general.sampling.{_SAMPLING[name]}", value)
    return metadata


def _plan(c_plan: Any, offsets: dict[int, int]) -> bytes:
    ffi = _native.ffi()

    def moved(pointer: Any) -> Any:
        address = int(ffi.cast("uintptr_t", pointer))
        return ffi.cast(ffi.typeof(pointer), offsets[address] if address else 0)

    ops = ffi.new("es_op[]", c_plan.n_ops)
    weights = ffi.new("es_weight[]", c_plan.n_weights)
    ffi.memmove(ops, c_plan.ops, ffi.sizeof(ops))
    ffi.memmove(weights, c_plan.weights, ffi.sizeof(weights))
    for op in ops:
        for field in _OP_POINTERS:
            setattr(op, field, moved(getattr(op, field)))
        for output in op.outputs:
            for field in _OUTPUT_POINTERS:
                setattr(output, field, moved(getattr(output, field)))
    for weight in weights:
        weight.data, weight.scales = moved(weight.data), moved(weight.scales)
    counts = [getattr(c_plan, name) for name in _COUNTS]
    sizes = (PLAN_VERSION, ffi.sizeof("es_op"), ffi.sizeof("es_weight"), 0)
    head = _HEAD.pack(*sizes, *counts, c_plan.cache_type_k, c_plan.cache_type_v)
    widths = np.frombuffer(ffi.buffer(c_plan.widths, 4 * c_plan.n_buffers), np.int32)
    return head + bytes(ffi.buffer(ops)) + bytes(ffi.buffer(weights)) + widths.tobytes()
