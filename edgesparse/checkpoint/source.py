"""Reading bytes of untrusted files: one descriptor, exact reads, private memory.

Files are never mapped: a mapped file that somebody truncates kills the process with SIGBUS, and a
mapped header can change between the check and the use.
"""

from __future__ import annotations

import os
import stat

from edgesparse.errors import ModelFormatError, ModelNotFound

__all__ = ["SourceFile", "shown"]

_CHUNK = 1 << 30  # one pread moves at most 2^31 - 4096 bytes on Linux


def shown(text: object, limit: int = 80) -> str:
    """Escape text from a file for a message: no control bytes, bounded length."""
    plain = repr(text)[1:-1] if isinstance(text, str) else repr(text)
    return plain if len(plain) <= limit else plain[: limit - 3] + "..."


class SourceFile:
    """A regular file opened once for positional reads; safe to share between threads.

    Parameters
    ----------
    path : str
        File to open; symbolic links are followed, the target must be a regular file.
    dir_fd : int, optional
        Descriptor of the folder that `path` is relative to.
    shown_path : str, optional
        Name for messages.

    Raises
    ------
    ModelNotFound
        Nothing there.
    ModelFormatError
        ``path`` when it cannot be opened or is not a regular file.
    """

    def __init__(self, path: str, *, dir_fd: int | None = None, shown_path: str = "") -> None:
        self.path = shown_path or path
        if "\0" in path:
            raise ModelFormatError("path", "path", "contains a NUL byte", path=shown(self.path))
        # O_NONBLOCK: opening a FIFO without a writer must not wait for one.
        flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            self._fd = os.open(path, flags, dir_fd=dir_fd)
        except FileNotFoundError:
            raise ModelNotFound(
                f"{shown(self.path, 400)}: no such file.", advice="Check the path."
            ) from None
        except OSError as error:
            raise ModelFormatError(
                "path", "file", f"cannot be opened ({error.strerror})", path=shown(self.path, 400)
            ) from None
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise ModelFormatError("path", "file", "is not a regular file", path=self.path)
        self.n_bytes = status.st_size
        self._identity = (status.st_size, status.st_mtime_ns, status.st_ino)

    def read_at(self, offset: int, n_bytes: int, field: str) -> bytes:
        """Read exactly `n_bytes` at `offset`.

        Raises
        ------
        ModelFormatError
            ``truncated`` when the file ends before.
        """
        self._check_range(offset, n_bytes, field)
        parts: list[bytes] = []
        left = n_bytes
        while left:
            part = self._pread(min(left, _CHUNK), offset, field)
            if not part:
                raise self._truncated(field, offset, left)
            parts.append(part)
            offset += len(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_into(self, buffer: memoryview, offset: int, field: str) -> None:
        """Fill a writable byte view from `offset`; same errors as `read_at`."""
        self._check_range(offset, len(buffer), field)
        done = 0
        while done < len(buffer):
            window = buffer[done : done + _CHUNK]
            if hasattr(os, "preadv"):
                try:
                    count = os.preadv(self._fd, [window], offset + done)
                except OSError as error:
                    raise self._unreadable(error, field) from None
            else:  # pragma: no cover - systems without preadv copy once more
                part = self._pread(min(len(window), 1 << 22), offset + done, field)
                count = len(part)
                window[:count] = part
            if count <= 0:
                raise self._truncated(field, offset + done, len(buffer) - done)
            done += count

    def check_unchanged(self) -> None:
        """Compare size, time and inode with those at opening.

        Raises
        ------
        ModelFormatError
            ``truncated`` when the file was rewritten in place since.
        """
        status = os.fstat(self._fd)
        if (status.st_size, status.st_mtime_ns, status.st_ino) != self._identity:
            raise ModelFormatError(
                "truncated",
                "file",
                "changed while it was being read",
                path=self.path,
                advice="Load it again when it is complete.",
            )

    def fileno(self) -> int:
        """Give the descriptor."""
        return self._fd

    def close(self) -> None:
        """Give the descriptor back; closing twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _pread(self, n_bytes: int, offset: int, field: str) -> bytes:
        try:
            return os.pread(self._fd, n_bytes, offset)
        except OSError as error:
            raise self._unreadable(error, field) from None

    def _check_range(self, offset: int, n_bytes: int, field: str) -> None:
        if self._fd < 0:
            raise ModelFormatError("path", shown(field), "the file is closed", path=self.path)
        if offset < 0 or n_bytes < 0 or offset + n_bytes > self.n_bytes:
            raise ModelFormatError(
                "truncated",
                shown(field),
                f"needs bytes {offset} to {offset + n_bytes}, the file has {self.n_bytes}",
                path=self.path,
                advice="The file is incomplete: fetch it again.",
            )

    def _truncated(self, field: str, offset: int, left: int) -> ModelFormatError:
        return ModelFormatError(
            "truncated",
            shown(field),
            f"the file ends at byte {offset}, {left} bytes early",
            path=self.path,
            advice="The file is incomplete: fetch it again.",
        )

    def _unreadable(self, error: OSError, field: str) -> ModelFormatError:
        detail = f"cannot be read ({error.strerror})"
        return ModelFormatError("path", shown(field), detail, path=self.path)
