"""`fingerprint`: by what a calibration file knows the model that it was made for.

Sizes, and the norm weights and biases: trained numbers that differ from model to model, that every
file of one model shares however its matrices are quantised, and that cost nothing to hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgesparse.config import ModelConfig

__all__ = ["fingerprint"]


def fingerprint(config: ModelConfig, vectors: Mapping[str, npt.NDArray[np.float32]]) -> str:
    """Digest a model.

    Parameters
    ----------
    config : ModelConfig
    vectors : mapping of str to float32 ndarray
        Its norm weights and biases (`Parameters.vectors`).

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    sizes = (
        *(config.n_layers, config.width, config.feed_forward, config.n_heads),
        *(config.n_kv_heads, config.head_dim, config.n_vocab, int(config.glu)),
    )
    digest = hashlib.sha256(f"edgesparse fingerprint 1 {sizes}".encode())
    if config.gate_shift or config.gate_cutoff:
        digest.update(f" gate {config.gate_shift} {config.gate_cutoff}".encode())
    for name in sorted(vectors):
        digest.update(f"\n{name} {vectors[name].size}\n".encode())
        digest.update(np.ascontiguousarray(vectors[name], "<f4").tobytes())
    return digest.hexdigest()[:32]
