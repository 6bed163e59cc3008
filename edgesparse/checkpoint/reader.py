"""`Checkpoint`: one opened model, whatever its container; metadata by key, tensors by name."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint.gguf_header import MetadataValue
from edgesparse.checkpoint.metadata import MetadataReader
from edgesparse.checkpoint.packed import Part
from edgesparse.checkpoint.source import SourceFile, shown
from edgesparse.checkpoint.types import TensorInfo
from edgesparse.errors import MemoryBudgetError

if TYPE_CHECKING:
    from edgesparse.esp.stored import StoredWeights

__all__ = ["Checkpoint"]

_LISTS = ("tokens", "merges", "scores", "token_type")
_VOCABULARY = frozenset(f"tokenizer.ggml.{name}" for name in _LISTS)


class Checkpoint(MetadataReader):
    """Named tensors and metadata of an opened model.

    Reads are positional and exact, so threads may share one checkpoint. Use it as a context
    manager, or call `close`.

    Attributes
    ----------
    path : str
        What was opened.
    kind : str
        ``"gguf"``, ``"safetensors"`` or ``"esp"``.
    n_bytes : int
        Size of all weight files.
    metadata : mapping of str to value
        GGUF-style keys for both kinds. Values are bool, int, float, str, list of int, 1-D arrays
        or `StringArray`. Keys under ``edgesparse.`` are derived: ``rope_style`` ("norm" pairs
        neighbours, "neox" pairs halves), ``norm_offset`` (add to norm weights), ``container``.
    tensors : dict of str to TensorInfo
        By canonical name, in file order.
    warnings : list of str
        What is odd about the file but does not stop it from being read.
    tokenizer_json, tokenizer_model : bytes or None
        ``tokenizer.json`` or ``tokenizer.model`` of a Hugging Face folder.
    stored : StoredWeights or None
        The matrices of a pre-packed file, whose tensors have the type ``STORED``.
    """

    def __init__(
        self,
        path: str,
        kind: str,
        files: Sequence[SourceFile],
        metadata: dict[str, MetadataValue],
        tensors: dict[str, TensorInfo],
        warnings: list[str],
        *,
        tokenizer_json: bytes | None = None,
        tokenizer_model: bytes | None = None,
    ) -> None:
        super().__init__(path, metadata)
        self.kind = kind
        self.n_bytes = sum(file.n_bytes for file in files)
        self.tensors = tensors
        self.warnings = warnings
        self.tokenizer_json = tokenizer_json
        self.tokenizer_model = tokenizer_model
        self.stored: StoredWeights | None = None
        self._files = tuple(files)

    def forget_vocabulary(self) -> None:
        """Drop what only a tokenizer is made from, tens of megabytes: weights come on top."""
        kept = {key: value for key, value in self.metadata.items() if key not in _VOCABULARY}
        self.metadata = MappingProxyType(kept)
        self.tokenizer_json = self.tokenizer_model = None

    # -- tensors --------------------------------------------------------------------------------

    def info(self, name: str) -> TensorInfo:
        """Describe a tensor.

        Raises
        ------
        ModelFormatError
            ``missing`` when there is none of that name.
        """
        found = self.tensors.get(name)
        if found is None:
            raise self._error("missing", name, "the model has no such tensor")
        return found

    def read(self, name: str) -> npt.NDArray[np.uint8]:
        """Copy all bytes of a tensor, shape ``(n_bytes,)``.

        Raises
        ------
        ModelFormatError
            ``missing`` or ``truncated``.
        MemoryBudgetError
            The tensor does not fit into memory.
        """
        return self.read_range(name, 0, self.info(name).n_bytes)

    def read_range(self, name: str, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Copy bytes ``[start, stop)`` of a tensor; errors as in `read`."""
        self._check_span(self.info(name), start, stop)
        try:
            out = np.empty(stop - start, dtype=np.uint8)
        except MemoryError:
            raise MemoryBudgetError(
                f"{shown(name)}: no memory for {stop - start} bytes.",
                advice="Close other programs or choose a smaller model.",
            ) from None
        self.read_into(name, out, start)
        return out

    def read_into(self, name: str, buffer: Any, start: int = 0) -> None:
        """Fill a writable buffer from byte `start` of a tensor; errors as in `read`.

        Parameters
        ----------
        name : str
            Canonical tensor name.
        buffer : writable buffer
            Any C-contiguous array; its length decides how much is read.
        start : int
            First byte within the tensor.
        """
        info = self.info(name)
        view = memoryview(buffer)
        if view.nbytes == 0:
            self._check_span(info, start, start)
            return
        view = view.cast("B")
        self._check_span(info, start, start + view.nbytes)
        self._files[info.file].read_into(view, info.offset + start, name)

    def read_part(self, part: Part) -> npt.NDArray[np.uint8]:
        """Copy all bytes of one of a matrix's tensors; errors as in `read`."""
        try:
            out = np.empty(part.n_bytes, dtype=np.uint8)
        except MemoryError:
            raise MemoryBudgetError(
                f"{shown(part.name)}: no memory for {part.n_bytes} bytes.",
                advice="Close other programs or choose a smaller model.",
            ) from None
        self._files[part.file].read_into(out.data, part.offset, part.name)
        return out

    def check_unchanged(self) -> None:
        """Make sure that no file changed since opening; call it after loading.

        Raises
        ------
        ModelFormatError
            ``truncated``.
        """
        for file in self._files:
            file.check_unchanged()

    def close(self) -> None:
        """Close the files; closing twice is harmless."""
        for file in self._files:
            file.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Checkpoint({self.path!r}, {self.kind}, {len(self.tensors)} tensors)"

    def _check_span(self, info: TensorInfo, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= info.n_bytes:
            detail = f"bytes {start} to {stop} of a tensor of {info.n_bytes}"
            raise self._error("range", info.name, detail)
