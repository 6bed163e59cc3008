"""`Thresholds`: which small activations a model may ignore (TEAL, CATS, CHESS), and its file.

One entry per linear op of the plan. What is compared is the op's input, after its gate and norm and
before its quantisation; for the methods that prune neurons by their gate (CATS, and CHESS where the
key ends in ``gate_up``) it is the activated gate, act(g), that the op computes.

An element x of channel i counts as zero where ``|x| * factor_i < threshold``. TEAL (Liu et al.,
2024) and CATS (Lee et al., 2024) have one threshold and no factors. CHESS (He et al., 2024) has a
factor per channel, ``sqrt(E2_i / T)``, and the threshold 1: its own ``t_i`` is ``1 / factor_i``.

All methods are approximations: perplexity says what they cost.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint.source import shown
from edgesparse.plan.op import Linear
from edgesparse.plan.plan import Plan
from edgesparse.sparsity.calibration_file import (
    CalibrationObject,
    check_model,
    check_ops,
    mismatch,
    write_calibration,
)

__all__ = ["DENSE_TOKENS", "METHODS", "Rule", "Thresholds", "read_thresholds"]

Float32 = npt.NDArray[np.float32]

METHODS = ("teal", "cats", "chess")
DENSE_TOKENS = 16
"""Positions at the start of a sequence that are never sparsified: later tokens lean on them."""

MAX_DENSE_TOKENS = 1 << 22
_MAX_THRESHOLD = 1e30
_MAX_FACTORS = 1 << 17


@dataclass(frozen=True)
class Rule:
    """What one op ignores: elements with ``|x| * factors < threshold``.

    Attributes
    ----------
    threshold : float
    factors : float32 ndarray, shape (k,), or None
        None: every factor is 1.
    on_gate : bool
        Whether x is the activated gate that the op computes, rather than its input.
    """

    threshold: float
    factors: Float32 | None
    on_gate: bool


@dataclass(frozen=True, eq=False)
class Thresholds:
    """A calibration by thresholds.

    Attributes
    ----------
    model_fingerprint : str
        `edgesparse.sparsity.fingerprint.fingerprint` of the model it was made for.
    method : str
        One of `METHODS`.
    sparsity : float
        Share of elements that was to be ignored.
    thresholds : mapping of str to float or float32 ndarray
        By name of a linear op, e.g. ``blk.3.gate_up``: a threshold, or the factors of every channel
        against the threshold 1 (see `rule`). Ops that are missing, in all layers alike, stay
        dense, and so do those with a threshold of 0.
    achieved : mapping of str to float
        Share that was ignored on the text of the calibration, by the same names.
    dense_tokens : int
        Positions below this are not sparsified.
    text_sha256 : str
        Digest of the text of the calibration.
    """

    model_fingerprint: str
    method: str
    sparsity: float
    thresholds: Mapping[str, float | Float32]
    achieved: Mapping[str, float] = field(default_factory=dict)
    dense_tokens: int = DENSE_TOKENS
    text_sha256: str = ""

    def rule(self, op: str) -> Rule | None:
        """Return what the linear op called `op` ignores; None: nothing."""
        entry = self.thresholds.get(op)
        if entry is None:
            return None
        on_gate = self.method == "cats" or (self.method == "chess" and op.endswith(".gate_up"))
        if isinstance(entry, np.ndarray):
            return Rule(1.0, entry, on_gate)
        return Rule(float(entry), None, on_gate)

    def check(self, fingerprint: str, plan: Plan, path: str = "") -> None:
        """Refuse thresholds that were not made for the model that `plan` belongs to.

        Parameters
        ----------
        fingerprint : str
            Of the model.
        plan : Plan
            Its plan, fused: with an op for every key of `thresholds`.
        path : str
            File, for messages.

        Raises
        ------
        CalibrationError
            ``model`` for another model, ``missing`` for an op that the plan has not and for one
            that has an entry in other layers only, ``layout`` for factors of another length,
            ``value`` for numbers that no file could hold, NaN among them.
        """
        check_model(self.model_fingerprint, fingerprint, path)
        check_ops(self.thresholds, plan, path)
        if self.method not in METHODS:
            raise mismatch("value", "method", f"{shown(self.method)} is unknown", path)
        if not 0 <= self.dense_tokens <= MAX_DENSE_TOKENS:
            raise mismatch("value", "dense_tokens", f"found {self.dense_tokens}", path)
        if not 0 <= self.sparsity <= 1:
            raise mismatch("value", "sparsity", f"found {self.sparsity}", path)
        widths = dict(plan.buffers)
        ops = {op.name: op for op in plan.ops if isinstance(op, Linear)}
        for name, entry in self.thresholds.items():
            rule = self.rule(name)
            on_gate = rule is not None and rule.on_gate
            width = widths[ops[name].outputs[0].dst if on_gate else ops[name].src]
            if isinstance(entry, np.ndarray) and entry.shape != (width,):
                detail = f"expected {width} factors, found {entry.size}"
                raise mismatch("layout", name, detail, path)
            if not np.all((np.asarray(entry) >= 0) & (np.asarray(entry) <= _MAX_THRESHOLD)):
                detail = f"a number is not within 0 and {_MAX_THRESHOLD:g}"
                raise mismatch("value", name, detail, path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file as a whole or not at all.

        Raises
        ------
        UsageError
            It cannot be written.
        """
        ops: dict[str, dict[str, object]] = {}
        for name, entry in self.thresholds.items():
            if isinstance(entry, np.ndarray):
                ops[name] = {"factors": [float(f) for f in entry]}
            else:
                ops[name] = {"threshold": float(entry)}
            if name in self.achieved:
                ops[name]["achieved"] = self.achieved[name]
        write_calibration(
            path,
            {
                "method": self.method,
                "model": self.model_fingerprint,
                "sparsity": self.sparsity,
                "dense_tokens": self.dense_tokens,
                "text_sha256": self.text_sha256,
                "ops": ops,
            },
        )


def read_thresholds(top: CalibrationObject) -> Thresholds:
    """Take the parsed object of a file apart.

    Raises
    ------
    CalibrationError
        Something is missing, of another type, not finite or out of range.
    """
    thresholds: dict[str, float | Float32] = {}
    achieved: dict[str, float] = {}
    ops = top.child("ops")
    for name in ops.values:
        entry = ops.child(name)
        if "factors" in entry.values:
            thresholds[name] = entry.floats("factors", 0.0, _MAX_THRESHOLD, _MAX_FACTORS)
        else:
            thresholds[name] = entry.number("threshold", 0.0, _MAX_THRESHOLD)
        share = entry.number("achieved", 0.0, 1.0, math.nan)
        if not math.isnan(share):
            achieved[name] = share
    return Thresholds(
        model_fingerprint=top.text("model"),
        method=top.text("method"),
        sparsity=top.number("sparsity", 0.0, 1.0),
        thresholds=thresholds,
        achieved=achieved,
        dense_tokens=top.integer("dense_tokens", 0, MAX_DENSE_TOKENS, DENSE_TOKENS),
        text_sha256=top.text("text_sha256"),
    )
