"""`Work`: what an interrupted compression has finished, kept beside its output."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesparse.errors import UsageError
from edgesparse.whole_file import replacing

__all__ = ["Work", "fingerprint_of"]

Arrays = Mapping[str, npt.NDArray[np.generic]]


def fingerprint_of(source: Path, options: Mapping[str, object]) -> str:
    """Name an input and what is done to it.

    A file counts by its name, size and time of change, a folder by those of its files.
    """
    files = [source] if source.is_file() else sorted(p for p in source.iterdir() if p.is_file())
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    text = json.dumps([stats, dict(options)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Work:
    """A folder of finished matrices.

    Parameters
    ----------
    output : Path
        The file or folder that is being made; the work lies beside it.
    fingerprint : str
        Of input and options; work of another fingerprint is thrown away.
    """

    def __init__(self, output: Path, fingerprint: str) -> None:
        self.folder = output.parent / f".{output.name}.work"
        mark = self.folder / "fingerprint"
        if self.folder.exists() and (not mark.is_file() or mark.read_text() != fingerprint):
            shutil.rmtree(self.folder)
        self.folder.mkdir(exist_ok=True)
        mark.write_text(fingerprint)
        self.n_found = len(list(self.folder.glob("*.npz")))

    def has(self, name: str) -> bool:
        """Tell whether a matrix is finished."""
        return self._path(name).is_file()

    def get(self, name: str) -> dict[str, npt.NDArray[np.generic]] | None:
        """Return what `put` was given, or None; what cannot be read counts as missing."""
        try:
            with np.load(self._path(name), allow_pickle=False) as stored:
                return {key: stored[key] for key in stored.files}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def require(self, name: str) -> dict[str, npt.NDArray[np.generic]]:
        """Return what `get` does.

        Raises
        ------
        UsageError
            It is not there any more.
        """
        found = self.get(name)
        if found is None:
            raise UsageError(f"{self.folder} was changed while the file was written.")
        return found

    def put(self, name: str, arrays: Arrays) -> None:
        """Keep the result for a matrix, whole or not at all."""
        with replacing(self._path(name)) as file:
            np.savez(file, **dict[str, Any](arrays))

    def remove(self) -> None:
        """Throw the folder away, once the output stands."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.npz"
