"""The report of ``edgesparse sparsity``: rows of numbers, a table, bars, a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgesparse.errors import UsageError
from edgesparse.sparsity.sparseinfer import Outcome
from edgesparse.sparsity.speed import Saving
from edgesparse.sparsity.statistics import LayerStatistics

__all__ = ["bar", "save_plot", "sparsity_rows", "sparsity_table"]

Row = dict[str, Any]
_INPUTS = ("qkv", "attn_output", "gate_up", "down")
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def sparsity_rows(
    layers: Sequence[LayerStatistics],
    outcomes: Mapping[str, Outcome],
    saving: Saving | None,
) -> list[Row]:
    """Return one row of plain numbers per layer.

    Parameters
    ----------
    layers : sequence of LayerStatistics
    outcomes : mapping of str to Outcome
        What the predictor does to the gates, by name of the op; may be empty.
    saving : Saving, optional
    """
    rows = []
    for i, layer in enumerate(layers):
        row: Row = {"layer": i, "gate_zero": layer.dead_share}
        for name, found in layer.inputs.items():
            row[f"{name}_int8_zero"] = found.zero_share
            row[f"{name}_magnitudes"] = {
                f"{share:g}": found.magnitudes.quantile(share) for share in _QUANTILES
            }
        predicted = outcomes.get(f"blk.{i}.gate_up")
        if predicted is not None:
            row["predictor_precision"] = predicted.precision
            row["predictor_recall"] = predicted.dropped
            row["predictor_live_kept"] = predicted.kept
        if saving is not None:
            row["dense_bytes"] = round(float(saving.dense_bytes[i]))
            row["bytes_saved"] = round(float(saving.dense_bytes[i] - saving.sparse_bytes[i]))
            row["predicted_speed_up"] = float(saving.dense_bytes[i] / saving.sparse_bytes[i])
        rows.append(row)
    return rows


def bar(share: float, width: int) -> str:
    """Draw a share of `width` characters, to an eighth of one."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width)


def sparsity_table(rows: Sequence[Row], width: int = 20) -> str:
    """Lay the rows out for a terminal, with a bar for the zeros of ``down``'s input."""
    predicted = any("predictor_precision" in row for row in rows)
    saved = any("bytes_saved" in row for row in rows)
    head = f"{'layer':>5}{'gate 0':>8}" + "".join(f"{name:>13}" for name in _INPUTS)
    if predicted:
        head += f"{'precision':>11}{'recall':>8}"
    if saved:
        head += f"{'saved':>9}{'of':>9}{'bytes ÷':>9}"
    lines = ["share of zeros: gates; inputs of each op after rounding to int8", head]
    for row in rows:
        line = f"{row['layer']:>5}{row['gate_zero']:>8.1%}"
        line += "".join(f"{row.get(f'{name}_int8_zero', 0.0):>13.1%}" for name in _INPUTS)
        if predicted:
            line += f"{row['predictor_precision']:>11.3f}{row['predictor_recall']:>8.3f}"
        if saved:
            line += f"{row['bytes_saved'] / 1e6:>6.2f} MB{row['dense_bytes'] / 1e6:>6.2f} MB"
            line += f"{row['predicted_speed_up']:>8.2f}×"
        lines.append(f"{line}  {bar(row.get('down_int8_zero', 0.0), width)}".rstrip())
    return "\n".join(lines) + "\n"


def save_plot(rows: Sequence[Row], path: str | os.PathLike[str], title: str) -> None:
    """Write a PNG of the shares of zeros by layer.

    Raises
    ------
    UsageError
        matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(
            "a picture needs matplotlib.", advice="pip install 'edgesparse[plot]'"
        ) from None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    layers = [row["layer"] for row in rows]
    axes.plot(layers, [row["gate_zero"] for row in rows], marker="o", label="gates not above 0")
    for name in _INPUTS:
        shares = [row.get(f"{name}_int8_zero", 0.0) for row in rows]
        axes.plot(layers, shares, marker=".", label=f"{name}: int8 zeros of its input")
    axes.set(xlabel="layer", ylabel="share of zeros", ylim=(0, 1), title=title)
    axes.legend()
    temporary = Path(f"{os.fspath(path)}.part")
    try:
        with temporary.open("wb") as file:
            FigureCanvasAgg(figure).print_png(file)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"{path}: cannot be written ({error.strerror}).") from None
