"""What every refusal owes: one typed error, the right kind, little time and memory."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest

from edgesparse.checkpoint import open_checkpoint
from edgesparse.errors import EdgesparseError, ModelFormatError


def refuse(path: Path, kind: str, **options: object) -> ModelFormatError:
    """Open, expecting one typed error within 100 ms and 32 MB."""
    size = path.stat().st_size if path.is_file() else 0
    tracemalloc.start()
    begin = time.process_time()
    try:
        with pytest.raises(EdgesparseError) as caught:
            open_checkpoint(path, **options)
        seconds = time.process_time() - begin
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    error = caught.value
    assert error.exit_code == 3
    assert isinstance(error, ModelFormatError)
    assert error.kind == kind, str(error)
    assert peak < (32 << 20) + 2 * size
    # tracing slows Python several times: the promise of 100 ms is met with room
    assert seconds < 0.5 + 0.05 * (size >> 20)
    assert all(char.isprintable() for char in str(error))
    return error
