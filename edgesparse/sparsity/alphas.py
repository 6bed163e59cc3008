"""`SparseInferTable`: how sure the sign predictor must be, layer by layer, and its file.

SparseInfer (Shin et al., 2024) predicts a gate to be dead where more of its products look negative
than positive: where ``N_neg > alpha * N_pos``. A larger alpha predicts fewer. The factor is kept as
a whole number of ten-thousandths, so that every executor decides alike, in integers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgesparse.plan.plan import Plan
from edgesparse.sparsity.calibration_file import (
    CalibrationObject,
    check_model,
    check_ops,
    write_calibration,
)

__all__ = ["ALPHA_ONE", "MAX_ALPHA", "SparseInferTable", "read_alphas"]

ALPHA_ONE = 10_000
"""What stands for alpha = 1."""
MAX_ALPHA = 100 * ALPHA_ONE
_SHARES = ("kept", "dropped", "skipped", "skipped_tiles")


@dataclass(frozen=True, eq=False)
class SparseInferTable:
    """A calibration of the sign predictor.

    Attributes
    ----------
    model_fingerprint : str
        `edgesparse.sparsity.fingerprint.fingerprint` of the model it was made for.
    alphas : mapping of str to int
        By name of the op that computes the gate, e.g. ``blk.3.gate_up``: alpha times `ALPHA_ONE`.
        A file has one for every layer (`check`).
    recall : float
        Share of live gates that was to be kept.
    kept : mapping of str to float
        Share of live gates that was kept on the text of the calibration, by the same names.
    dropped : mapping of str to float
        Share of dead gates that was predicted to be dead, likewise.
    skipped : mapping of str to float
        Share of all gates that was predicted to be dead, likewise.
    skipped_tiles : mapping of str to float
        Share of tiles of 8 gates that were all predicted to be dead, likewise.
    text_sha256 : str
        Digest of the text of the calibration.
    """

    model_fingerprint: str
    alphas: Mapping[str, int]
    recall: float
    kept: Mapping[str, float] = field(default_factory=dict)
    dropped: Mapping[str, float] = field(default_factory=dict)
    skipped: Mapping[str, float] = field(default_factory=dict)
    skipped_tiles: Mapping[str, float] = field(default_factory=dict)
    text_sha256: str = ""

    def check(self, fingerprint: str, plan: Plan, path: str = "") -> None:
        """Refuse alphas that were not made for the model that `plan` belongs to.

        Raises
        ------
        CalibrationError
            ``model`` for another model, ``missing`` for an op that the plan has not and for one
            that has an entry in other layers only.
        """
        check_model(self.model_fingerprint, fingerprint, path)
        check_ops(self.alphas, plan, path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file as a whole or not at all.

        Raises
        ------
        UsageError
            It cannot be written.
        """
        ops: dict[str, dict[str, float]] = {}
        for name, alpha in self.alphas.items():
            ops[name] = {"alpha": alpha / ALPHA_ONE}
            for key in _SHARES:
                if name in getattr(self, key):
                    ops[name][key] = getattr(self, key)[name]
        write_calibration(
            path,
            {
                "method": "sparseinfer",
                "model": self.model_fingerprint,
                "recall": self.recall,
                "text_sha256": self.text_sha256,
                "ops": ops,
            },
        )


def read_alphas(top: CalibrationObject) -> SparseInferTable:
    """Take the parsed object of a file apart.

    Raises
    ------
    CalibrationError
        Something is missing, of another type, not finite or out of range.
    """
    alphas: dict[str, int] = {}
    shares: dict[str, dict[str, float]] = {key: {} for key in _SHARES}
    ops = top.child("ops")
    for name in ops.values:
        entry = ops.child(name)
        alphas[name] = round(entry.number("alpha", 0.0, MAX_ALPHA / ALPHA_ONE) * ALPHA_ONE)
        for key, found in shares.items():
            if key in entry.values:
                found[name] = entry.number(key, 0.0, 1.0)
    return SparseInferTable(
        model_fingerprint=top.text("model"),
        alphas=alphas,
        recall=top.number("recall", 0.0, 1.0),
        text_sha256=top.text("text_sha256"),
        **shares,
    )
