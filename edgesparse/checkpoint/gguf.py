"""GGUF: from a checked header to a `Checkpoint`, one file or a split set."""

from __future__ import annotations

import os
import re

import numpy as np

from edgesparse.checkpoint.experts import split_experts
from edgesparse.checkpoint.gguf_header import GgufHeader, MetadataValue, read_header
from edgesparse.checkpoint.gguf_types import resolve_types
from edgesparse.checkpoint.outliers import find_outliers
from edgesparse.checkpoint.powerinfer import adapt_powerinfer
from edgesparse.checkpoint.reader import Checkpoint
from edgesparse.checkpoint.slices import find_slices
from edgesparse.checkpoint.source import SourceFile, shown
from edgesparse.checkpoint.types import TensorInfo, TensorType, n_bytes_of
from edgesparse.checkpoint.verify import verify_cheaply
from edgesparse.errors import ModelFormatError

__all__ = ["open_gguf"]

_SPLIT_NAME = re.compile(r"^(?P<stem>.*)-(?P<part>\d{5})-of-(?P<count>\d{5})\.gguf$", re.DOTALL)
_MAX_PARTS = 1_000
_NORM_ROPE = frozenset({"llama", "bamboo"})  # the converter permuted their q and k rows


def open_gguf(path: str, *, i2s_layout: str = "auto", verify: bool = True) -> Checkpoint:
    """Open a GGUF file, or the first part of a split one.

    Parameters and errors as in `edgesparse.checkpoint.open_checkpoint`.
    """
    files: list[SourceFile] = []
    warnings: list[str] = []
    try:
        files.append(SourceFile(path))
        header = read_header(files[0])
        metadata = header.metadata
        tensors = _tensors(header, files[0], 0, i2s_layout, warnings)
        n_parts = _part_count(metadata, path)
        for part in range(1, n_parts):
            files.append(SourceFile(_part_path(path, part, n_parts)))
            _add_part(tensors, files[-1], part, n_parts, i2s_layout, warnings)
        _check_total(metadata, tensors, n_parts, path)
        _describe(metadata)
        if header.magic == b"PWRI":
            tensors = adapt_powerinfer(metadata, tensors, warnings, path)
        tensors = find_slices(metadata, tensors, path)
        tensors = find_outliers(metadata, tensors, path)
        tensors = split_experts(tensors, path)
        checkpoint = Checkpoint(
            *(path, "gguf", files, metadata, tensors, warnings),
            tokenizer_json=_tokenizer_json(metadata),
        )
        if verify:
            verify_cheaply(checkpoint)
        return checkpoint
    except BaseException:
        for file in files:
            file.close()
        raise


def _tokenizer_json(metadata: dict[str, MetadataValue]) -> bytes | None:
    """Return the tokenizer that came from a folder, where the file has no vocabulary of its own."""
    text = metadata.get("tokenizer.huggingface.json")
    if "tokenizer.ggml.tokens" in metadata or not isinstance(text, str):
        return None
    return text.encode()


def _describe(metadata: dict[str, MetadataValue]) -> None:
    """Add what the container implies but does not say, under keys of our own."""
    architecture = metadata.get("general.architecture", "")
    metadata.setdefault("edgesparse.rope_style", "norm" if architecture in _NORM_ROPE else "neox")


def _tensors(
    header: GgufHeader, file: SourceFile, index: int, i2s_layout: str, warnings: list[str]
) -> dict[str, TensorInfo]:
    """Give every record its type and check that the tensors tile the data section."""
    data_bytes = file.n_bytes - header.data_start
    if header.tensors and data_bytes < 0:
        raise _error("truncated", "data section", "the file ends inside the header", file)
    types = resolve_types(header, max(data_bytes, 0), i2s_layout, file.path)
    tensors: dict[str, TensorInfo] = {}
    expected = 0
    for raw, tensor_type in zip(header.tensors, types, strict=True):
        n_bytes = n_bytes_of(tensor_type, raw.shape, field=shown(raw.name))
        if raw.offset % header.alignment:
            detail = f"offset {raw.offset} is not a multiple of {header.alignment}"
            raise _error("layout", raw.name, detail, file)
        if raw.offset != expected:
            detail = f"starts at {raw.offset}, the tensor before it ends at {expected}"
            raise _error("layout", raw.name, detail, file)
        if raw.offset + n_bytes > data_bytes:
            detail = f"needs {n_bytes} bytes at {raw.offset}, the data section has {data_bytes}"
            raise _error("truncated", raw.name, detail, file)
        expected = -(-(raw.offset + n_bytes) // header.alignment) * header.alignment
        offset = header.data_start + raw.offset
        scale = _i2s_scale(file, raw.name, tensor_type, offset + n_bytes - 32)
        tensors[raw.name] = TensorInfo(
            raw.name, tensor_type, raw.shape, n_bytes, offset, index, scale
        )
    if data_bytes > expected + header.alignment:
        warnings.append(f"{data_bytes - expected} unexplained bytes behind the last tensor")
    return tensors


def _i2s_scale(file: SourceFile, name: str, tensor_type: TensorType, offset: int) -> float | None:
    """Read the float32 behind the codes of an I2_S tensor."""
    if not tensor_type.name.startswith("I2_S"):
        return None
    scale = float(np.frombuffer(file.read_at(offset, 4, name), dtype="<f4")[0])
    if not (np.isfinite(scale) and scale >= 0.0):
        raise _error("value", name, f"the I2_S scale is {scale}", file)
    return scale


def _part_count(metadata: dict[str, MetadataValue], path: str) -> int:
    count = metadata.get("split.count", 1)
    number = metadata.get("split.no", 0)
    if type(count) is not int or type(number) is not int or not 0 <= count <= _MAX_PARTS:
        raise ModelFormatError("range", "split.count", f"found {shown(count)}", path=shown(path))
    if count <= 1:
        return 1
    match = _SPLIT_NAME.match(os.path.basename(path))
    if match is None or int(match["count"]) != count:
        raise ModelFormatError(
            "path",
            "split.count",
            f"one of {count} parts, but the file name does not say so",
            path=shown(path, 400),
            advice="Name the parts name-00001-of-0000N.gguf.",
        )
    if number != 0 or int(match["part"]) != 1:
        raise ModelFormatError(
            "path",
            "split.no",
            f"this is part {number + 1} of {count}",
            path=shown(path, 400),
            advice="Open the part named -00001-of-.",
        )
    return count


def _part_path(path: str, part: int, n_parts: int) -> str:
    match = _SPLIT_NAME.match(os.path.basename(path))
    stem = match["stem"] if match else ""
    return os.path.join(os.path.dirname(path), f"{stem}-{part + 1:05d}-of-{n_parts:05d}.gguf")


def _add_part(
    tensors: dict[str, TensorInfo],
    file: SourceFile,
    part: int,
    n_parts: int,
    i2s_layout: str,
    warnings: list[str],
) -> None:
    header = read_header(file)
    if header.metadata.get("split.no") != part or header.metadata.get("split.count") != n_parts:
        raise _error("value", "split.no", f"expected part {part} of {n_parts}", file)
    for name, info in _tensors(header, file, part, i2s_layout, warnings).items():
        if name in tensors:
            raise _error("duplicate", name, "the tensor is in two parts", file)
        tensors[name] = info


def _check_total(
    metadata: dict[str, MetadataValue], tensors: dict[str, TensorInfo], n_parts: int, path: str
) -> None:
    total = metadata.get("split.tensors.count")
    if n_parts > 1 and total is not None and total != len(tensors):
        detail = f"says {shown(total)}, the parts hold {len(tensors)}"
        raise ModelFormatError("value", "split.tensors.count", detail, path=shown(path, 400))


def _error(kind: str, field: str, detail: str, file: SourceFile) -> ModelFormatError:
    return ModelFormatError(kind, shown(field), detail, path=shown(file.path, 400))
