"""PowerInfer's files: the same model as in a GGUF file, with `down` by neurons and predictors."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

import edgesparse
from edgesparse.errors import ModelFormatError, UnsupportedArchitecture
from edgesparse.formats import Format, dequantize
from edgesparse.plan.op import GluKind
from tests.executors.running import bits
from tests.models import tiny
from tests.models.rewrite import Tensors, rewrite

T = gguf.GGMLQuantizationType
SOURCE = "llama-relu.gguf"
DOWN = ("blk.0.ffn_down.weight", "blk.1.ffn_down.weight")


def floats(tensors: Tensors, name: str) -> np.ndarray:
    data, kind = tensors[name]
    return gguf.dequantize(data, kind).astype(np.float32)


def powerinfer(
    path: Path, kinds: tuple[T, T], *, by_rows: bool = False, **metadata: object
) -> Path:
    """Write the tiny ReLU model with `down` in these types, by neurons unless `by_rows`."""

    def edit(tensors: Tensors) -> None:
        for name, kind in zip(DOWN, kinds, strict=True):
            down = floats(tensors, name)
            del tensors[name]
            if by_rows:
                tensors[name] = (gguf.quantize(down, kind), kind)
                continue
            stored = np.ascontiguousarray(down.T)
            tensors[name.replace("down", "down_t")] = (gguf.quantize(stored, kind), kind)
            for i, shape in ((1, (16, 64)), (2, (160, 16))):
                predictor = np.zeros(shape, np.float32)
                tensors[f"{name[:5]}.fc{i}.weight"] = (predictor, T.F32)

    changes = {"llama.hidden_activation": "relu" if by_rows else None, **metadata}
    rewrite(tiny.path(SOURCE), path, metadata=changes, tensors=edit)
    if not by_rows:
        raw = path.read_bytes()
        path.write_bytes(b"PWRI" + raw[4:])
    return path


@pytest.mark.parametrize("kinds", [(T.F16, T.BF16), (T.F32, T.F16)])
def test_floats_are_the_same_bits(kinds: tuple[T, T], tmp_path: Path) -> None:
    plain = powerinfer(tmp_path / "plain.gguf", kinds, by_rows=True)
    found = []
    for path in (plain, powerinfer(tmp_path / "p.powerinfer.gguf", kinds)):
        for executor in ("native", "portable"):
            with edgesparse.load(path, executor=executor, head="exact", threads=2) as model:
                assert model.config.glu is GluKind.RELU
                found.append(bits(model.logits(tiny.PROMPT)))
    assert len(found) == 4
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_blocks_are_rounded_and_said_to_be(tmp_path: Path) -> None:
    """Blocks run along neurons; what the engine multiplies with needs them across."""
    path = powerinfer(tmp_path / "p.gguf", (T.Q4_0, T.Q8_0))
    reader = {t.name: t for t in gguf.GGUFReader(path_as_gguf(path, tmp_path)).tensors}
    stored = {}
    for executor in ("native", "reference"):
        with edgesparse.load(path, executor=executor, head="exact", threads=2) as model:
            assert "rounded to q8" in model.info.quality
            for name in DOWN:
                weight = model.parameters.weights[name]
                stored.setdefault(name, []).append(weight.data.tobytes())
                assert weight.format.row_format is Format.Q8
                tensor = reader[name.replace("down", "down_t")]
                expected = gguf.dequantize(tensor.data, tensor.tensor_type).T
                largest = np.abs(expected.reshape(64, -1, 32)).max(axis=2, keepdims=True)
                moved = np.abs(dequantize(weight) - expected).reshape(64, -1, 32)
                assert (moved <= largest * (1 / 254 + 2.0**-10)).all()
    assert all(len(set(each)) == 1 for each in stored.values())


def path_as_gguf(path: Path, folder: Path) -> Path:
    """Copy with the magic that the `gguf` package knows."""
    copy = folder / "copy.gguf"
    copy.write_bytes(b"GGUF" + path.read_bytes()[4:])
    return copy


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    path = powerinfer(tmp_path / "p.gguf", (T.F16, T.F16))
    with edgesparse.load(path, executor="reference") as model:
        assert any("4 tensors of predictors" in warning for warning in model.info.warnings)


@pytest.mark.parametrize(
    ("architecture", "error"),
    [("generic.gpu_index", ModelFormatError), ("bamboo", UnsupportedArchitecture)],
)
def test_other_architectures_are_refused(
    architecture: str, error: type[ModelFormatError], tmp_path: Path
) -> None:
    changes = {"general.architecture": architecture}
    path = powerinfer(tmp_path / "p.gguf", (T.F16, T.F16), **changes)
    with pytest.raises(error, match=r"general\.architecture"):
        edgesparse.load(path)


@pytest.mark.parametrize("kind", ["shape", "duplicate", "unsupported"])
def test_malformed_downs_are_refused(kind: str, tmp_path: Path) -> None:
    def edit(tensors: Tensors) -> None:
        if kind != "duplicate":
            del tensors[DOWN[0]]
        values = np.zeros((1, 160, 64) if kind == "shape" else (160, 64), np.float32)
        packed = T.Q5_1 if kind == "unsupported" else T.F32
        tensors["blk.0.ffn_down_t.weight"] = (gguf.quantize(values, packed), packed)

    path = rewrite(tiny.path(SOURCE), tmp_path / "m.gguf", tensors=edit)
    path.write_bytes(b"PWRI" + path.read_bytes()[4:])
    with pytest.raises(ModelFormatError) as caught:
        edgesparse.load(path)
    assert caught.value.kind == kind
    assert "ffn_down" in caught.value.field
