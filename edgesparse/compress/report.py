"""What pruning did, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgesparse.compress.prune import MatrixReport

__all__ = ["prune_rows", "prune_table"]

_MATRICES = (
    *("attn_q", "attn_k", "attn_v", "attn_output"),
    *("ffn_gate", "ffn_up", "ffn_down"),
)


def prune_rows(reports: Sequence[MatrixReport]) -> list[dict[str, Any]]:
    """Return one dict per layer: its sparsity and the error of each matrix."""
    rows = []
    for layer in sorted({report.layer for report in reports}):
        mine = [report for report in reports if report.layer == layer]
        n_weights = sum(report.shape[0] * report.shape[1] for report in mine)
        rows.append(
            {
                "layer": layer,
                "sparsity": sum(report.n_zeros for report in mine) / n_weights,
                "errors": {report.name.split(".")[2]: report.error for report in mine},
            }
        )
    return rows


def prune_table(reports: Sequence[MatrixReport], *, of_text: bool) -> str:
    """Format the layers for a terminal.

    Parameters
    ----------
    of_text : bool
        Whether errors are of outputs over a text, or of weights alone.
    """
    lines = ["layer  zeros" + "".join(f"{name.split('_')[1]:>9}" for name in _MATRICES)]
    for row in prune_rows(reports):
        errors = "".join(f"{row['errors'].get(name, 0.0):>9.2%}" for name in _MATRICES)
        lines.append(f"{row['layer']:>5}{row['sparsity']:>7.1%}{errors}")
    what = "the outputs' power over the text" if of_text else "the weights' power"
    lines.append(f"(columns: share of {what} that is lost, by matrix)")
    return "\n".join(lines) + "\n"
