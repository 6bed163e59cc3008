"""Thresholds for a mere number: the same share everywhere, calibrated on a text that comes along.

What was found is kept in the user's cache, by model and share, and read from there the next time.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgesparse.errors import EdgesparseError, UsageError
from edgesparse.sample_text import sample_text
from edgesparse.sparsity.calibrate import MAX_SPARSITY, calibrate_thresholds
from edgesparse.sparsity.calibration import load_calibration
from edgesparse.sparsity.thresholds import DENSE_TOKENS, Thresholds
from edgesparse.tuning import cache_file

if TYPE_CHECKING:
    from edgesparse.model import Model

__all__ = ["automatic_thresholds", "parse_share"]

_TOKENS = 1024


def parse_share(value: float | str) -> float:
    """Return the share that a number, or its text, stands for.

    Raises
    ------
    UsageError
        It is not above 0 and at most `MAX_SPARSITY`.
    """
    share = math.nan if isinstance(value, bool) else float(value)
    if not 0 < share <= MAX_SPARSITY:
        raise UsageError(
            f"a sparsity must be above 0 and at most {MAX_SPARSITY}, not {value}.",
            advice="Or name a file of 'edgesparse calibrate'.",
        )
    return share


def automatic_thresholds(
    share: float, fingerprint: str, load: Callable[[], Model]
) -> tuple[Thresholds, str]:
    """Give uniform thresholds, from the cache or by calibrating.

    Parameters
    ----------
    share : float
        Of the elements that are to be ignored, as `parse_share` returns it.
    fingerprint : str
        Of the model.
    load : callable
        Loads the model with fused=False; called only if nothing is in the cache.

    Returns
    -------
    thresholds : Thresholds
    note : str
        A sentence that says where they come from.

    Raises
    ------
    UsageError
        The model cannot be calibrated.
    """
    text = sample_text(short=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    origin = f"thresholds for a sparsity of {share:g} are uniform, from the built-in sample text"
    advice = "'edgesparse calibrate' makes better ones from a text of yours"
    file = _file(fingerprint, share, digest)
    kept = _kept(file, fingerprint, share, digest)
    if kept is not None:
        return kept, f"{origin}; {advice}"
    with load() as model:
        made = calibrate_thresholds(
            model,
            model.tokenize(text, add_special=True),
            method="teal",
            sparsity=share,
            allocation="uniform",
            max_tokens=_TOKENS,
            dense_tokens=DENSE_TOKENS,
            text_sha256=digest,
        )
    if file is not None:
        with contextlib.suppress(OSError, EdgesparseError):  # the next load calibrates again
            file.parent.mkdir(parents=True, exist_ok=True)
            made.save(file)
    return made, f"{origin}, calibrated just now; {advice}"


def _file(fingerprint: str, share: float, digest: str) -> Path | None:
    beside = cache_file()
    if beside is None:
        return None
    return beside.parent / f"sparsity-{fingerprint}-{digest[:8]}-{share!r}.json"


def _kept(file: Path | None, fingerprint: str, share: float, digest: str) -> Thresholds | None:
    """Read the cache; what is not there, broken or about something else counts as nothing."""
    if file is None or not file.is_file():
        return None
    try:
        found = load_calibration(file)
    except EdgesparseError:
        return None
    if isinstance(found, Thresholds) and (
        (found.model_fingerprint, found.sparsity, found.text_sha256, found.method)
        == (fingerprint, share, digest, "teal")
    ):
        return found
    return None
