"""Write a pruned model as GGUF, in plain types whose zeros are exact.

No type of its own: F16, Q8_0 and Q4_0 hold 0 as 0, any reader runs the file, and a loader that
counts zeros may store it as bitmaps. ``edgesparse.pruning.*`` says how it was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint import Checkpoint
from edgesparse.compress.gguf_out import NewTensor, copied, norm_rope_rows, vector, write_gguf
from edgesparse.compress.store import Store
from edgesparse.compress.work import Work
from edgesparse.config import ModelConfig
from edgesparse.errors import UsageError
from edgesparse.formats.load import load_vector
from edgesparse.loading import load_vectors
from edgesparse.plan.plan import Plan

__all__ = ["write_pruned_gguf"]


def write_pruned_gguf(
    path: Path,
    checkpoint: Checkpoint,
    config: ModelConfig,
    plan: Plan,
    store: Store,
    work: Work,
    about: Mapping[str, Any],
) -> int:
    """Write the file, whole or not at all; return its size.

    Parameters
    ----------
    path : Path
    checkpoint, config, plan : Checkpoint, ModelConfig, Plan
        What was pruned.
    store : Store
    work : Work
        Holds the matrices.
    about : mapping of str to value
        What ``edgesparse.pruning.`` is to say.

    Raises
    ------
    UsageError, OSError
        As `write_gguf`.
    """
    swapped = config.architecture == "llama" and checkpoint.kind == "safetensors"
    vectors = load_vectors(checkpoint, plan)
    tensors: list[NewTensor] = []
    for name, info in checkpoint.tensors.items():
        order = _row_order(name, config) if swapped else None
        if work.has(name):
            tensors.append(_matrix(name, info.shape, store, work, order))
        elif len(info.shape) == 1:
            values = vectors[name] if name in vectors else load_vector(checkpoint, name)
            tensors.append(vector(name, values if order is None else values[order]))
        else:
            tensors.append(copied(checkpoint, name))
    more = {f"edgesparse.pruning.{key}": value for key, value in about.items()}
    return write_gguf(path, checkpoint, tensors, {"general.file_type": store.file_type, **more})


def _row_order(name: str, config: ModelConfig) -> npt.NDArray[np.intp] | None:
    heads = {"attn_q": config.n_heads, "attn_k": config.n_kv_heads}.get(name.split(".")[-2])
    return None if heads is None else norm_rope_rows(heads, config.head_dim)


def _matrix(
    name: str,
    shape: tuple[int, ...],
    store: Store,
    work: Work,
    order: npt.NDArray[np.intp] | None,
) -> NewTensor:
    def data() -> npt.NDArray[np.uint8]:
        found = work.get(name)
        if found is None:
            raise UsageError(f"{work.folder} was changed while the file was written.")
        rows = np.asarray(found["data"], np.uint8).reshape(shape[0], -1)
        return (rows if order is None else rows[order]).reshape(-1)

    return NewTensor(name, store.type_id, shape, store.n_bytes((shape[0], shape[1])), data)
