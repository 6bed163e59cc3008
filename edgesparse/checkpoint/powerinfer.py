"""PowerInfer's GGUF files: magic ``PWRI``, ReLU implied, ``down`` stored neuron by neuron.

Their predictors (``fc1``, ``fc2``: two matrices per layer) guess which gates are dead. They are
left out: dead gates are skipped exactly.
"""

from __future__ import annotations

import re
from dataclasses import replace

from edgesparse.checkpoint.gguf_header import MetadataValue
from edgesparse.checkpoint.source import shown
from edgesparse.checkpoint.types import TensorInfo, TensorType
from edgesparse.errors import ModelFormatError

__all__ = ["adapt_powerinfer"]

_DOWN = re.compile(r"^(blk\.\d{1,4}\.ffn_down)_t(\.weight)$", re.ASCII)
_PREDICTOR = re.compile(r"^blk\.\d{1,4}\.fc[12]\.(weight|bias)$", re.ASCII)
_READ = (TensorType.F32, TensorType.F16, TensorType.BF16, TensorType.Q8_0, TensorType.Q4_0)


def adapt_powerinfer(
    metadata: dict[str, MetadataValue],
    tensors: dict[str, TensorInfo],
    warnings: list[str],
    path: str,
) -> dict[str, TensorInfo]:
    """Give a file's tensors the names and the meaning that GGUF files have.

    Parameters
    ----------
    metadata : dict
        Keys that the magic implies are added.
    tensors : dict of str to TensorInfo
        As the file names them.
    warnings : list of str
        What is left out is said here.
    path : str
        File, for messages.

    Raises
    ------
    ModelFormatError
        ``unsupported`` for a side file or a type that is not read transposed, ``shape`` for a
        ``down`` that is no matrix, ``duplicate``.
    """
    architecture = metadata.get("general.architecture")
    if architecture == "generic.gpu_index":
        detail = "a list of neurons for a graphics card, which belongs beside a model"
        raise _error("unsupported", "general.architecture", detail, path)
    metadata["edgesparse.container"] = "powerinfer"
    if isinstance(architecture, str):
        metadata.setdefault(f"{architecture}.hidden_activation", "relu")
    found: dict[str, TensorInfo] = {}
    n_left_out = 0
    for info in tensors.values():
        if _PREDICTOR.match(info.name):
            n_left_out += 1
            continue
        match = _DOWN.match(info.name)
        if match is not None:
            info = _transposed(info, match[1] + match[2], path)
        if info.name in found:
            raise _error("duplicate", info.name, "the file has it in both orders", path)
        found[info.name] = info
    if n_left_out:
        warnings.append(
            f"{n_left_out} tensors of predictors are not used: dead gates are skipped exactly"
        )
    return found


def _transposed(info: TensorInfo, name: str, path: str) -> TensorInfo:
    if len(info.shape) != 2:
        raise _error("shape", info.name, f"expected a matrix, found {shown(info.shape)}", path)
    if info.type not in _READ:
        known = ", ".join(kind.name for kind in _READ)
        detail = f"{info.type.name} is not read neuron by neuron; {known} are"
        raise _error("unsupported", info.name, detail, path)
    return replace(info, name=name, shape=info.shape[::-1], transposed=True)


def _error(kind: str, field: str, detail: str, path: str) -> ModelFormatError:
    return ModelFormatError(kind, shown(field), detail, path=shown(path, 400))
