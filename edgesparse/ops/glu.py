"""Gated units: squared ReLU (BitNet b1.58 2B4T), ReLU, SiLU (Llama), GELU by tanh (Gemma)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.ops.numerics import exp
from edgesparse.plan.op import GluKind

__all__ = ["glu"]

Float32 = npt.NDArray[np.float32]

_GELU_CUBE = np.float32(0.044715)
_GELU_SLOPE = np.float32(1.59576912)  # twice the root of 2 / pi


def glu(kind: GluKind, gate: Float32, up: Float32) -> Float32:
    """Return activation(gate) * up, elementwise."""
    if kind is GluKind.RELU2:
        m = np.maximum(gate, np.float32(0))
        return np.asarray((m * m) * up, np.float32)
    if kind is GluKind.GELU:
        # (1 + tanh z) / 2 is the logistic function of 2z.
        with np.errstate(over="ignore"):
            t = ((gate * gate) * _GELU_CUBE + np.float32(1)) * (gate * _GELU_SLOPE)
        return np.asarray((gate / (np.float32(1) + exp(-t))) * up, np.float32)
    if kind is GluKind.RELU:
        return np.asarray(np.maximum(gate, np.float32(0)) * up, np.float32)
    return np.asarray((gate / (np.float32(1) + exp(-gate))) * up, np.float32)
