"""`Work`: what an interrupted compression has finished, kept beside its output."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgesparse
from edgesparse.errors import UsageError
from edgesparse.whole_file import TEMPORARY, replacing

__all__ = ["Work", "fingerprint_of"]

Arrays = Mapping[str, npt.NDArray[np.generic]]

_LOCK = "lock"


def fingerprint_of(source: Path, options: Mapping[str, object]) -> str:
    """Name an input, what is done to it, and the program that does it.

    A file counts by its name, size and time of change, a folder by those of its files; the program
    by its version and by the text of this package, which changes between versions too.
    """
    files = [source] if source.is_file() else sorted(p for p in source.iterdir() if p.is_file())
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    text = json.dumps([stats, dict(options), _program()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _program() -> list[str]:
    modules = sorted(Path(__file__).parent.glob("*.py"))
    texts = [hashlib.sha256(module.read_bytes()).hexdigest() for module in modules]
    return [edgesparse.__version__, *texts]


class Work:
    """A folder of finished matrices, which belongs to one process at a time until it is closed.

    Parameters
    ----------
    output : Path
        The file or folder that is being made; the work lies beside it.
    fingerprint : str
        Of input, options and program; work of another fingerprint is thrown away.

    Attributes
    ----------
    folder : Path
    thrown_away : bool
        Whether there was work of another fingerprint.

    Raises
    ------
    UsageError
        There is no writing beside the output, or another process makes it.
    """

    def __init__(self, output: Path, fingerprint: str) -> None:
        self.folder = output.parent / f".{output.name}.work"
        try:
            self.folder.mkdir(exist_ok=True)
            # Held until `close`, or until the process ends, however it does.
            self._lock = (self.folder / _LOCK).open("w")
        except OSError as error:
            raise UsageError(f"{output} cannot be written ({error.strerror}).") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise UsageError(f"{output} is being made by another process.") from None
        except OSError:
            pass  # a file system without locks
        mark = self.folder / "fingerprint"
        held = mark.read_text() if mark.is_file() else fingerprint
        self.thrown_away = held != fingerprint
        for path in self.folder.iterdir():
            # What a killed process was writing is no use either.
            if path.name != _LOCK and (self.thrown_away or path.name.startswith(TEMPORARY)):
                path.unlink() if not path.is_dir() else shutil.rmtree(path)
        mark.write_text(fingerprint)

    def notes(self, names: Iterable[str]) -> list[str]:
        """Say what became of an earlier run's matrices, of which `names` may be some."""
        said = []
        if self.thrown_away:
            said.append(
                "other options, another text or another version of edgesparse: what an earlier run "
                "finished is thrown away"
            )
        if n_finished := sum(self.has(name) for name in names):
            said.append(f"going on: {n_finished} matrices are finished already")
        return said

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

    def empty_folder(self, name: str) -> Path:
        """Return a folder in this one that has nothing in it."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def remove(self) -> None:
        """Throw the folder away, once the output stands."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Let other processes work here; nothing that is finished, and the folder goes."""
        if not any(self.folder.glob("*.npz")):
            self.remove()
        self._lock.close()

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _path(self, name: str) -> Path:
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.npz"
