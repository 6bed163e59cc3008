"""The report of ``edgesparse sparsity``: rows of numbers, a table, bars, a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgesparse.errors import UsageError
from edgesparse.sparsity.alpha_table import AlphaTable
from edgesparse.sparsity.sparseinfer import Outcome
from edgesparse.sparsity.speed import Saving
from edgesparse.sparsity.statistics import LayerStatistics
from edgesparse.whole_file import replacing

__all__ = [
    "alpha_lines",
    "alpha_rows",
    "bar",
    "require_matplotlib",
    "save_plot",
    "sparsity_rows",
    "sparsity_table",
]

Row = dict[str, Any]
_INPUTS = ("qkv", "attn_output", "gate_up", "down")
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def sparsity_rows(
    layers: Sequence[LayerStatistics],
    outcomes: Mapping[str, Outcome],
    saving: Saving | None,
    expected: Sequence[float] = (),
) -> list[Row]:
    """Return one row of plain numbers per layer.

    Parameters
    ----------
    layers : sequence of LayerStatistics
    outcomes : mapping of str to Outcome
        What the predictor does to the gates, by name of the op; may be empty.
    saving : Saving, optional
    expected : sequence of float
        Bytes that the cost model expects each layer to read (`expected_bytes`); may be empty.
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
            row["bytes_read"] = round(float(saving.sparse_bytes[i]))
            if len(expected):
                row["bytes_expected"] = round(float(expected[i]))
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
    expected = any("bytes_expected" in row for row in rows)
    head = f"{'layer':>5}{'gate 0':>8}" + "".join(f"{name:>13}" for name in _INPUTS)
    if predicted:
        head += f"{'precision':>11}{'recall':>8}"
    if saved:
        head += f"{'saved':>9}{'of':>9}{'bytes ÷':>9}"
    if expected:
        head += f"{'model':>8}"
    lines = ["share of zeros: gates; inputs of each op after rounding to int8", head]
    for row in rows:
        line = f"{row['layer']:>5}{row['gate_zero']:>8.1%}"
        line += "".join(f"{row.get(f'{name}_int8_zero', 0.0):>13.1%}" for name in _INPUTS)
        if predicted:
            line += f"{row['predictor_precision']:>11.3f}{row['predictor_recall']:>8.3f}"
        if saved:
            line += f"{row['bytes_saved'] / 1e6:>6.2f} MB{row['dense_bytes'] / 1e6:>6.2f} MB"
            line += f"{row['predicted_speed_up']:>8.2f}×"
        if expected:
            line += f"{row['bytes_expected'] / row['bytes_read'] - 1:>+8.1%}"
        lines.append(f"{line}  {bar(row.get('down_int8_zero', 0.0), width)}".rstrip())
    return "\n".join(lines) + "\n"


def alpha_rows(table: AlphaTable) -> list[Row]:
    """Return one row of plain numbers per alpha."""
    return [
        {
            "alpha": row.alpha,
            "predictor_precision": row.outcome.precision,
            "predictor_recall": row.outcome.dropped,
            "predictor_live_kept": row.outcome.kept,
            "gates_skipped": row.outcome.skipped,
            "tiles_skipped": row.outcome.skipped_tiles,
            "saved_bytes": round(row.cost.saved_bytes),
            "sign_bytes": row.cost.sign_bytes,
            "pays": row.cost.pays,
            "perplexity": row.perplexity,
            "layers": {
                name: {"precision": each.precision, "recall": each.dropped, "live_kept": each.kept}
                for name, each in row.layers.items()
            },
        }
        for row in table.rows
    ]


def alpha_lines(table: AlphaTable, width: int = 20) -> str:
    """Lay the alphas out for a terminal, with a bar for the recall."""
    lines = [
        "sign predictor (SparseInfer), all layers: the more alpha, the fewer gates are skipped",
        f"{'alpha':>7}{'precision':>11}{'recall':>8}{'live kept':>11}{'skipped':>9}"
        f"{'saves':>10}{'reads':>10}{'pays':>6}{'perplexity':>12}",
    ]
    for row in table.rows:
        shown = "?" if row.perplexity is None else f"{row.perplexity:.4f}"
        lines.append(
            f"{row.alpha:>7.4f}{row.outcome.precision:>11.3f}{row.outcome.dropped:>8.3f}"
            f"{row.outcome.kept:>11.1%}{row.outcome.skipped:>9.1%}"
            f"{row.cost.saved_bytes / 1e6:>7.2f} MB{row.cost.sign_bytes / 1e6:>7.2f} MB"
            f"{'yes' if row.cost.pays else 'no':>6}{shown:>12}"
            f"  {bar(row.outcome.dropped, width)}".rstrip()
        )
    if table.dense_perplexity is not None:
        lines.append(
            f"perplexity without prediction: {table.dense_perplexity:.4f} "
            f"({table.n_scored} tokens scored, {table.n_judged} for the shares)"
        )
    return "\n".join(lines) + "\n"


def require_matplotlib() -> None:
    """Refuse to draw without what draws, before the numbers are made.

    Raises
    ------
    UsageError
    """
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise UsageError(
            "a picture needs matplotlib.", advice="pip install 'edgesparse[plot]'"
        ) from None


def save_plot(
    rows: Sequence[Row],
    path: str | os.PathLike[str],
    title: str,
    alphas: Sequence[Row] = (),
) -> None:
    """Write a PNG of the shares of zeros by layer and, if there are some, of the alphas.

    Raises
    ------
    UsageError
        matplotlib is not installed, or the file cannot be written.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 9 if alphas else 4.5), layout="constrained")
    axes = figure.add_subplot(2 if alphas else 1, 1, 1)
    layers = [row["layer"] for row in rows]
    axes.plot(layers, [row["gate_zero"] for row in rows], marker="o", label="gates not above 0")
    for name in _INPUTS:
        shares = [row.get(f"{name}_int8_zero", 0.0) for row in rows]
        axes.plot(layers, shares, marker=".", label=f"{name}: int8 zeros of its input")
    axes.set(xlabel="layer", ylabel="share of zeros", ylim=(0, 1), title=title)
    axes.legend()
    if alphas:
        _draw_alphas(figure.add_subplot(2, 1, 2), alphas)
    try:
        with replacing(Path(path)) as file:
            FigureCanvasAgg(figure).print_png(file)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}).") from None


def _draw_alphas(axes: Any, alphas: Sequence[Row]) -> None:
    x = [row["alpha"] for row in alphas]
    for key in ("precision", "recall", "live_kept"):
        label = key.replace("_", " ")
        axes.plot(x, [row[f"predictor_{key}"] for row in alphas], marker="o", label=label)
    axes.set(xlabel="alpha of the sign predictor", ylabel="share", ylim=(0, 1))
    axes.legend(loc="center left")
    if alphas[0]["perplexity"] is not None:
        right = axes.twinx()
        right.plot(x, [row["perplexity"] for row in alphas], "k--", marker=".", label="perplexity")
        right.set_ylabel("perplexity")
        right.legend(loc="center right")
