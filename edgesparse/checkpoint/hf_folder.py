"""Hugging Face folders: ``config.json`` beside safetensors, plain or quantised."""

from __future__ import annotations

import os
import re
from dataclasses import replace

import numpy as np

from edgesparse.checkpoint.gguf_header import MetadataValue
from edgesparse.checkpoint.hf_config import metadata_from_config, tokenizer_metadata
from edgesparse.checkpoint.hf_grouped import grouped_recipe, take_grouped
from edgesparse.checkpoint.hf_quantization import BitNetRecipe, bitnet_recipe, refuse_by_names
from edgesparse.checkpoint.names import gguf_name, is_buffer, is_projection, module_of
from edgesparse.checkpoint.reader import Checkpoint
from edgesparse.checkpoint.safetensors import DTYPES, SafeTensor, read_safetensors
from edgesparse.checkpoint.source import SourceFile, shown
from edgesparse.checkpoint.sparse_bitmask import take_bitmasks
from edgesparse.checkpoint.strict_json import JsonObject, read_json_file, read_small_file
from edgesparse.checkpoint.types import TensorInfo, TensorType, n_bytes_of
from edgesparse.checkpoint.verify import verify_cheaply
from edgesparse.errors import ModelFormatError, ModelNotFound, UnsupportedTensorType

__all__ = ["open_folder"]

_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}\.safetensors", re.ASCII)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_CONFIG_BYTES = 4 << 20
_INDEX_BYTES = 64 << 20
_TOKENIZER_BYTES = 64 << 20
_TEMPLATE_BYTES = 256 << 10
_MAX_SHARDS = 1_000
_NAMES_IN_WARNING = 5


def open_folder(folder: str, only: str | None = None, *, verify: bool = True) -> Checkpoint:
    """Open a model folder.

    Parameters
    ----------
    folder : str
        Folder with ``config.json``.
    only : str, optional
        Name of the one weight file to read; else the index or the folder decides.
    verify : bool
        As in `edgesparse.checkpoint.open_checkpoint`, errors too.
    """
    try:
        dir_fd = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ModelNotFound(
            f"{shown(folder, 400)}: no such folder.", advice="Check the path."
        ) from None
    except (OSError, ValueError) as error:
        raise ModelFormatError(
            "path", "folder", f"cannot be opened ({error})", path=shown(folder, 400)
        ) from None
    files: list[SourceFile] = []
    try:
        checkpoint = _open(folder, dir_fd, only, files)
        if verify:
            verify_cheaply(checkpoint)
        return checkpoint
    except BaseException:
        for file in files:
            file.close()
        raise
    finally:
        os.close(dir_fd)


def _open(folder: str, dir_fd: int, only: str | None, files: list[SourceFile]) -> Checkpoint:
    config = read_json_file("config.json", folder, dir_fd, _CONFIG_BYTES)
    if config is None:
        raise ModelFormatError(
            "missing",
            "config.json",
            "the folder has none",
            path=shown(folder, 400),
            advice="Fetch the whole model folder, or give a .gguf file.",
        )
    metadata = metadata_from_config(config, os.path.basename(os.path.abspath(folder)))
    metadata.update(_tokenizer_keys(config, folder, dir_fd))
    side = read_json_file("quantize_config.json", folder, dir_fd, _CONFIG_BYTES)
    grouped = grouped_recipe(config, side)
    recipe = None if grouped is not None else bitnet_recipe(config)
    warnings: list[str] = []
    weight_map = None if only else _weight_map(folder, dir_fd)
    names = [only] if only else _shard_names(folder, dir_fd, weight_map)
    records: dict[str, tuple[SafeTensor, int]] = {}
    for index, name in enumerate(names):
        files.append(SourceFile(name, dir_fd=dir_fd, shown_path=os.path.join(folder, name)))
        for tensor in read_safetensors(files[-1]):
            if tensor.name in records:
                raise _error("duplicate", tensor.name, "the tensor is in two files", folder)
            records[tensor.name] = (tensor, index)
    if weight_map is not None:
        _check_map(weight_map, records, names, folder, warnings)
    take_bitmasks(records, files, metadata, folder, warnings)
    matrices = {} if grouped is None else take_grouped(grouped, records, files, folder)
    refuse_by_names(records, config)
    tensors = _Translation(folder, files, metadata, recipe, warnings).run(records, matrices)
    return Checkpoint(
        folder,
        "safetensors",
        files,
        metadata,
        tensors,
        warnings,
        tokenizer_json=read_small_file("tokenizer.json", folder, dir_fd, _TOKENIZER_BYTES),
        tokenizer_model=read_small_file("tokenizer.model", folder, dir_fd, _TOKENIZER_BYTES),
    )


def _tokenizer_keys(config: JsonObject, folder: str, dir_fd: int) -> dict[str, MetadataValue]:
    return tokenizer_metadata(
        config,
        read_json_file("generation_config.json", folder, dir_fd, _CONFIG_BYTES),
        read_json_file("tokenizer_config.json", folder, dir_fd, _CONFIG_BYTES),
        read_small_file("chat_template.jinja", folder, dir_fd, _TEMPLATE_BYTES),
    )


def _weight_map(folder: str, dir_fd: int) -> dict[str, str] | None:
    """Read the shard index; every value must be a bare file name of this folder."""
    index_name = "model.safetensors.index.json"
    index = read_json_file(index_name, folder, dir_fd, _INDEX_BYTES, max_containers=64)
    if index is None:
        return None
    weight_map = index.child("weight_map")
    if weight_map is None:
        raise index.error("missing", "weight_map", "the index has none")
    for name, shard in weight_map.values.items():
        if not isinstance(shard, str):
            raise weight_map.error("type", name, "expected a file name")
        if not _SHARD.fullmatch(shard):
            raise weight_map.error("path", name, f"{shown(shard)} is not a bare file name")
    return dict(weight_map.values)


def _shard_names(folder: str, dir_fd: int, weight_map: dict[str, str] | None) -> list[str]:
    if weight_map is not None:
        names = sorted(set(weight_map.values()))
    else:
        present = os.listdir(dir_fd)
        names = sorted(name for name in present if _SHARD.fullmatch(name))
        if "model.safetensors" in names:
            names = ["model.safetensors"]
        if not names and any(name.lower().endswith(_PICKLES) for name in present):
            raise ModelFormatError(
                "unsupported",
                "weights",
                "pickled weight files can run code and are never opened",
                path=shown(folder, 400),
                advice="Use the safetensors or GGUF files of the same model.",
            )
    if not names:
        raise _error("missing", "weights", "the folder has no .safetensors file", folder)
    if len(names) > _MAX_SHARDS:
        raise _error("limit", "weights", f"{len(names)} files, at most {_MAX_SHARDS}", folder)
    return names


def _check_map(
    weight_map: dict[str, str],
    records: dict[str, tuple[SafeTensor, int]],
    names: list[str],
    folder: str,
    warnings: list[str],
) -> None:
    for name, shard in weight_map.items():
        found = records.get(name)
        if found is None or names[found[1]] != shard:
            raise _error("missing", name, f"the index places it in {shown(shard)}", folder)
    unlisted = len(records) - len(weight_map)
    if unlisted:
        warnings.append(f"{unlisted} tensors are not in the shard index")


class _Translation:
    """Records of the container become tensors of the engine."""

    def __init__(
        self,
        folder: str,
        files: list[SourceFile],
        metadata: dict[str, MetadataValue],
        recipe: BitNetRecipe | None,
        warnings: list[str],
    ) -> None:
        self.folder = folder
        self.files = files
        self.metadata = metadata
        self.recipe = recipe
        self.warnings = warnings
        self.architecture = str(metadata["general.architecture"])

    def run(
        self, records: dict[str, tuple[SafeTensor, int]], matrices: dict[str, TensorInfo]
    ) -> dict[str, TensorInfo]:
        tensors: dict[str, TensorInfo] = {}
        for hf_name, info in matrices.items():
            name = gguf_name(hf_name, self.architecture)
            if name is None:
                raise _error("unsupported", hf_name, "no such matrix is known", self.folder)
            tensors[name] = replace(info, name=name)
        scales: dict[str, float] = {}
        unknown: list[str] = []
        for record, file in records.values():
            name = gguf_name(record.name, self.architecture)
            if name is None:
                if not is_buffer(record.name):
                    unknown.append(record.name)
            elif name.endswith(".weight_scale"):
                scales[name.removesuffix("_scale")] = self._scale(record, file)
            elif name in tensors:
                raise _error("duplicate", record.name, f"a second {name}", self.folder)
            else:
                tensors[name] = self._tensor(name, record, file)
        self._attach(tensors, scales)
        if unknown:
            some = ", ".join(shown(name) for name in unknown[:_NAMES_IN_WARNING])
            self.warnings.append(f"{len(unknown)} unknown tensors are not loaded: {some}")
        return tensors

    def _tensor(self, name: str, record: SafeTensor, file: int) -> TensorInfo:
        recipe = self.recipe
        converted = (
            recipe is not None
            and is_projection(name)
            and not recipe.is_excluded(module_of(record.name))
        )
        if recipe is not None and converted and not recipe.masters:
            return self._packed(name, record, file)
        tensor_type = DTYPES.get(record.dtype)
        if tensor_type is None:
            raise UnsupportedTensorType(
                "unsupported",
                shown(record.name),
                f"dtype {record.dtype} is not read here",
                path=shown(self.folder, 400),
                advice="Use the unquantised safetensors or a GGUF file of the same model.",
            )
        return TensorInfo(
            name,
            tensor_type,
            record.shape,
            record.n_bytes,
            record.offset,
            file,
            ternarize=converted,
        )

    def _packed(self, name: str, record: SafeTensor, file: int) -> TensorInfo:
        n_rows = self._rows_of(name)
        if record.dtype != "U8" or len(record.shape) != 2:
            detail = f"expected packed U8, found {record.dtype} {shown(record.shape)}"
            raise _error("layout", record.name, detail, self.folder)
        if record.shape[0] != -(-n_rows // 4):
            detail = f"{record.shape[0]} packed rows, config.json means {n_rows} / 4"
            raise _error("layout", record.name, detail, self.folder)
        shape = (n_rows, record.shape[1])
        n_bytes = n_bytes_of(TensorType.HF_T2, shape, field=shown(record.name))
        return TensorInfo(name, TensorType.HF_T2, shape, n_bytes, record.offset, file)

    def _rows_of(self, name: str) -> int:
        """Give the output width of a projection: packing hides up to three rows."""
        a = self.architecture
        head_dim = self._size(f"{a}.attention.key_length")
        stem = name.split(".")[2]
        if stem == "attn_q":
            return head_dim * self._size(f"{a}.attention.head_count")
        if stem in ("attn_k", "attn_v"):
            return head_dim * self._size(f"{a}.attention.head_count_kv")
        if stem in ("ffn_gate", "ffn_up"):
            is_expert = name.count(".") == 4
            return self._size(f"{a}.{'expert_' * is_expert}feed_forward_length")
        if stem in ("ffn_gate_shexp", "ffn_up_shexp"):
            return self._size(f"{a}.expert_shared_feed_forward_length")
        return self._size(f"{a}.embedding_length")

    def _size(self, key: str) -> int:
        value = self.metadata[key]
        return value if isinstance(value, int) else 0

    def _scale(self, record: SafeTensor, file: int) -> float:
        n_weights = int(np.prod(record.shape, dtype=object)) if record.shape else 1
        if record.dtype not in ("BF16", "F16", "F32") or n_weights != 1:
            detail = f"expected one float, found {record.dtype} {shown(record.shape)}"
            raise _error("layout", record.name, detail, self.folder)
        raw = self.files[file].read_at(record.offset, record.n_bytes, record.name)
        if record.dtype == "BF16":
            raw = b"\0\0" + raw
        scale = float(np.frombuffer(raw, dtype="<f2" if record.dtype == "F16" else "<f4")[0])
        if self.recipe is not None and self.recipe.inverse_scale:
            scale = 1.0 / scale if scale else float("inf")
        if not (np.isfinite(np.float32(scale)) and scale >= 0.0):
            raise _error("value", record.name, f"the scale is {scale}", self.folder)
        return scale

    def _attach(self, tensors: dict[str, TensorInfo], scales: dict[str, float]) -> None:
        for name, info in tensors.items():
            if info.type is not TensorType.HF_T2:
                continue
            if name not in scales:
                raise _error("missing", f"{name}_scale", "packed weights need it", self.folder)
            tensors[name] = replace(info, scale=scales[name])
        for name in scales:
            if name not in tensors or tensors[name].type is not TensorType.HF_T2:
                raise _error("layout", f"{name}_scale", "belongs to no packed weight", self.folder)


def _error(kind: str, field: str, detail: str, folder: str) -> ModelFormatError:
    return ModelFormatError(kind, shown(field), detail, path=shown(folder, 400))
