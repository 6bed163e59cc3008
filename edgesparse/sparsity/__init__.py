"""Activation sparsity that is predicted or approximated: calibration, its files, and its reports.

Exact skipping of zeros needs nothing from here. ``thresholds.py`` and ``alphas.py`` hold what a
calibration decides, ``calibration.py`` reads either back, ``fingerprint.py`` ties it to a model.
"""

from __future__ import annotations

from edgesparse.sparsity.alphas import SparseInferTable
from edgesparse.sparsity.calibration import Calibration, load_calibration
from edgesparse.sparsity.fingerprint import fingerprint
from edgesparse.sparsity.thresholds import Rule, Thresholds

__all__ = [
    "Calibration",
    "Rule",
    "SparseInferTable",
    "Thresholds",
    "fingerprint",
    "load_calibration",
]
