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

from edgesparse.checkpoint import Checkpoint, TensorInfo
from edgesparse.compress.gguf_out import NewTensor, Rows, copied, model_tensors, write_gguf
from edgesparse.compress.store import Store
from edgesparse.compress.work import Work
from edgesparse.config import ModelConfig
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

    def matrix(name: str, info: TensorInfo, rows: Rows) -> NewTensor:
        if not work.has(name):
            return copied(checkpoint, name)
        return _matrix(name, info.shape, store, work, rows)

    tensors = model_tensors(checkpoint, config, plan, matrix)
    more: dict[str, Any] = {f"edgesparse.pruning.{key}": value for key, value in about.items()}
    more["general.file_type"] = store.file_type
    return write_gguf(path, checkpoint, tensors, more, folder=work.folder)


def _matrix(
    name: str,
    shape: tuple[int, ...],
    store: Store,
    work: Work,
    rows: Rows,
) -> NewTensor:
    def data() -> npt.NDArray[np.uint8]:
        stored = np.asarray(work.require(name)["data"], np.uint8)
        return stored.reshape(shape[0], -1)[rows].reshape(-1)

    return NewTensor(name, store.type_id, shape, store.n_bytes((shape[0], shape[1])), data)
