"""Thresholds that other projects' files hold: a folder of TEAL's histograms, a ``.pt`` of CHESS.

TEAL keeps, for every layer, histograms of the inputs: ``layer-0/self_attn/histograms.pt`` (``h1``
in front of q, k and v, ``h2`` in front of o) and ``layer-0/mlp/histograms.pt`` (gate and up; down),
and, where its greedy search has run, ``lookup/layer-0/results.csv`` with a share for each matrix.
A threshold is the quantile of |x| here, as in `edgesparse.sparsity.teal`. Matrices that share an
input have one threshold: for the mean of their shares, weighted by size.

CHESS keeps lists of thresholds with an entry per layer: for the activated gate by channel and, for
CATS, one for all channels; for the inputs of q and of o. The last is used; q shares its input with
k and v, which CHESS leaves alone.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint.source import SourceFile, shown
from edgesparse.config import ModelConfig
from edgesparse.errors import CalibrationError, ModelNotFound, UsageError
from edgesparse.plan.sparsify import require_silu
from edgesparse.sparsity.calibrate import MAX_SPARSITY
from edgesparse.sparsity.thresholds import DENSE_TOKENS, Thresholds
from edgesparse.sparsity.torch_file import read_torch_file

__all__ = ["import_thresholds"]

Float64 = npt.NDArray[np.float64]

_LARGE = 1e29
_CSV_BYTES = 1 << 20
_MAX_BINS = 1 << 20
_SHARE_IN_NAME = re.compile(r"0_(\d{1,4})", re.ASCII)
_CHESS = {
    "chess": ("gate_proj_states_thresholds_chess", "gate_proj_states_thresholds_2"),
    "cats": ("gate_proj_states_thresholds_cats", "gate_proj_states_thresholds"),
}


def import_thresholds(
    path: str | os.PathLike[str],
    config: ModelConfig,
    fingerprint: str,
    *,
    method: str,
    sparsity: float | None = None,
    dense_tokens: int = DENSE_TOKENS,
) -> Thresholds:
    """Convert thresholds of another project for one model.

    Parameters
    ----------
    path : path
        TEAL's folder, or the file of CHESS.
    config : ModelConfig
        Of the model that they were made for.
    fingerprint : str
        Of the same.
    method : {"teal", "chess", "cats"}
    sparsity : float, optional
        TEAL: the share of inputs to ignore, 0.4 by default. CHESS: what the file was made for, by
        default what its name says (``0_5.pt``), else 0.5.
    dense_tokens : int
        Positions at the start of a sequence that stay dense.

    Raises
    ------
    ModelNotFound
        The path or a file in it is missing.
    CalibrationError
        A file is broken, or for a model of another shape.
    UsageError
        A share is out of range, there is no such method, the path is of another method, or the
        model is a mixture of experts, or has no SiLU, which the thresholds of CHESS are for.
    """
    if sparsity is not None and not 0 < sparsity <= MAX_SPARSITY:
        raise UsageError(f"sparsity must be above 0 and at most {MAX_SPARSITY}, not {sparsity}.")
    if dense_tokens < 0:
        raise UsageError(f"dense_tokens must not be negative, but is {dense_tokens}.")
    if config.experts is not None:
        raise UsageError("a mixture of experts has no thresholds: it skips by choosing experts.")
    if method in _CHESS:
        require_silu(config.glu, method)
    source = Path(path)
    if not source.exists():
        raise ModelNotFound(f"{shown(os.fspath(path), 400)}: no such path.", advice="Check it.")
    if method in ("teal", *_CHESS) and source.is_dir() != (method == "teal"):
        raise UsageError(
            f"{shown(os.fspath(path), 400)}: thresholds of {method} are "
            + ("a folder." if method == "teal" else "a .pt file."),
            advice="--method teal is for a folder of TEAL's histograms, chess and cats are for the "
            ".pt file of CHESS.",
        )
    if method == "teal":
        share = 0.4 if sparsity is None else sparsity
        thresholds, achieved = _teal(source, config, share)
    elif method in _CHESS:
        share = _share_of(source) if sparsity is None else sparsity
        thresholds, achieved = _chess(source, config, method), {}
    else:
        raise UsageError(
            f"thresholds of {method!r} cannot be imported.",
            advice="Those of teal, chess and cats can.",
        )
    return Thresholds(fingerprint, method, share, thresholds, achieved, dense_tokens)


# ---- TEAL ----------------------------------------------------------------------------------------


def _teal(
    folder: Path, config: ModelConfig, share: float
) -> tuple[dict[str, float | npt.NDArray[np.float32]], dict[str, float]]:
    root = folder / "histograms" if (folder / "histograms").is_dir() else folder
    thresholds: dict[str, float | npt.NDArray[np.float32]] = {}
    achieved: dict[str, float] = {}
    _require_layers(root, config)
    for layer in range(config.n_layers):
        shares = _shares(folder, layer, config, share)
        for block, ops in (("self_attn", ("qkv", "attn_output")), ("mlp", ("gate_up", "down"))):
            file = root / f"layer-{layer}" / block / "histograms.pt"
            table = read_torch_file(file)
            for key, op in zip(("h1", "h2"), ops, strict=True):
                counts, centers = _histogram(table, key, file)
                name = f"blk.{layer}.{op}"
                thresholds[name], achieved[name] = _quantile(counts, centers, shares[op])
    return thresholds, achieved


def _require_layers(root: Path, config: ModelConfig) -> None:
    """Refuse a folder for a model with another number of layers."""
    names = [entry.name for entry in root.iterdir()] if root.is_dir() else []
    n_found = sum(1 for name in names if re.fullmatch(r"layer-\d{1,4}", name))
    if n_found != config.n_layers:
        detail = f"expected layer-0 to layer-{config.n_layers - 1}, found {n_found} layers"
        raise _error("layout", "folder", detail, root)


def _histogram(table: Any, key: str, file: Path) -> tuple[Float64, Float64]:
    arrays = []
    for name in (key, f"{key}_centers"):
        found = table.get(name) if isinstance(table, dict) else None
        if not isinstance(found, np.ndarray) or found.ndim != 1:
            raise _error("missing", name, "expected a tensor with one axis", file)
        arrays.append(found.astype(np.float64))
    counts, centers = arrays
    if counts.shape != centers.shape or not 2 <= counts.size <= _MAX_BINS:
        detail = f"{counts.size} counts of {centers.size} bins"
        raise _error("layout", key, detail, file)
    finite = np.isfinite(counts).all() and np.isfinite(centers).all()
    if not finite or (counts < 0).any() or counts.sum() <= 0:
        raise _error("value", key, "counts and centers must be finite, counts not negative", file)
    return counts, centers


def _quantile(counts: Float64, centers: Float64, share: float) -> tuple[float, float]:
    """Return where `share` of the magnitudes lie below, between two bins, and the share there."""
    order = np.argsort(np.abs(centers), kind="stable")
    sizes = np.abs(centers)[order]
    below = (np.cumsum(counts[order]) - counts[order] / 2) / counts.sum()  # centers halve bins
    found = float(np.interp(share, below, sizes)) if share > 0 else 0.0
    return found, float(np.clip(share, below[0], below[-1])) if found > 0 else 0.0


def _shares(folder: Path, layer: int, config: ModelConfig, share: float) -> dict[str, float]:
    """Return the share of each op: the same, or what the greedy search has found for the layer."""
    file = folder / "lookup" / f"layer-{layer}" / "results.csv"
    if not file.is_file():
        return dict.fromkeys(("qkv", "attn_output", "gate_up", "down"), share)
    rows = _rows(file)
    row = min(rows, key=lambda each: abs(each["Effective Sparsity"] - share))
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    qkv = (q * row["q"] + kv * row["k"] + kv * row["v"]) / (q + 2 * kv)
    gate_up = (row["gate"] + row["up"]) / 2
    return {"qkv": qkv, "attn_output": row["o"], "gate_up": gate_up, "down": row["down"]}


def _rows(path: Path) -> list[dict[str, float]]:
    file = SourceFile(os.fspath(path))
    try:
        if file.n_bytes > _CSV_BYTES:
            raise _error("limit", "file", f"{file.n_bytes} bytes, at most {_CSV_BYTES}", path)
        raw = file.read_at(0, file.n_bytes, "file")
    finally:
        file.close()
    wanted = ("Effective Sparsity", "q", "k", "v", "o", "gate", "up", "down")
    rows: list[dict[str, float]] = []
    try:
        for row in csv.DictReader(raw.decode("utf-8").splitlines(), strict=True):
            found = {name: float(row[name]) for name in wanted}
            if not all(0 <= value <= 1 for value in found.values()):
                raise _error("range", "results.csv", "a share is not within 0 and 1", path)
            rows.append(found)
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise _error("layout", "results.csv", f"no table of shares ({error})", path) from None
    if not rows:
        raise _error("missing", "results.csv", "the table has no rows", path)
    return rows


# ---- CHESS ---------------------------------------------------------------------------------------


def _share_of(path: Path) -> float:
    """Read the share from a name such as ``0_5.pt``."""
    match = _SHARE_IN_NAME.fullmatch(path.stem)
    share = float(f"0.{match[1]}") if match else 0.0
    return share if 0 < share <= MAX_SPARSITY else 0.5


def _chess(
    path: Path, config: ModelConfig, method: str
) -> dict[str, float | npt.NDArray[np.float32]]:
    table = read_torch_file(path)
    if not isinstance(table, dict):
        raise _error("layout", "data.pkl", "expected a dict of thresholds", path)
    key = next((name for name in _CHESS[method] if name in table), "")
    if not key:
        detail = f"expected {' or '.join(_CHESS[method])}"
        raise _error("missing", "data.pkl", detail, path)
    length = config.feed_forward if method == "chess" else 1
    found: dict[str, float | npt.NDArray[np.float32]] = {}
    for layer, values in enumerate(_layers(table, key, length, config, path)):
        found[f"blk.{layer}.gate_up"] = _factors(values) if method == "chess" else float(values[0])
    if method == "chess":
        outputs = _layers(table, "attention_outputs_thresholds", 1, config, path)
        for layer, values in enumerate(outputs):
            found[f"blk.{layer}.attn_output"] = float(values[0])
    return found


def _layers(
    table: Mapping[str, Any], key: str, length: int, config: ModelConfig, path: Path
) -> Sequence[npt.NDArray[np.float32]]:
    """Return one vector of thresholds for every layer."""
    entry = table.get(key)
    if not isinstance(entry, (list, tuple)) or len(entry) != config.n_layers:
        n_found = len(entry) if isinstance(entry, (list, tuple)) else "no list"
        detail = f"expected a list of {config.n_layers} layers, found {n_found}"
        raise _error("layout", key, detail, path)
    found = []
    for layer, item in enumerate(entry):
        if isinstance(item, (int, float)) and not isinstance(item, bool):
            item = np.array([item], np.float32)
        if not isinstance(item, np.ndarray) or item.size != length:
            size = item.size if isinstance(item, np.ndarray) else "no tensor"
            detail = f"layer {layer}: expected {length} thresholds, found {size}"
            raise _error("layout", key, detail, path)
        if not ((item >= 0) & (item <= _LARGE)).all():
            raise _error("value", key, f"layer {layer}: a threshold is no size", path)
        found.append(item.reshape(-1))
    return found


def _factors(thresholds: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return 1 / t_i: |x| * factor < 1 means |x| < t_i."""
    least = np.maximum(thresholds.astype(np.float64), 1 / _LARGE)
    return np.ascontiguousarray(1 / least, np.float32)


def _error(kind: str, field: str, detail: str, path: Path) -> CalibrationError:
    return CalibrationError(
        kind,
        shown(field),
        detail,
        path=shown(os.fspath(path), 400),
        advice="Name the folder of TEAL's histograms, or the .pt file of CHESS, of this model.",
    )
