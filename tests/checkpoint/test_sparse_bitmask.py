"""compressed-tensors' sparse layouts: files of the package itself read exactly, lies refused."""

from __future__ import annotations

import json
import shutil
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgesparse.checkpoint import Checkpoint, open_checkpoint
from edgesparse.checkpoint.names import gguf_name, is_projection
from edgesparse.checkpoint.packed import grouped_chunks
from edgesparse.checkpoint.sparse_bitmask import compress_rows
from edgesparse.cli.program import run
from edgesparse.errors import ModelFormatError
from edgesparse.formats import load_weights
from tests.models import tiny

FIXTURES = Path(__file__).parents[1] / "fixtures" / "sparse_bitmask"
GATE = "model.layers.0.mlp.gate_proj"
DTYPES = {"I64": "<i8", "U8": "u1", "BF16": "<u2", "F32": "<f4", "I8": "i1"}
Tensors = dict[str, tuple[str, npt.NDArray[Any]]]


def tensors_of(checkpoint: Checkpoint) -> dict[str, tuple[str, bytes]]:
    found = {}
    for name, info in checkpoint.tensors.items():
        if info.packed is None:
            raw = checkpoint.read(name).tobytes()
        else:
            raw = b"".join(rows.codes.tobytes() for rows in grouped_chunks(checkpoint, info))
        found[name] = info.type.name, raw
    return found


@pytest.mark.parametrize(
    ("sparse", "dense"), [("new", "dense"), ("two-of-four", "dense"), ("stacked", "int8")]
)
def test_files_of_the_package_are_read_exactly(sparse: str, dense: str) -> None:
    with open_checkpoint(FIXTURES / sparse) as a, open_checkpoint(FIXTURES / dense) as b:
        assert a.warnings == []
        assert tensors_of(a) == tensors_of(b)
        assert len(a.tensors) == 11
        name = "blk.0.ffn_gate.weight"
        if a.info(name).packed is None:  # any run of bytes
            raw = a.read(name)
            for start, stop in ((0, 1), (7, 200), (71, 73), (100, len(raw))):
                np.testing.assert_array_equal(a.read_range(name, start, stop), raw[start:stop])
        for native in (True, False):
            (x,), (y,) = (load_weights(c, [name], native=native).values() for c in (a, b))
            np.testing.assert_array_equal(x.data, y.data)


def test_old_files_store_every_parameter_so() -> None:
    with open_checkpoint(FIXTURES / "old") as old, open_checkpoint(FIXTURES / "dense") as dense:
        assert len(old.tensors) == 11
        for name, info in dense.tensors.items():
            wide = old.read(name).view("<f4")
            rounded = dense.read(name).view("<u2").astype(np.uint32) << 16
            assert old.info(name).shape == info.shape
            np.testing.assert_allclose(wide, rounded.view("<f4"), rtol=1 / 256)
            np.testing.assert_array_equal(wide == 0, rounded == 0)


def read_file(folder: Path) -> Tensors:
    raw = (folder / "model.safetensors").read_bytes()
    n = int.from_bytes(raw[:8], "little")
    tensors = {}
    for name, entry in json.loads(raw[8 : 8 + n]).items():
        if name != "__metadata__":
            begin, end = (8 + n + at for at in entry["data_offsets"])
            values = np.frombuffer(raw[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
            tensors[name] = entry["dtype"], values
    return tensors


def write_file(folder: Path, tensors: Tensors) -> None:
    header, data = {}, b""
    for name, (dtype, values) in tensors.items():
        raw = values.tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    head = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + data)


def test_writing_gives_the_bytes_of_the_package() -> None:
    dense, stored = read_file(FIXTURES / "dense"), read_file(FIXTURES / "new")
    n_cases = 0
    for name in [n.removesuffix(".bitmask") for n in stored if n.endswith(".bitmask")]:
        values, bitmask, offsets = compress_rows(dense[f"{name}.weight"][1])
        np.testing.assert_array_equal(values, stored[f"{name}.compressed"][1])
        np.testing.assert_array_equal(bitmask, stored[f"{name}.bitmask"][1])
        np.testing.assert_array_equal(offsets, stored[f"{name}.row_offsets"][1])
        n_cases += 1
    assert n_cases == 7


@pytest.mark.slow
def test_the_package_reads_what_prune_writes(tmp_path: Path) -> None:
    """Needs torch, by way of compressed-tensors; 0.14 is the last line that reads such folders."""
    why = "pip install 'edgesparse[bitmask]' (which brings torch and transformers)"
    pytest.importorskip("compressed_tensors", reason=why)
    import torch
    from compressed_tensors.compressors import BitmaskCompressor, ModelCompressor

    source = tiny.path("llama-bf16")
    argv = ["prune", str(source), str(tmp_path / "out"), "-y", "-q"]
    flags = ["--method", "magnitude", "--sparsity", "0.6", "--no-evaluate"]
    assert run([*argv, *flags]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    whole = ModelCompressor.from_compression_config(config["quantization_config"])
    assert isinstance(whole.sparsity_compressor, BitmaskCompressor)
    theirs = dict(whole.sparsity_compressor.decompress(str(tmp_path / "out")))
    dense = read_file(source)
    n_cases = 0
    with open_checkpoint(tmp_path / "out") as ours:
        for name, (_, before) in dense.items():
            known = gguf_name(name, "llama")
            if known is None or not is_projection(known):
                continue
            found = theirs[name].view(torch.int16).numpy().view(np.uint16)
            np.testing.assert_array_equal(found.tobytes(), ours.read(known).tobytes())
            zeros = int((found == 0).sum())
            assert zeros >= 0.6 * found.size - 1
            np.testing.assert_array_equal(found, np.where(found == 0, 0, before))
            n_cases += 1
    assert n_cases == 14


def edit(suffix: str, change: Callable[[npt.NDArray[Any]], Any]) -> Callable[[Tensors], None]:
    def apply(tensors: Tensors) -> None:
        dtype, values = tensors[f"{GATE}.{suffix}"]
        tensors[f"{GATE}.{suffix}"] = dtype, np.asarray(change(values.copy()), values.dtype)

    return apply


def put(at: Any, value: int) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    def change(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        values[at] = value
        return values

    return change


LIES: dict[str, tuple[str, str, Callable[[Tensors], None]]] = {
    "4 TiB": ("new", "config.json means", edit("shape", lambda v: [1 << 21, 1 << 20])),
    "negative": ("new", "config.json means", edit("shape", lambda v: [-44, -36])),
    "one number": ("new", "expected 2 numbers", edit("shape", lambda v: v[:1])),
    "offsets": ("new", "contradicts", edit("row_offsets", put(3, 1 << 40))),
    "offsets begin": ("new", "contradicts", edit("row_offsets", put(0, 1))),
    "offset missing": ("new", "expected shape", edit("row_offsets", lambda v: v[:-1])),
    "bit lost": ("new", "bits are set", edit("bitmask", put((0, 0), 0))),
    "padding bit": ("new", "beyond the last", edit("bitmask", put((5, 4), 0xFF))),
    "bitmask rows": ("new", "expected shape", edit("bitmask", lambda v: v[:-1])),
    "values": ("new", "bits are set", edit("compressed", lambda v: v[:-1])),
    "no values": ("new", "bits are set", edit("compressed", lambda v: v[:0])),
    "group of four": ("two-of-four", "has not two", edit("bitmask", put((1, 1), 0x37))),
    "last group": ("two-of-four", "has not two", edit("bitmask", put((1, 4), 0x07))),
    "bitmask alone": ("new", "needs it", lambda t: t.pop(f"{GATE}.shape") and None),
    "both": ("new", "dense and sparse", lambda t: t.update({f"{GATE}.weight": t[f"{GATE}.shape"]})),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused_at_once(lie: str, tmp_path: Path) -> None:
    name, message, change = LIES[lie]
    folder = shutil.copytree(FIXTURES / name, tmp_path / "model")
    tensors = read_file(folder)
    change(tensors)
    write_file(folder, tensors)
    with open_checkpoint(FIXTURES / name):
        pass  # imports are done
    tracemalloc.start()
    with pytest.raises(ModelFormatError, match=message) as caught:
        open_checkpoint(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert GATE in caught.value.field
    assert peak < 2 << 20
    seconds = []
    for _ in range(5):
        begin = time.thread_time()  # of this thread alone, however busy the machine is
        with pytest.raises(ModelFormatError):
            open_checkpoint(folder)
        seconds.append(time.thread_time() - begin)
    assert min(seconds) < 0.010


@pytest.mark.parametrize("leftover", [{}, {"format": "dense", "global_sparsity": 50.79}, None])
def test_leftover_sparsity_config_is_tolerated(leftover: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "dense", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "dense"}
    if leftover is not None:
        config["quantization_config"]["sparsity_config"] = leftover
    (folder / "config.json").write_text(json.dumps(config))
    with open_checkpoint(folder) as a, open_checkpoint(FIXTURES / "dense") as b:
        assert tensors_of(a) == tensors_of(b)
