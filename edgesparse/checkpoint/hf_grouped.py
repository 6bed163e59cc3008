"""GPTQ, AWQ and compressed-tensors folders: which tensors make up a matrix, all sizes checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgesparse.checkpoint.packed import Packed, Part, survey
from edgesparse.checkpoint.safetensors import SafeTensor
from edgesparse.checkpoint.source import SourceFile, shown
from edgesparse.checkpoint.sparse_bitmask import SPARSE_LAYOUTS
from edgesparse.checkpoint.strict_json import JsonObject
from edgesparse.checkpoint.types import MAX_TENSOR_BYTES, TensorInfo, TensorType
from edgesparse.errors import ModelFormatError, UnsupportedTensorType

__all__ = ["GroupedRecipe", "grouped_recipe", "take_grouped"]

_Records = dict[str, tuple[SafeTensor, int]]

_FLOATS = ("F16", "BF16", "F32")
_TYPES = {
    "gptq": TensorType.GPTQ,
    "awq": TensorType.AWQ,
    "pack-quantized": TensorType.CT_PACKED,
    "int-quantized": TensorType.CT_INT8,
}
_SUFFIXES = {
    "gptq": ("qweight", "qzeros", "scales", "g_idx"),
    "awq": ("qweight", "qzeros", "scales"),
    "pack-quantized": (
        *("weight_packed", "weight_zero_point", "weight_scale"),
        *("weight_g_idx", "weight_shape"),
    ),
    "int-quantized": ("weight", "weight_zero_point", "weight_scale"),
}
_CODES = {name: suffixes[0] for name, suffixes in _SUFFIXES.items()}
_MAX_GROUP = 1 << 20


@dataclass(frozen=True)
class GroupedRecipe:
    """What the configuration says about quantised matrices.

    Attributes
    ----------
    schemes : tuple of str
        Keys of `Packed.scheme` that may occur.
    bits : tuple of int
        Widths that may occur.
    group : int
        Columns per group; -1: the whole row; 0: as the tensors say.
    plus_one : bool
        See `Packed`.
    """

    schemes: tuple[str, ...]
    bits: tuple[int, ...]
    group: int
    plus_one: bool = False


def grouped_recipe(config: JsonObject, side: JsonObject | None) -> GroupedRecipe | None:
    """Read the configuration of a quantised folder.

    Parameters
    ----------
    config : JsonObject
        ``config.json``.
    side : JsonObject or None
        ``quantize_config.json``, which older GPTQ writers left beside it.

    Returns
    -------
    GroupedRecipe or None
        None: not one of these schemes.

    Raises
    ------
    UnsupportedTensorType
        A layout of the scheme that is not read.
    ModelFormatError
        A key of the wrong type or out of range.
    """
    for key in ("quantization_config", "compression_config"):
        found = config.child(key)
        if found is None:
            continue
        method = found.text("quant_method") or found.text("method")
        if method == "compressed-tensors" or (not method and key == "compression_config"):
            return _compressed(found)
        if method in ("gptq", "gptqmodel"):
            return _gptq(found)
        if method == "awq":
            return _awq(found)
        return None
    if side is None:
        return None
    return _awq(side) if side.text("quant_method") == "awq" else _gptq(side)


def _gptq(config: JsonObject) -> GroupedRecipe:
    layout = config.text("checkpoint_format") or config.text("format") or "gptq"
    if layout not in ("gptq", "gptq_v2") or config.flag("is_marlin_format", False):
        raise _unsupported(config, f"the GPTQ layout {shown(layout)}")
    bits = config.integer("bits", 2, 8)
    if bits not in (2, 3, 4, 8):
        raise _unsupported(config, f"GPTQ with {bits} bits")
    return GroupedRecipe(
        ("gptq",),
        (2, 3, 4, 8) if config.values.get("dynamic") else (bits,),
        0 if config.values.get("dynamic") else config.integer("group_size", -1, _MAX_GROUP),
        plus_one=layout == "gptq",
    )


def _awq(config: JsonObject) -> GroupedRecipe:
    version = (config.text("version") or "gemm").lower()
    bits = config.integer("bits" if "bits" in config.values else "w_bit", 1, 16)
    if version != "gemm" or bits != 4:
        raise _unsupported(config, f"AWQ {shown(version)} with {bits} bits")
    key = "group_size" if "group_size" in config.values else "q_group_size"
    return GroupedRecipe(("awq",), (4,), config.integer(key, -1, _MAX_GROUP))


def _compressed(config: JsonObject) -> GroupedRecipe:
    layouts = {config.text("format")}
    bits: set[int] = set()
    groups = config.child("config_groups")
    for name in groups.values if groups is not None else ():
        group = groups.child(name) if groups is not None else None
        weights = group.child("weights") if group is not None else None
        if group is None or weights is None:
            continue
        layouts.add(group.text("format"))
        if weights.text("type", "int") != "int":
            raise _unsupported(weights, f"weights of type {shown(weights.text('type'))}")
        bits.add(weights.integer("num_bits", 2, 8))
    layouts -= {"", "dense", "mixed-precision"}
    known = {"pack-quantized", "int-quantized", "naive-quantized"}
    if not bits and layouts <= SPARSE_LAYOUTS:  # floats, with or without their zeros
        return GroupedRecipe((), (), 0)
    layouts -= SPARSE_LAYOUTS
    if not bits or not layouts <= known:
        what = ", ".join(sorted(layouts)) or "without quantised weights"
        raise _unsupported(config, f"compressed-tensors {shown(what)}")
    return GroupedRecipe(("pack-quantized", "int-quantized"), tuple(sorted(bits)), 0)


def take_grouped(
    recipe: GroupedRecipe, records: _Records, files: list[SourceFile], folder: str
) -> dict[str, TensorInfo]:
    """Take the parts of quantised matrices out of `records`.

    Returns
    -------
    dict of str to TensorInfo
        By the name that the matrix would have unquantised, ``….up_proj.weight``.

    Raises
    ------
    ModelFormatError
        A part is missing, or of another type or shape than the others mean.
    """
    found: dict[str, TensorInfo] = {}
    for scheme in recipe.schemes:
        ending = "." + _CODES[scheme]
        modules = [name.removesuffix(ending) for name in records if name.endswith(ending)]
        for module in modules:
            if scheme == "int-quantized" and records[module + ending][0].dtype != "I8":
                continue
            parts = {}
            for suffix in _SUFFIXES[scheme]:
                record = records.pop(f"{module}.{suffix}", None)
                if record is not None:
                    tensor, file = record
                    parts[suffix] = Part(
                        *(tensor.name, file, tensor.offset),
                        *(tensor.n_bytes, tensor.dtype, tensor.shape),
                    )
            matrix = _Matrix(recipe, scheme, parts, module, files, folder)
            found[f"{module}.weight"] = matrix.info(f"{module}.weight")
    return found


class _Matrix:
    """The parts of one matrix; `info` checks them against each other."""

    def __init__(
        self,
        recipe: GroupedRecipe,
        scheme: str,
        parts: Mapping[str, Part],
        module: str,
        files: list[SourceFile],
        folder: str,
    ) -> None:
        self.recipe = recipe
        self.scheme = scheme
        self.parts = parts
        self.module = module
        self.files = files
        self.folder = folder

    def info(self, name: str) -> TensorInfo:
        """Describe the matrix under `name`."""
        if self.scheme == "gptq":
            packed, shape = self._gptq()
        elif self.scheme == "awq":
            packed, shape = self._awq()
        else:
            packed, shape = self._compressed()
        if 0 in shape or shape[0] * shape[1] > MAX_TENSOR_BYTES:
            raise self._error("range", _CODES[self.scheme], f"{shape} is no weight matrix")
        n_bytes = sum(part.n_bytes for part in self.parts.values())
        packed = survey(packed, shape, self.files)
        codes = packed.codes
        return TensorInfo(
            name, _TYPES[self.scheme], shape, n_bytes, codes.offset, codes.file, packed=packed
        )

    def _gptq(self) -> tuple[Packed, tuple[int, int]]:
        codes = self._part("qweight", ("I32",), 2)
        scales = self._part("scales", _FLOATS, 2)
        zeros = self._part("qzeros", ("I32",), 2)
        order = self._part("g_idx", ("I32",), 1) if "g_idx" in self.parts else None
        n_rows, n_groups = codes.shape[1], scales.shape[0]
        bits = self._one_width(
            [
                b
                for b in self.recipe.bits
                if order is None or codes.shape[0] * 32 == b * order.shape[0]
            ],
            "qweight",
        )
        if codes.shape[0] * 32 % bits:
            raise self._error("layout", "qweight", f"{codes.shape[0]} words of {bits}-bit codes")
        k = codes.shape[0] * 32 // bits
        group = self._group(k, n_groups, "scales")
        self._expect("scales", scales, (n_groups, n_rows))
        self._expect("qzeros", zeros, (n_groups, -(-n_rows * bits // 32)))
        packed = Packed(
            *("gptq", bits, n_groups, group, codes, scales, zeros, order),
            plus_one=self.recipe.plus_one,
        )
        return packed, (n_rows, k)

    def _awq(self) -> tuple[Packed, tuple[int, int]]:
        codes = self._part("qweight", ("I32",), 2)
        scales = self._part("scales", _FLOATS, 2)
        zeros = self._part("qzeros", ("I32",), 2)
        k, n_rows, n_groups = codes.shape[0], 8 * codes.shape[1], scales.shape[0]
        group = self._group(k, n_groups, "scales")
        if k % group:
            raise self._error("layout", "qweight", f"{k} columns in groups of {group}")
        self._expect("scales", scales, (n_groups, n_rows))
        self._expect("qzeros", zeros, (n_groups, codes.shape[1]))
        return Packed("awq", 4, n_groups, group, codes, scales, zeros), (n_rows, k)

    def _compressed(self) -> tuple[Packed, tuple[int, int]]:
        whole = self.scheme == "int-quantized"
        codes = self._part(_CODES[self.scheme], ("I8",) if whole else ("I32",), 2)
        scales = self._part("weight_scale", _FLOATS, None)
        n_rows, k = codes.shape if whole else self._stated_shape()
        bits, padded = 8, False
        if not whole:
            if n_rows != codes.shape[0]:
                detail = f"{codes.shape[0]} rows, weight_shape says {n_rows}"
                raise self._error("layout", "weight_packed", detail)
            dense = [b for b in self.recipe.bits if codes.shape[1] == -(-k * b // 32)]
            wide = [b for b in self.recipe.bits if codes.shape[1] == -(-k // (32 // b))]
            bits = self._one_width(sorted({*dense, *wide}), "weight_packed")
            padded = bits not in dense
        one = len(scales.shape) < 2 or scales.shape == (1, 1)
        n_groups = 1 if one else scales.shape[1]
        if one:
            self._expect("weight_scale", scales, (1, 1) if len(scales.shape) == 2 else (1,))
        else:
            self._expect("weight_scale", scales, (n_rows, n_groups))
        group = self._group(k, n_groups, "weight_scale")
        zeros = order = None
        if "weight_zero_point" in self.parts:
            zeros = self._part("weight_zero_point", ("I8",) if whole else ("I32",), None)
            n_words = -(-n_rows // (32 // bits)) if padded else -(-n_rows * bits // 32)
            self._expect("weight_zero_point", zeros, scales.shape if whole else (n_words, n_groups))
        if "weight_g_idx" in self.parts:
            order = self._part("weight_g_idx", ("I32", "I64"), 1)
            self._expect("weight_g_idx", order, (k,))
            if self._is_unused(order):
                order = None
        packed = Packed(
            *(self.scheme, bits, n_groups, group, codes, scales, zeros, order), padded=padded
        )
        return packed, (n_rows, k)

    def _stated_shape(self) -> tuple[int, int]:
        part = self._part("weight_shape", ("I64", "I32"), 1)
        self._expect("weight_shape", part, (2,))
        width = 8 if part.dtype == "I64" else 4
        raw = self.files[part.file].read_at(part.offset, part.n_bytes, part.name)
        n_rows, k = (
            int.from_bytes(raw[at : at + width], "little", signed=True) for at in (0, width)
        )
        if not (0 < n_rows < 1 << 31 and 0 < k < 1 << 31):
            raise self._error("range", "weight_shape", f"{n_rows} x {k} is no weight matrix")
        return n_rows, k

    def _is_unused(self, order: Part) -> bool:
        raw = self.files[order.file].read_at(order.offset, order.n_bytes, order.name)
        return raw == b"\xff" * len(raw)  # -1 everywhere

    def _part(self, suffix: str, dtypes: tuple[str, ...], rank: int | None) -> Part:
        part = self.parts.get(suffix)
        if part is None:
            raise self._error("missing", suffix, f"{_CODES[self.scheme]} needs it")
        if part.dtype not in dtypes or (rank is not None and len(part.shape) != rank):
            expected = f"{' or '.join(dtypes)} of {rank or '1 or 2'} dimensions"
            detail = f"expected {expected}, found {part.dtype} {shown(part.shape)}"
            raise self._error("layout", suffix, detail)
        return part

    def _expect(self, suffix: str, part: Part, shape: tuple[int, ...]) -> None:
        if part.shape != shape:
            detail = f"expected shape {shape}, found {shown(part.shape)}"
            raise self._error("layout", suffix, detail)

    def _one_width(self, widths: list[int], suffix: str) -> int:
        if len(widths) != 1:
            detail = f"its size fits {widths or 'none'} of the {list(self.recipe.bits)} bits"
            raise self._error("layout", suffix, detail)
        return widths[0]

    def _group(self, k: int, n_groups: int, suffix: str) -> int:
        group = self.recipe.group
        if group == 0:
            group = -(-k // max(n_groups, 1))
        elif group == -1:
            group = k
        if n_groups < 1 or group < 1 or -(-k // group) != n_groups:
            detail = f"{n_groups} groups for {k} columns in groups of {group}"
            raise self._error("layout", suffix, detail)
        return group

    def _error(self, kind: str, suffix: str, detail: str) -> ModelFormatError:
        return ModelFormatError(
            kind, shown(f"{self.module}.{suffix}"), detail, path=shown(self.folder, 400)
        )


def _unsupported(config: JsonObject, what: str) -> UnsupportedTensorType:
    return UnsupportedTensorType(
        "unsupported",
        "config.json quantization_config",
        f"{what} is not read",
        path=shown(config.path, 400),
        advice="Use the unquantised safetensors or a GGUF file of the same model.",
    )
