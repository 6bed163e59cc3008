"""Write a GGUF file's ternary matrices in another type, everything else as it is.

    python bench/retype.py IN --type tq2_0|i2_s|tq1_0|iq2_bn|q8_0 [--architecture NAME] --out FILE

Engines that only read their own ternary type get the same weights, head and vocabulary this way;
as Q8_0 a ternary model is a dense one, with the numbers it was trained to.
By default the architecture gets the name by which the type's engine knows BitNet's graph.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

if not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.gguf_packing import HEADS, TERNARY, BlockType, Bytes
from bench.gguf_stream import Tensor, Value, write_gguf
from edgesparse.checkpoint import (
    TERNARY_TYPES,
    Checkpoint,
    StringArray,
    TensorInfo,
    TensorType,
    open_checkpoint,
    ternary_chunks,
)
from edgesparse.errors import EdgesparseError
from edgesparse.whole_file import require_output

__all__ = ["KINDS", "retype"]

_COPY_BYTES = 8 << 20
_COPIED = {
    **{TensorType.F32: 0, TensorType.F16: 1, TensorType.Q4_0: 2, TensorType.Q4_1: 3},
    **{TensorType.Q8_0: 8, TensorType.Q4_K: 12, TensorType.Q6_K: 14, TensorType.BF16: 30},
}
KINDS = {**TERNARY, "q8_0": HEADS["q8_0"]}
_BITNET = {
    **dict.fromkeys(("tq1_0", "tq2_0", "q8_0"), "bitnet"),
    **dict.fromkeys(("i2_s", "iq2_bn"), "bitnet-b1.58"),
}


def retype(source: Path, out: Path, kind: str, architecture: str | None = None) -> int:
    """Write `source` to `out` with its ternary matrices as `kind`; return the size in bytes.

    Raises
    ------
    ValueError
        A tensor or a metadata value cannot be carried over.
    EdgesparseError
        The source cannot be read, or `out` is the source or cannot be written.
    """
    if source.exists():
        require_output(out, source, replace=True)
    with open_checkpoint(source) as checkpoint:
        old = checkpoint.get_str("general.architecture")
        new = architecture or (_BITNET[kind] if old.startswith("bitnet") else old)
        metadata: dict[str, Value] = {}
        for key, value in checkpoint.metadata.items():
            if key.startswith("edgesparse."):  # derived by the reader
                continue
            renamed = f"{new}.{key[len(old) + 1 :]}" if key.startswith(f"{old}.") else key
            metadata[renamed] = _value(key, value)
        metadata["general.architecture"] = new
        metadata["general.file_type"] = KINDS[kind].file_type
        tensors = [_tensor(checkpoint, info, KINDS[kind]) for info in checkpoint.tensors.values()]
        return write_gguf(out, metadata, tensors)


def _value(key: str, value: object) -> Value:
    if isinstance(value, StringArray):
        return value.to_list()
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        return value.astype(np.int32)
    if isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"{key}: a value of type {type(value).__name__} is not carried over")


def _tensor(checkpoint: Checkpoint, info: TensorInfo, kind: BlockType) -> Tensor:
    name = info.name
    if info.type in TERNARY_TYPES:
        n_rows, k = info.shape
        return Tensor(
            name,
            kind.type_id,
            (n_rows, k),
            kind.n_bytes(n_rows, k),
            lambda: _packed(checkpoint, name, kind),
        )
    if info.type not in _COPIED:
        raise ValueError(f"{name}: {info.type.name} is not carried over")
    return Tensor(
        name, _COPIED[info.type], tuple(info.shape), info.n_bytes, lambda: _copied(checkpoint, info)
    )


def _copied(checkpoint: Checkpoint, info: TensorInfo) -> Iterator[Bytes]:
    for start in range(0, info.n_bytes, _COPY_BYTES):
        yield checkpoint.read_range(info.name, start, min(start + _COPY_BYTES, info.n_bytes))


def _packed(checkpoint: Checkpoint, name: str, kind: BlockType) -> Iterator[Bytes]:
    step: float | None = None
    for chunk in ternary_chunks(checkpoint, name):
        if chunk is None:
            raise ValueError(f"{name}: not ternary with one scale per row")
        _, _, codes, scales = chunk
        live = np.unique(scales[scales != 0]) if scales.ndim else np.atleast_1d(scales)
        if len(live) > 1 or (step is not None and len(live) and float(live[0]) != step):
            raise ValueError(f"{name}: its rows have different scales")
        step = float(live[0]) if len(live) else step
        yield np.ascontiguousarray(kind.pack(codes, step or 0.0)).reshape(-1)
    if kind.tail_bytes:
        tail = np.zeros(kind.tail_bytes // 4, "<f4")
        tail[0] = step or 0.0
        yield tail.view(np.uint8)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, metavar="IN")
    parser.add_argument("--type", choices=KINDS, required=True)
    parser.add_argument("--architecture", help="general.architecture, if not the usual one")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    o = parser.parse_args(arguments)
    try:
        n_bytes = retype(o.source, o.out, o.type, o.architecture)
    except ValueError as error:
        parser.error(str(error))
    except EdgesparseError as error:
        sys.exit(f"retype: {error}")
    except OSError as error:
        sys.exit(f"retype: {o.out}: cannot be written ({error.strerror})")
    print(f"{o.out}: {n_bytes / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
