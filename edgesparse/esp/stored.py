"""Matrices of a pre-packed file: what the index says of them, and their bytes as `Weight`."""

from __future__ import annotations

import mmap
import os
import stat
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint.source import SourceFile, shown
from edgesparse.errors import ModelFormatError, UsageError
from edgesparse.esp.layout import BLOB, Section
from edgesparse.formats.memory import allocate, require_bytes
from edgesparse.formats.sparse import bytes_agree
from edgesparse.formats.weight import Format, Slices, Weight, Zeros, storage_bytes

__all__ = ["Index", "Record", "StoredWeights"]

_MAX_DIM = 2**31 - 1
_STEP = 4 << 20
_CODES = (Format.T2, Format.T2N)
"""Formats of two-bit codes, of which 3 is none."""
_CHOICES = {"group": (0, 32, 64, 128), "zeros": tuple(int(z) for z in Zeros), "wide": (0, 1)}


@dataclass(frozen=True)
class Record:
    """One matrix of the index; `data`, `scales` and `order` are numbers of sections."""

    name: str
    format: Format
    n_rows: int
    k: int
    data: int
    scales: int | None
    source: str
    note: str
    is_rounded: bool
    slices: Slices | None
    order: int | None = None


class Index:
    """The index, checked: names, formats, shapes, and the sizes of the sections they name.

    Attributes
    ----------
    weights : dict of str to Record
    vectors : dict of str to (int, int)
        Section and length of every vector.
    """

    def __init__(self, json: Any, sections: list[Section], path: str) -> None:
        self._sections, self._path, self._used = sections, path, set[int]()
        self._orders: dict[int, int] = {}
        if not isinstance(json, dict) or set(json) != {"weights", "vectors"}:
            raise self._error("type", "index", "expected weights and vectors")
        self.weights: dict[str, Record] = {}
        for item in self._list(json["weights"]):
            record = self._record(item)
            if record.name in self.weights:
                raise self._error("duplicate", record.name, "the index has it twice")
            self.weights[record.name] = record
        self.vectors: dict[str, tuple[int, int]] = {}
        for item in self._list(json["vectors"]):
            name, length = self._text(item, "name", 255), self._number(item, "length", _MAX_DIM)
            if name in self.vectors:
                raise self._error("duplicate", name, "the index has it twice")
            self.vectors[name] = (self._blob(item, "data", 4 * length, name), length)

    def _record(self, item: dict[str, Any]) -> Record:
        name = self._text(item, "name", 255)
        n_rows, k = (self._number(item, key, _MAX_DIM) for key in ("n_rows", "k"))
        try:
            fmt = Format[self._text(item, "format", 8)]
        except KeyError:
            raise self._error("unsupported", name, f"format {shown(item['format'])}") from None
        slices = self._slices(item, name) if fmt.is_sliced and fmt is not Format.BST else None
        # What the zeros decide is checked against the bytes themselves, once they are read.
        size = None if fmt.has_varying_length else storage_bytes(fmt, n_rows, k, slices)
        data = self._blob(item, "data", size, name)
        scales = self._blob(item, "scales", 4 * n_rows, name) if fmt.has_row_scales else None
        source, note = (self._text(item, key, 1000, least=0) for key in ("source", "note"))
        rounded = item.get("is_rounded")
        if not isinstance(rounded, bool):
            raise self._error("type", name, "is_rounded is no truth value")
        order = self._order(item, k, name) if "order" in item else None
        return Record(name, fmt, n_rows, k, data, scales, source, note, rounded, slices, order)

    def _order(self, item: dict[str, Any], k: int, name: str) -> int:
        """Return the section with the order of the columns, which matrices may share."""
        i = item.get("order")
        if type(i) is int and self._orders.get(i) == k:
            return i
        i = self._blob(item, "order", 4 * k, name)
        self._orders[i] = k
        return i

    def _slices(self, item: dict[str, Any], name: str) -> Slices:
        found = {key: item.get(key) for key in _CHOICES}
        for key, value in found.items():
            if type(value) is not int or value not in _CHOICES[key]:
                raise self._error("value", name, f"{key} is {shown(value)}")
        return Slices(item["group"], Zeros(item["zeros"]), bool(item["wide"]))

    def _list(self, value: Any) -> list[dict[str, Any]]:
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self._error("type", "index", "expected a list of records")
        return value

    def _text(self, item: dict[str, Any], key: str, most: int, *, least: int = 1) -> str:
        value = item.get(key)
        if not isinstance(value, str) or not least <= len(value) <= most:
            raise self._error("type", key, f"expected a text, found {shown(value)}")
        return value

    def _number(self, item: dict[str, Any], key: str, most: int) -> int:
        value = item.get(key)
        if type(value) is not int or not 1 <= value <= most:
            raise self._error("range", key, f"expected 1 to {most}, found {shown(value)}")
        return value

    def _blob(self, item: dict[str, Any], key: str, n_bytes: int | None, name: str) -> int:
        i = item.get(key)
        if type(i) is not int or not 0 <= i < len(self._sections):
            raise self._error("range", name, f"{key} names section {shown(i)}")
        section = self._sections[i]
        if section.name != BLOB or i in self._used:
            raise self._error("layout", name, f"{key}: section {i} is not its own")
        if n_bytes is not None and section.n_bytes != n_bytes:
            detail = f"{key} needs {n_bytes} bytes, section {i} has {section.n_bytes}"
            raise self._error("layout", name, detail)
        self._used.add(i)
        return i

    def _error(self, kind: str, field: str, detail: str) -> ModelFormatError:
        path, advice = shown(self._path, 400), "Convert it again."
        return ModelFormatError(kind, shown(field), detail, path=path, advice=advice)


class StoredWeights:
    """The matrices of an open file.

    Parameters
    ----------
    index : Index
    sections : list of Section
    file : SourceFile
    """

    def __init__(self, index: Index, sections: list[Section], file: SourceFile) -> None:
        self.records: Mapping[str, Record] = index.weights
        self._sections, self._file = sections, file

    def n_bytes(self, names: Iterable[str]) -> int:
        """Bytes of matrices and their scales in memory."""
        records = [self.records[name] for name in names]
        return sum(
            self._sections[i].n_bytes
            for record in records
            for i in (record.data, record.scales, record.order)
            if i is not None
        )

    def load(self, names: Iterable[str], *, threads: int, mapped: bool) -> dict[str, Weight]:
        """Read matrices into private memory, or map the file; verify checksums and codes.

        Parameters
        ----------
        names : iterable of str
        threads : int
        mapped : bool
            Map instead of reading: pages are shared with other processes and dropped when memory is
            short. Only a file that nobody else can write is mapped: one that is cut short while it
            is mapped ends the process.

        Raises
        ------
        ModelFormatError
            ``value``: a checksum does not match, a code is none, a scale is not finite.
        MemoryBudgetError
        UsageError
            The file may not be mapped.
        """
        records = [self.records[name] for name in dict.fromkeys(names)]
        parts = [i for r in records for i in (r.data, r.scales, r.order) if i is not None]
        wanted = list(dict.fromkeys(parts))
        if mapped:
            arrays = self._map(wanted)
        else:
            sizes = [self._sections[i].n_bytes for i in wanted]
            require_bytes(sum(sizes), "loading the model")
            arrays = dict(zip(wanted, allocate(sizes), strict=True))
        has_codes = {record.data: record.name for record in records if record.format in _CODES}
        self._each(wanted, lambda i: self._fill(i, arrays[i], has_codes.get(i), mapped), threads)
        orders = self._orders(records, arrays)
        weights = {}
        for r in records:
            scales = np.zeros(0, np.float32)
            if r.scales is not None:
                scales = arrays[r.scales].view(np.float32)
                if not np.isfinite(scales).all():
                    raise self._error(r.name, "a scale is not finite")
            for array in (arrays[r.data], scales):
                array.flags.writeable = False
            weights[r.name] = Weight(
                r.name,
                r.format,
                r.n_rows,
                r.k,
                arrays[r.data],
                scales,
                source=r.source,
                note=r.note,
                is_rounded=r.is_rounded,
                slices=r.slices,
                order=None if r.order is None else orders[r.order],
            )
            is_checked = r.format.is_sparse or r.format.is_aside
            if is_checked and not bytes_agree(weights[r.name]):
                raise self._error(
                    r.name, "offsets, bitmaps, columns or places contradict each other"
                )
        self._file.check_unchanged()
        return weights

    def _orders(
        self, records: list[Record], arrays: Mapping[int, npt.NDArray[np.uint8]]
    ) -> dict[int, npt.NDArray[np.int32]]:
        """Give every order of columns, checked to name each column once."""
        orders: dict[int, npt.NDArray[np.int32]] = {}
        for r in records:
            if r.order is None or r.order in orders:
                continue
            order = arrays[r.order].view(np.int32)
            if not np.array_equal(np.sort(order), np.arange(r.k)):
                raise self._error(r.name, "the order of its columns does not name each once")
            order.flags.writeable = False
            orders[r.order] = order
        return orders

    def _map(self, wanted: list[int]) -> dict[int, npt.NDArray[np.uint8]]:
        self._file.check_unchanged()
        status = os.fstat(self._file.fileno())
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise UsageError(
                f"{shown(self._file.path, 400)}: others can write this file, so it is not mapped.",
                advice="'chmod go-w' it, or load it without mapping.",
            )
        whole = np.frombuffer(
            mmap.mmap(self._file.fileno(), self._file.n_bytes, prot=mmap.PROT_READ), np.uint8
        )
        sections = {i: self._sections[i] for i in wanted}
        return {i: whole[s.offset : s.offset + s.n_bytes] for i, s in sections.items()}

    @staticmethod
    def _each(wanted: list[int], work: Any, threads: int) -> None:
        queue, stop = deque(wanted), threading.Event()

        def take() -> None:
            while not stop.is_set():
                try:
                    i = queue.popleft()
                except IndexError:
                    return
                try:
                    work(i)
                except BaseException:
                    stop.set()
                    raise

        with ThreadPoolExecutor(threads) as pool:
            futures = [pool.submit(take) for _ in range(threads)]
            try:
                for future in futures:
                    future.result()
            finally:
                stop.set()

    def _fill(self, i: int, array: npt.NDArray[np.uint8], codes: str | None, mapped: bool) -> None:
        section, crc = self._sections[i], 0
        for begin in range(0, section.n_bytes, _STEP):
            piece = array[begin : begin + _STEP]
            if not mapped:
                self._file.read_into(piece.data, section.offset + begin, f"section {i}")
            crc = zlib.crc32(piece.data, crc)
            if codes is not None and bool((piece & (piece >> 1) & 0x55).any()):
                raise self._error(codes, "a ternary code is 3")
        if crc != section.crc:
            raise self._error(f"section {i}", "its checksum does not match")

    def _error(self, field: str, detail: str) -> ModelFormatError:
        path = shown(self._file.path, 400)
        return ModelFormatError("value", shown(field), detail, path=path, advice="Convert again.")
