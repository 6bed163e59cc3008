"""From a checkpoint to weights: sizes first, one arena, rows streamed through small buffers.

Never two copies of a tensor: each thread reads about a megabyte of rows into a buffer of its own
(small enough to stay in its cache) and repacks it into the final place, in C when the compiled
module is there and with numpy otherwise; the bytes are the same.

Whether a block-scaled ternary tensor has one scale per row is known for sure only after reading
it. Its first row decides beforehand; the rare tensor that breaks the promise later is loaded once
more, in another format, by a second pass with an arena of its own.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgesparse import _native
from edgesparse.checkpoint import (
    Checkpoint,
    TensorInfo,
    TensorType,
    check_scales,
    dequantize,
    layout_of,
)
from edgesparse.checkpoint.source import shown
from edgesparse.cpus import usable_cpus
from edgesparse.errors import MemoryBudgetError, ModelFormatError, NativeUnavailable, UsageError
from edgesparse.formats.choice import Choice
from edgesparse.formats.choose import BLOCK_SCALE_OFFSET, choose
from edgesparse.formats.convert import (
    NotUniform,
    Target,
    convert_native,
    convert_numpy,
)
from edgesparse.formats.coo import as_coo
from edgesparse.formats.grouped import store_grouped
from edgesparse.formats.masters import master_scale
from edgesparse.formats.memory import Arena, allocate, require_bytes
from edgesparse.formats.sliced_blocks import in_slices
from edgesparse.formats.sparse import SPARSE_OF
from edgesparse.formats.stored_outliers import about_bytes, read_outliers
from edgesparse.formats.stored_slices import read_slices
from edgesparse.formats.transposed import store_transposed, transposed_choice
from edgesparse.formats.weight import NEURON_MAJOR, ROW_BY_ROW, Format, Weight, storage_bytes

__all__ = ["load_vector", "load_weights"]

_CHUNK_BYTES = 1 << 20
_I32_MAX = 2**31 - 1
_F32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class _Rows:
    """One piece of work: rows [begin, end) of a tensor, bytes [start, stop) of it in the file."""

    target: Target
    begin: int
    end: int
    start: int
    stop: int


def load_weights(
    checkpoint: Checkpoint,
    names: Mapping[str, str] | Iterable[str],
    *,
    native: bool | None = None,
    threads: int | None = None,
    ternary: Format = Format.T2,
    neuron_major: Container[str] = (),
    by_rows: Callable[[str, Format], str] | None = None,
    row_by_row: Container[str] = (),
    overrides: Mapping[str, Format] | None = None,
    slices: bool | None = None,
    in_place: Container[str] = (),
    sparse: Mapping[str, Callable[[Weight], Weight]] | None = None,
    before: Callable[[Mapping[str, Format], int, int], None] | None = None,
) -> dict[str, Weight]:
    """Load matrices in the formats that kernels read.

    Parameters
    ----------
    checkpoint : Checkpoint
        Opened model.
    names : mapping of str to str, or iterable of str
        Tensor names, or keys of the result with the tensor that each stands for; a tensor named
        twice is loaded once.
    native : bool, optional
        Repack in C; by default when the compiled module is available.
    threads : int, optional
        Threads; by default one per CPU that this process may use.
    ternary : Format
        Format of ternary weights: `Format.T2`, `Format.T5` or `Format.BST`.
    neuron_major : container of str
        Tensors whose product skips inputs of zero: stored as t2n if they are ternary, as q8n, q4n,
        q8mn or q4mn if they are blocks, as bs2n to bs4n if they are bit slices of so many bits.
    by_rows : callable, optional
        Gives the reason why bit slices or blocks of `neuron_major` that would be stored in a format
        stay in it, or an empty text.
    row_by_row : container of str
        Tensors whose product skips outputs: stored as q8r, q4r, q8mr or q4mr if they are blocks, as
        t2 where ternary ones become bst.
    overrides : mapping of str to Format, optional
        Formats for single tensors, see `choose`.
    slices : bool, optional
        See `choose`. By default what a product skips outputs of stays in blocks, which can do so.
    in_place : container of str
        Tensors whose columns keep their order: rows that are looked up, experts.
    sparse : mapping of str to callable, optional
        Tensors that may be stored without their zeros, if q8 or q4 is what they are otherwise, and
        what decides it: it gets the dense matrix and returns that or another. Such tensors are
        loaded one by one, so that no two of them are there dense.
    before : callable, optional
        Called with the format of every tensor, the bytes that all weights will take and those of
        the buffers of loading, before either is allocated; may raise.

    Returns
    -------
    dict of str to Weight
        In the order of `names`.

    Raises
    ------
    ModelFormatError
        ``missing`` tensor, ``value`` for scales or numbers that are not finite, ``truncated``.
    MemoryBudgetError
        The weights do not fit into the memory that is available.
    NativeUnavailable
        `native` is True and there is no compiled module.
    """
    wanted = dict(names) if isinstance(names, Mapping) else {name: name for name in names}
    if native is None:
        native = _native.available()
    elif native and not _native.available():
        raise NativeUnavailable(f"the native engine is not available: {_native.why_not()}.")
    overrides = overrides or {}
    loader = _Loader(checkpoint, native, threads or usable_cpus())
    infos = {name: checkpoint.info(name) for name in dict.fromkeys(wanted.values())}

    def chosen(info: TensorInfo, uniform: bool) -> Choice:
        """Choose the format; of those with the same codes, the one that lets zeros be skipped."""
        name = info.name
        others = NEURON_MAJOR if name in neuron_major else ROW_BY_ROW if name in row_by_row else {}
        # Bit slices skip inputs of zero, and no outputs.
        in_blocks = others is ROW_BY_ROW and (info.packed is None or info.packed.is_ordered)
        choice = choose(
            info,
            uniform=uniform,
            ternary=_ternary_for(name, ternary, neuron_major, row_by_row),
            override=overrides.get(name),
            slices=False if in_blocks and not slices else slices,
            sort=name not in in_place,
        )
        if choice.is_sorted:
            return choice
        if others is NEURON_MAJOR and choice.format in others and by_rows is not None:
            why = by_rows(name, choice.format)
            if why:
                return replace(choice, note=", ".join(filter(None, (choice.note, why))))
        return replace(choice, format=others.get(choice.format, choice.format))

    choices: dict[str, Choice] = {}
    for name, info in infos.items():
        _check_shape(info)
        if info.transposed:
            choices[name] = transposed_choice(info)
        else:
            choices[name] = chosen(info, loader.looks_uniform(info))
    if before is not None:
        formats = {name: choice.format for name, choice in choices.items()}
        sizes = (_stored_bytes(info, choices[name]) for name, info in infos.items())
        before(formats, sum(sizes), loader.buffer_bytes(infos, choices))
    alone = {
        name
        for name in sparse or ()
        if name in choices and choices[name].format in SPARSE_OF and not choices[name].is_sorted
    }
    sides = {name: info for name, info in infos.items() if info.has_outliers}
    others = {n: i for n, i in infos.items() if n not in alone and n not in sides}
    weights, failed = loader.run(others, choices)
    if sides:
        found, _ = loader.run(sides, choices)
        weights |= {name: as_coo(weight, native=native) for name, weight in found.items()}
    arena = Arena()
    for name in alone:
        found, again = loader.run({name: infos[name]}, choices)
        failed |= again
        stored = (sparse or {})[name](found[name])
        weights[name] = replace(stored, data=arena.keep(stored.data))
    if failed:
        retried = {name: infos[name] for name in infos if name in failed}
        for name, info in retried.items():
            weights.pop(name)
            choices[name] = chosen(info, uniform=False)
        more, _ = loader.run(retried, choices)
        weights.update(more)
    checkpoint.check_unchanged()
    return {key: weights[name] for key, name in wanted.items()}


def _ternary_for(
    name: str, wanted: Format, neuron_major: Container[str], row_by_row: Container[str]
) -> Format:
    """Give the ternary format of a tensor; planes lie in tiles, of which no row can be skipped."""
    if name in neuron_major:
        return Format.T2N
    return Format.T2 if wanted is Format.BST and name in row_by_row else wanted


def load_vector(checkpoint: Checkpoint, name: str) -> npt.NDArray[np.float32]:
    """Load a norm weight or bias, of any type that can be decoded, as float32, shape (n,).

    Raises
    ------
    ModelFormatError
        ``missing``, ``truncated``, or ``value`` for a number that is not finite.
    """
    info = checkpoint.info(name)
    raw = checkpoint.read(name)
    check_scales(info.type, raw, info.shape, name=name)
    values = dequantize(info.type, raw, info.shape, info.scale, name=name).reshape(-1)
    if not np.isfinite(values).all():
        raise ModelFormatError("value", shown(name), "a number is not finite")
    return values


def _stored_bytes(info: TensorInfo, choice: Choice) -> int:
    if info.has_outliers:
        return about_bytes(info)
    scales = 4 * info.n_rows if choice.format.has_row_scales else 0
    return _matrix_bytes(info, choice) + scales


def _matrix_bytes(info: TensorInfo, choice: Choice) -> int:
    if info.has_outliers:  # as they stand in the file
        return info.n_bytes
    return storage_bytes(choice.format, info.n_rows, info.n_cols, choice.slices)


def _check_shape(info: TensorInfo) -> None:
    if not (0 < info.n_rows <= _I32_MAX and 0 < info.n_cols <= _I32_MAX):
        detail = f"shape {shown(info.shape)} is no weight matrix"
        raise ModelFormatError("range", shown(info.name), detail)


class _Loader:
    """One call of `load_weights`: where to read, with what to convert, in how many threads."""

    def __init__(self, checkpoint: Checkpoint, native: bool, threads: int) -> None:
        if threads < 1:
            raise UsageError(f"threads={threads} is not a number of threads.")
        self._checkpoint = checkpoint
        self._convert = in_slices(convert_native if native else convert_numpy)
        self._threads = threads
        self._orders: dict[str, npt.NDArray[np.int32]] = {}

    def looks_uniform(self, info: TensorInfo) -> bool:
        """Compare the block scales of the first row; types without them are uniform."""
        offset = BLOCK_SCALE_OFFSET.get(info.type)
        if offset is None:
            return True
        row = self._checkpoint.read_range(info.name, 0, info.row_bytes)
        halves = row.reshape(-1, layout_of(info.type).block_bytes)[:, offset : offset + 2]
        bits = np.ascontiguousarray(halves).view("<u2")
        live = bits[bits & 0x7FFF != 0]
        return live.size == 0 or bool((live == live[0]).all())

    def buffer_bytes(self, infos: Mapping[str, TensorInfo], choices: Mapping[str, Choice]) -> int:
        """Bytes of the threads' buffers: each holds the largest piece."""
        nothing = np.zeros(0, np.float32)
        largest = 0
        for name, info in infos.items():
            target = Target(info, choices[name].format, np.zeros(0, np.uint8), nothing, 1.0)
            largest = max(largest, *(piece.stop - piece.start for piece in _pieces(target)))
        return self._threads * largest

    def run(
        self, infos: Mapping[str, TensorInfo], choices: Mapping[str, Choice]
    ) -> tuple[dict[str, Weight], set[str]]:
        """Load tensors in the chosen formats; also name those that turned out not uniform."""
        sizes = [_matrix_bytes(info, choices[name]) for name, info in infos.items()]
        require_bytes(sum(sizes) + self._threads * _CHUNK_BYTES, "loading the model")
        targets = {}
        for (name, info), data in zip(infos.items(), allocate(sizes), strict=True):
            fmt = choices[name].format
            scales = np.zeros(info.n_rows if fmt.has_row_scales else 0, dtype=np.float32)
            scale = self._tensor_scale(info, fmt)
            targets[name] = Target(info, fmt, data, scales, scale, choices[name].slices)
        pieces = [rows for target in targets.values() for rows in _pieces(target)]
        failed = self._convert_all(pieces, choices)
        # Matrices that have an order in common share it, so that a product gathers its input once.
        shared: dict[bytes, npt.NDArray[np.int32]] = {}
        weights = {}
        for name, target in targets.items():
            _settle_zero_rows(target.scales)
            target.data.flags.writeable = False
            target.scales.flags.writeable = False
            order = self._orders.pop(name, None)
            if order is not None:
                order.flags.writeable = False
                order = shared.setdefault(order.tobytes(), order)
            weights[name] = replace(_weight(target, choices[name]), order=order)
        return weights, failed

    def _tensor_scale(self, info: TensorInfo, fmt: Format) -> float:
        if info.ternarize and fmt.has_row_scales:
            return master_scale(self._checkpoint, info)
        if info.scale is None:
            if info.type is TensorType.HF_T2 or info.type.name.startswith("I2_S"):
                raise ModelFormatError("missing", shown(info.name), "the tensor has no scale")
            return 1.0
        if not abs(info.scale) <= _F32_MAX:
            raise ModelFormatError("value", shown(info.name), f"the scale is {info.scale}")
        return info.scale

    def _convert_all(self, pieces: Sequence[_Rows], choices: Mapping[str, Choice]) -> set[str]:
        """Work through all pieces; the first error stops the others and is raised."""
        queue = deque(pieces)
        buffer_bytes = max((piece.stop - piece.start for piece in pieces), default=0)
        failed: set[str] = set()
        stop = threading.Event()

        def work() -> None:
            buffer = np.empty(buffer_bytes, dtype=np.uint8)
            while not stop.is_set():
                try:
                    piece = queue.popleft()
                except IndexError:
                    return
                name = piece.target.info.name
                if name in failed:
                    continue
                raw = buffer[: piece.stop - piece.start]
                try:
                    if piece.target.info.transposed:
                        store_transposed(self._checkpoint, piece.target, self._convert)
                        continue
                    if piece.target.info.packed is not None:
                        target = piece.target
                        order = store_grouped(
                            self._checkpoint, target.info, choices[name], target.data
                        )
                        if order is not None:
                            self._orders[name] = order
                        continue
                    if piece.target.info.slices is not None:
                        target = piece.target
                        read_slices(self._checkpoint, target.info, target.format, target.data)
                        continue
                    if piece.target.info.has_outliers:
                        read_outliers(self._checkpoint, piece.target.info, piece.target.data)
                        continue
                    self._checkpoint.read_into(name, raw, piece.start)
                    self._convert(piece.target, raw, piece.begin, piece.end)
                except NotUniform:
                    failed.add(name)
                except BaseException:
                    stop.set()
                    raise

        try:
            if self._threads == 1:
                work()
            else:
                with ThreadPoolExecutor(self._threads) as pool:
                    futures = [pool.submit(work) for _ in range(self._threads)]
                    try:
                        for future in futures:
                            future.result()
                    finally:  # also when Ctrl-C ends the wait
                        stop.set()
        except MemoryError:
            raise MemoryBudgetError(
                "no memory for the buffers of loading.",
                advice="Close other programs or choose a smaller model.",
            ) from None
        return failed


def _pieces(target: Target) -> Iterable[_Rows]:
    info = target.info
    if info.packed is not None or info.slices is not None or info.transposed or info.has_outliers:
        # Decoding reads by itself.
        yield _Rows(target, 0, info.n_rows, 0, 0)
        return
    if info.type is TensorType.HF_T2:
        yield _Rows(target, 0, info.n_rows, 0, info.n_bytes)
        return
    group, group_bytes = info.row_group, info.row_bytes
    tile = target.format.tile_rows
    per_tile = tile // group * group_bytes
    step = max(1, _CHUNK_BYTES // per_tile) * tile
    for begin in range(0, info.n_rows, step):
        end = min(begin + step, info.n_rows)
        yield _Rows(target, begin, end, begin // group * group_bytes, end // group * group_bytes)


def _settle_zero_rows(scales: npt.NDArray[np.float32]) -> None:
    """Give rows of zeros the scale of the tensor, if all others share one.

    Files differ in what they store for such rows; so the same matrix gets the same scales,
    whatever the file type.
    """
    live = scales[scales != 0]
    if live.size and live.size < scales.size and bool((live == live[0]).all()):
        scales.fill(live[0])


def _weight(target: Target, choice: Choice) -> Weight:
    info = target.info
    return Weight(
        info.name,
        target.format,
        info.n_rows,
        info.n_cols,
        target.data,
        target.scales,
        source="slices"
        if info.slices is not None
        else "outliers"
        if info.has_outliers
        else info.type.name,
        note=choice.note,
        is_rounded=choice.is_rounded,
        slices=choice.slices,
    )
