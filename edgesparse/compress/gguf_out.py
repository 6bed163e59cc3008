"""`write_gguf`: a GGUF file with another model's metadata and tokenizer, and tensors of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint import Checkpoint, TensorInfo
from edgesparse.checkpoint.gguf_header import MAX_STRING_BYTES
from edgesparse.checkpoint.gguf_types import type_id
from edgesparse.checkpoint.strings import StringArray
from edgesparse.config import ModelConfig
from edgesparse.errors import UsageError
from edgesparse.formats.load import load_vector
from edgesparse.loading import load_vectors
from edgesparse.plan.plan import Plan
from edgesparse.whole_file import replacing_path

__all__ = ["NewTensor", "copied", "model_tensors", "norm_rope_rows", "write_gguf"]

Rows: TypeAlias = "npt.NDArray[np.intp] | slice"
MakeMatrix: TypeAlias = "Callable[[str, TensorInfo, Rows], NewTensor]"
"""make(name, info, rows): a matrix, its rows in the order that GGUF wants."""

TOKENIZER_JSON = "tokenizer.huggingface.json"
_DERIVED = ("edgesparse.", "split.")


@dataclass(frozen=True, eq=False)
class NewTensor:
    """A tensor to write.

    Attributes
    ----------
    name : str
    type_id : int
        GGUF's number of its type.
    shape : tuple of int
        Numpy order.
    n_bytes : int
    data : callable
        data(): its bytes, uint8.
    """

    name: str
    type_id: int
    shape: tuple[int, ...]
    n_bytes: int
    data: Callable[[], npt.NDArray[np.uint8]]


def copied(checkpoint: Checkpoint, name: str) -> NewTensor:
    """Take a tensor over as it is.

    Raises
    ------
    UsageError
        Its type cannot be written.
    """
    info = checkpoint.info(name)
    number = type_id(info.type)
    return NewTensor(name, number, info.shape, info.n_bytes, lambda: checkpoint.read(name))


def model_tensors(
    checkpoint: Checkpoint, config: ModelConfig, plan: Plan, matrix: MakeMatrix
) -> list[NewTensor]:
    """List the tensors of a model: norms and biases as float32, matrices as `matrix` makes them."""
    vectors = load_vectors(checkpoint, plan)
    swapped = config.architecture == "llama" and checkpoint.kind == "safetensors"
    tensors = []
    for name, info in checkpoint.tensors.items():
        rows = _row_order(name, config) if swapped else slice(None)
        if len(info.shape) == 1:
            values = vectors[name] if name in vectors else load_vector(checkpoint, name)
            tensors.append(_vector(name, values[rows]))
        else:
            tensors.append(matrix(name, info, rows))
    return tensors


def _row_order(name: str, config: ModelConfig) -> Rows:
    heads = {"attn_q": config.n_heads, "attn_k": config.n_kv_heads}.get(name.split(".")[-2])
    return slice(None) if heads is None else norm_rope_rows(heads, config.head_dim)


def _vector(name: str, values: npt.NDArray[np.float32]) -> NewTensor:
    data = np.ascontiguousarray(values, "<f4")
    return NewTensor(name, 0, data.shape, data.nbytes, lambda: data.view(np.uint8))


def norm_rope_rows(n_heads: int, head_dim: int) -> npt.NDArray[np.intp]:
    """Order the rows of q or k so that what rotates together are neighbours.

    Folders of the llama family keep halves of a head, GGUF files of ``llama`` neighbours.
    """
    rows = np.arange(n_heads * head_dim).reshape(n_heads, 2, head_dim // 2)
    return rows.swapaxes(1, 2).reshape(-1)


def write_gguf(
    path: Path,
    checkpoint: Checkpoint,
    tensors: Sequence[NewTensor],
    more: Mapping[str, Any] | None = None,
    *,
    folder: Path | None = None,
) -> int:
    """Write a model, whole or not at all, and return its size in bytes.

    Parameters
    ----------
    path : Path
    checkpoint : Checkpoint
        Whose metadata and tokenizer are kept.
    tensors : sequence of NewTensor
        Asked for their bytes one by one.
    more : mapping of str to value, optional
        Metadata that is added or replaced: str, bool, int, float, or lists of one of these.
    folder : Path, optional
        Where the file lies until it is whole, see `replacing_path`.

    Raises
    ------
    UsageError
        A tokenizer that GGUF has no place for (``tokenizer.model`` of a folder).
    OSError
        The file cannot be written.
    """
    metadata = _metadata(checkpoint)
    metadata.update(more or {})
    with replacing_path(path, folder) as temporary:
        _write(temporary, metadata, tensors)
    return path.stat().st_size


def _write(path: Path, metadata: Mapping[str, Any], tensors: Sequence[NewTensor]) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(path, str(metadata["general.architecture"]))
    for key, value in metadata.items():
        if key != "general.architecture" and value != []:
            writer.add_key_value(key, value, *_value_type(value))
    for tensor in tensors:
        kind = GGMLQuantizationType(tensor.type_id)
        dtype = np.dtype(np.float32)  # says that the shape counts numbers, not bytes
        writer.add_tensor_info(tensor.name, tensor.shape, dtype, tensor.n_bytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(np.ascontiguousarray(tensor.data()).view(np.uint8))
    writer.close()


def _metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    """Give what the checkpoint says of itself as plain values."""
    kept: dict[str, Any] = {}
    for key, value in checkpoint.metadata.items():
        if key.startswith(_DERIVED):
            continue
        if isinstance(value, StringArray):
            kept[key] = value.to_list()
        else:
            kept[key] = value.tolist() if isinstance(value, np.ndarray) else value
    if len(checkpoint.tokenizer_json or b"") > MAX_STRING_BYTES:
        raise UsageError(
            f"{checkpoint.path}: its tokenizer.json is longer than a string of GGUF may be here.",
            advice="Convert the model to GGUF first.",
        )
    if checkpoint.tokenizer_json is not None:
        kept[TOKENIZER_JSON] = checkpoint.tokenizer_json.decode("utf-8")
    elif checkpoint.tokenizer_model is not None:
        raise UsageError(
            f"{checkpoint.path}: a tokenizer.model cannot be taken over into a GGUF file.",
            advice="Add the folder's tokenizer.json, or convert the model to GGUF first.",
        )
    return kept


def _value_type(value: Any) -> tuple[Any, ...]:
    """Choose GGUF's type of a value, as its usual writers do: arrays of numbers are signed."""
    from gguf import GGUFValueType

    if isinstance(value, list):
        kind = _value_type(value[0])[0]
        if kind in (GGUFValueType.UINT32, GGUFValueType.INT64):
            fits = all(-(2**31) <= number < 2**31 for number in value)
            kind = GGUFValueType.INT32 if fits else GGUFValueType.INT64
        return GGUFValueType.ARRAY, kind
    if isinstance(value, bool):
        return (GGUFValueType.BOOL,)
    if isinstance(value, str):
        return (GGUFValueType.STRING,)
    if isinstance(value, float):
        return (GGUFValueType.FLOAT32,)
    return (GGUFValueType.UINT32 if 0 <= value < 2**32 else GGUFValueType.INT64,)
