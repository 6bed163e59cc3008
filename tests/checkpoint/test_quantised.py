"""GPTQ, AWQ and compressed-tensors folders decode to exactly the weights they were made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesparse import _native
from edgesparse.architectures import build_plan
from edgesparse.checkpoint import open_checkpoint
from edgesparse.config import read_config
from edgesparse.errors import EdgesparseError
from edgesparse.executors import make_executor
from edgesparse.formats import Weight, dequantize
from edgesparse.loading import load_parameters, tensor_names
from tests.checkpoint import quantised as q
from tests.executors.running import step_of
from tests.models import independent

Case = tuple[str, dict[str, Any], Any]


def gptq_cases() -> Iterator[Case]:
    for bits in (2, 3, 4, 8):
        for plus_one in (True, False):
            for symmetric in (True, False):
                for group in (32, 64, -1):  # 64: the last of 96 columns are half a group
                    config = {
                        "quant_method": "gptq",
                        "bits": bits,
                        "group_size": group,
                        "checkpoint_format": "gptq" if plus_one else "gptq_v2",
                    }
                    name = f"gptq{1 if plus_one else 2}-{bits}-{symmetric}-{group}"

                    def make(shape, bits=bits, plus_one=plus_one, symmetric=symmetric, group=group):
                        m = q.random_matrix(RNG, shape, bits, group, symmetric=symmetric)
                        return m, q.gptq(m, bits, plus_one=plus_one)

                    yield name, config, make


def awq_cases() -> Iterator[Case]:
    for group in (32, -1):
        config = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "GEMM"}

        def make(shape, group=group):
            m = q.random_matrix(RNG, shape, 4, group, symmetric=False)
            return m, q.awq(m)

        yield f"awq-{group}", config, make


def compressed_config(bits: int, layout: str, symmetric: bool) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group"}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }


def compressed_cases() -> Iterator[Case]:
    for bits in (2, 3, 4, 5, 6, 7, 8):
        for padded in (False, True):
            for symmetric in (True, False):
                for group in (32, -1):

                    def make(shape, bits=bits, padded=padded, symmetric=symmetric, group=group):
                        m = q.random_matrix(RNG, shape, bits, group, symmetric=symmetric)
                        return m, q.pack_quantized(m, bits, padded=padded, symmetric=symmetric)

                    name = f"pack-{bits}-{padded}-{symmetric}-{group}"
                    yield name, compressed_config(bits, "pack-quantized", symmetric), make
    for symmetric in (True, False):

        def make8(shape, symmetric=symmetric):
            m = q.random_matrix(RNG, shape, 8, -1, symmetric=symmetric)
            return m, q.int_quantized(m, symmetric=symmetric)

        yield f"int8-{symmetric}", compressed_config(8, "int-quantized", symmetric), make8


RNG = np.random.RandomState(7)
CASES = [*gptq_cases(), *awq_cases(), *compressed_cases()]


def loaded(path: Path, names: list[str], layers: str = "auto") -> dict[str, Weight]:
    """Load all that a plan of this model reads, and its shapes checked, as every model is."""
    with open_checkpoint(path) as checkpoint:
        config = read_config(checkpoint)
        plan = build_plan(config, tensor_names(checkpoint), n_ctx=64, max_tokens=4)
        weights = load_parameters(checkpoint, config, plan, threads=2, layers=layers).weights
    return {name: weights[name] for name in names}


@pytest.mark.parametrize("layers", ["auto", "blocks"])
def test_every_layout_keeps_every_weight(layers: str, tmp_path: Path) -> None:
    exact = rounded = 0
    for name, config, make in CASES:
        folder = q.make_folder(config, make)
        weights = loaded(folder.write(tmp_path / name), list(folder.values), layers)
        for key, expected in folder.values.items():
            found = dequantize(weights[key])
            if weights[key].is_rounded:
                # 8 bits, asymmetric: codes kept, the offset a half
                assert weights[key].format.name == "Q8M", name
                assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max(), name
                rounded += 1
            else:
                np.testing.assert_array_equal(found, expected, err_msg=f"{name} {key}")
                exact += 1
    assert len(CASES) == 48 + 2 + 56 + 2
    assert exact + rounded == 7 * len(CASES)
    assert rounded == 7 * (3 * 2 + 2 * 2 + 1)  # GPTQ, packed, int8


def formats_of(layers: str, path: Path) -> dict[str, set[str]]:
    seen = {}
    for name, config, make in CASES:
        folder = q.make_folder(config, make)
        weights = loaded(folder.write(path / name), list(folder.values), layers)
        seen[name] = {weight.format.name for weight in weights.values()}
    return seen


def test_up_to_four_bits_are_as_many_planes(tmp_path: Path) -> None:
    seen = formats_of("auto", tmp_path)
    n_sliced = 0
    for name, formats in seen.items():
        scheme, what = name.split("-")[:2]
        bits = {"awq": 4, "int8": 8}.get(scheme) or int(what)
        if bits <= 4:
            assert formats == {f"BS{bits}"}, name
            n_sliced += 1
        else:
            assert formats <= {"Q6", "Q8", "Q8M"}, name
    assert n_sliced == 36 + 2 + 24


def test_blocks_are_the_smallest_that_hold_the_codes(tmp_path: Path) -> None:
    seen = formats_of("blocks", tmp_path)
    assert seen["gptq1-4-True-32"] == {"Q4"}
    assert seen["gptq1-3-False-32"] == {"Q4"}
    assert seen["gptq2-2-False--1"] == {"Q4"}
    assert seen["awq-32"] == {"Q6"}
    assert seen["gptq1-8-True-32"] == {"Q8"}
    assert seen["gptq1-8-False-32"] == {"Q8M"}
    assert seen["pack-6-True-True-32"] == {"Q6"}
    assert seen["int8-True"] == {"Q8"}


@pytest.mark.parametrize(("layers", "error"), [("auto", 0.05), ("blocks", 2e-3)])
def test_a_quantised_model_computes_what_its_weights_say(
    layers: str, error: float, tmp_path: Path
) -> None:
    """Within what rounding activations costs: to int8 for bit slices, to int16 for blocks."""
    chosen = ("gptq1-3-False-32", "awq-32", "pack-4-False-False-32", "int8-True")
    n_cases = 0
    for name, config, make in CASES:
        if name not in chosen:
            continue
        folder = q.make_folder(config, make)
        plain = q.Folder(dict(folder.config), {})
        del plain.config["quantization_config"]
        for key, tensor in folder.tensors.items():
            if key.endswith(("norm.weight", "embed_tokens.weight")):
                plain.tensors[key] = tensor
        for module, stem in q.GGUF.items():
            values = folder.values[f"blk.0.{stem}.weight"]
            plain.tensors[f"model.layers.0.{module}.weight"] = ("F32", values)
        net = independent.load(plain.write(tmp_path / "plain"))
        prompt = [3, 1, 4, 1, 5, 9, 2, 6]
        expected = independent.logits(net, [prompt])[0]
        with open_checkpoint(folder.write(tmp_path / "m")) as checkpoint:
            parts = read_config(checkpoint), tensor_names(checkpoint)
            plan = build_plan(*parts, n_ctx=64, max_tokens=len(prompt))
            parameters = load_parameters(checkpoint, parts[0], plan, threads=2, layers=layers)
        for kind in ("reference", "native") if _native.available() else ("reference",):
            executor = make_executor(kind, plan, parameters, threads=1)
            step = step_of(executor, prompt)
            executor.run(step)
            executor.close()
            assert np.abs(step.logits - expected).max() < error * expected.std()
        n_cases += 1
    assert n_cases == 4


def test_the_old_side_file(tmp_path: Path) -> None:
    _, config, make = CASES[0]
    folder = q.make_folder(config, make)
    side = {
        k: v for k, v in folder.config.pop("quantization_config").items() if k != "quant_method"
    }
    path = folder.write(tmp_path / "m")
    (path / "quantize_config.json").write_text(q.json.dumps(side))
    weights = loaded(path, list(folder.values))
    for key, expected in folder.values.items():
        np.testing.assert_array_equal(dequantize(weights[key]), expected)


Q = "model.layers.0.mlp.up_proj."


def damaged(folder: q.Folder) -> Iterator[tuple[str, q.Folder]]:
    """Every part missing, cut, of another type; numbers that cannot be."""

    def changed(name: str, tensor: tuple[str, np.ndarray] | None) -> q.Folder:
        tensors = dict(folder.tensors)
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
        return dataclasses.replace(folder, tensors=tensors)

    for name, (dtype, array) in folder.tensors.items():
        if not name.startswith(Q):
            continue
        suffix = name.removeprefix(Q)
        if suffix not in ("g_idx", "weight_zero_point"):
            yield f"no {suffix}", changed(name, None)
        yield f"{suffix} short", changed(name, (dtype, array[:-1]))
        yield f"{suffix} flat", changed(name, (dtype, array.reshape(1, -1, 1)))
        yield f"{suffix} type", changed(name, ("I16", np.zeros(array.shape, "<i2")))
        if array.ndim == 2 and array.shape[1] > 1:
            yield f"{suffix} narrow", changed(name, (dtype, array[:, :-1]))
        if dtype == "F16":
            for bad in (np.nan, np.inf):
                broken = array.copy()
                broken[-1, -1] = bad
                yield f"{suffix} {bad}", changed(name, (dtype, broken))
        if suffix in ("g_idx", "weight_shape"):
            for bad in (-2, 1 << 30):
                broken = array.copy()
                broken[1] = bad
                yield f"{suffix} {bad}", changed(name, (dtype, broken))


def test_damage_is_one_typed_error_each(tmp_path: Path) -> None:
    chosen = {"gptq1-4-False-32", "gptq1-3-True-32", "awq-32", "pack-4-False-False-32"}
    chosen |= {"pack-3-True-False-32", "int8-False"}
    n_cases = 0
    for name, config, make in CASES:
        if name not in chosen:
            continue
        folder = q.make_folder(config, make)
        for what, broken in damaged(folder):
            path = broken.write(tmp_path / "m")
            with pytest.raises(EdgesparseError) as caught:
                loaded(path, list(folder.values))
            assert str(caught.value), what
            n_cases += 1
        for at in range(1, 40):  # a file that ends early, anywhere
            path = folder.write(tmp_path / "m")
            raw = (path / "model.safetensors").read_bytes()
            (path / "model.safetensors").write_bytes(raw[: len(raw) * at // 40])
            with pytest.raises(EdgesparseError):
                loaded(path, list(folder.values))
            n_cases += 1
    assert n_cases >= 300


def test_other_layouts_are_refused_by_name(tmp_path: Path) -> None:
    _, config, make = CASES[0]
    refused = 0
    for changes in (
        {"checkpoint_format": "marlin"},
        {"checkpoint_format": "gptq_p"},
        {"is_marlin_format": True},
        {"bits": 5},
        {"bits": "four"},
        {"group_size": -7},
        {"group_size": 64},
        {"bits": 3},
        {"quant_method": "awq", "version": "gemv"},
        {"quant_method": "awq", "bits": 8},
        {"quant_method": "aqlm"},
        {"quant_method": "compressed-tensors", "format": "marlin-24"},
        compressed_config(4, "nvfp4-pack-quantized", True),
    ):
        folder = q.make_folder({**config, **changes}, make)
        with pytest.raises(EdgesparseError):
            loaded(folder.write(tmp_path / "m"), list(folder.values))
        refused += 1
    assert refused == 13
