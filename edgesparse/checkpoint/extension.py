"""Arrays of our GGUF extensions: ``PREFIX.version``, ``PREFIX.names``, numbers for every name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgesparse.checkpoint.gguf_header import MetadataValue
from edgesparse.checkpoint.source import shown
from edgesparse.checkpoint.strings import StringArray
from edgesparse.checkpoint.types import TensorInfo, TensorType
from edgesparse.errors import ModelFormatError

__all__ = ["MAX_DIMENSION", "Extension"]

MAX_DIMENSION = 2**31 - 1


@dataclass(frozen=True)
class Extension:
    """One extension in a file.

    Attributes
    ----------
    prefix : str
        What its keys begin with, the last dot included.
    version : int
        The only one that is read.
    path : str
        Of the file, for errors.
    """

    prefix: str
    version: int
    path: str

    def records(
        self, metadata: Mapping[str, MetadataValue], fields: Sequence[str]
    ) -> list[tuple[str, list[int]]]:
        """Return every name with its numbers, one for each field; none if the file has no version.

        Raises
        ------
        ModelFormatError
            ``version``, ``missing`` or ``layout``: arrays that do not agree with each other.
        """
        version = metadata.get(self.prefix + "version")
        if version is None:
            return []
        if version != self.version:
            detail = f"expected {self.version}, found {shown(version)}"
            raise self.error("version", "version", detail, "Use a newer edgesparse for this file.")
        names = metadata.get(self.prefix + "names")
        if not isinstance(names, StringArray):
            raise self.error("missing", "names", f"expected strings, found {shown(names)}")
        columns = [self._numbers(metadata, field, len(names)) for field in fields]
        return [(name, [int(column[i]) for column in columns]) for i, name in enumerate(names)]

    def _numbers(self, metadata: Mapping[str, MetadataValue], field: str, n: int) -> list[int]:
        values = metadata.get(self.prefix + field)
        if isinstance(values, np.ndarray) and np.issubdtype(values.dtype, np.integer):
            values = values.tolist()
        if not isinstance(values, list) or len(values) != n:
            size = len(values) if isinstance(values, list) else shown(values)
            raise self.error("layout", field, f"expected {n} whole numbers, found {size}")
        return values

    def tensor(
        self, tensors: Mapping[str, TensorInfo], name: str, *, suffix: str = ""
    ) -> TensorInfo:
        """Return the tensor of a name, which must be I8 with one dimension.

        Raises
        ------
        ModelFormatError
            ``missing`` or ``layout``.
        """
        info = tensors.get(name)
        if info is None:
            raise self.error("missing", "names", f"there is no tensor {shown(name)}")
        if not name.endswith(suffix) or info.type is not TensorType.I8 or len(info.shape) != 1:
            wanted = f"X{suffix}, I8, one dimension" if suffix else "I8 with one dimension"
            raise self.layout_error(name, f"expected {wanted}, found {info.type.name} {info.shape}")
        return info

    def error(
        self, kind: str, field: str, detail: str, advice: str = "The file is damaged."
    ) -> ModelFormatError:
        """Make the error of an array."""
        path = shown(self.path, 400)
        return ModelFormatError(kind, self.prefix + field, detail, path=path, advice=advice)

    def layout_error(self, name: str, detail: str) -> ModelFormatError:
        """Make the error of a tensor."""
        return ModelFormatError("layout", shown(name), detail, path=shown(self.path, 400))
