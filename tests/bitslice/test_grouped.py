"""GPTQ and AWQ folders become bit slices of the file's own codes, steps and zero points."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgesparse
from edgesparse.checkpoint import open_checkpoint
from edgesparse.errors import EdgesparseError, ModelFormatError, UsageError
from edgesparse.executors import make_executor
from edgesparse.executors.lockstep import lockstep
from edgesparse.executors.native import isa_names
from edgesparse.formats import Format, Weight, Zeros, dequantize, load_weights, unpack_bitslice
from edgesparse.plan.op import Linear
from tests.checkpoint import quantised as q
from tests.esp.packing import pack
from tests.executors.running import bits, executor_of, run_in_chunks
from tests.models import tiny

SHAPE = (72, 320)


def config_of(
    width: int, group: int, *, v2: bool = False, act_order: bool = True
) -> dict[str, Any]:
    return {
        "quant_method": "gptq",
        "bits": width,
        "group_size": group,
        "desc_act": act_order,
        "checkpoint_format": "gptq_v2" if v2 else "gptq",
    }


def one_matrix(config: dict[str, Any], parts: q.Parts, path: Path) -> Weight:
    """Write a model whose `down` is the matrix, and load only that."""
    folder = q.make_folder(config, lambda _: (any_matrix(), parts))
    name = "model.layers.0.mlp.down_proj"
    for key in [k for k in folder.tensors if "_proj." in k and not k.startswith(name)]:
        del folder.tensors[key]
    with open_checkpoint(folder.write(path)) as checkpoint:
        return load_weights(checkpoint, ["blk.0.ffn_down.weight"])["blk.0.ffn_down.weight"]


def any_matrix() -> q.Matrix:
    one = np.ones((1, 1), "f2")
    return q.Matrix(one.astype(int), one.astype(int), one, np.zeros(1, int))


def matrices() -> Iterator[tuple[str, int, q.Matrix, dict[str, Any], q.Parts]]:
    """Name, bits, the known numbers, configuration and tensors of every layout."""
    rng = np.random.RandomState(3)
    for width in (2, 3, 4, 8):
        for v2 in (False, True):
            for act_order in (False, True):
                for symmetric in (False, True):
                    for group in (32, 64, 128, -1):
                        m = q.random_matrix(
                            *(rng, SHAPE, width, group), symmetric=symmetric, act_order=act_order
                        )
                        config = config_of(width, group, v2=v2, act_order=act_order)
                        parts = q.gptq(m, width, plus_one=not v2)
                        yield f"gptq {width} {v2} {act_order} {group}", width, m, config, parts
    for group in (32, 64, -1):
        m = q.random_matrix(rng, SHAPE, 4, group, symmetric=False)
        config = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm"}
        yield f"awq {group}", 4, m, config, q.awq(m)


def test_codes_steps_and_zero_points_are_those_of_the_file(tmp_path: Path) -> None:
    n_sliced = n_blocks = n_sorted = n_with_points = 0
    for name, width, m, config, parts in matrices():
        weight = one_matrix(config, parts, tmp_path / "m")
        found = dequantize(weight)
        if width == 8:
            assert weight.format in (Format.Q8, Format.Q8M), name
            limit = 2e-3 * np.abs(m.values()).max() if weight.is_rounded else 0.0
            assert np.abs(found - m.values()).max() <= limit, name
            n_blocks += 1
            continue
        np.testing.assert_array_equal(found, m.values(), err_msg=name)
        codes, steps, zeros, _ = unpack_bitslice(weight)
        order = np.arange(SHAPE[1])
        if weight.order is not None:
            order = weight.order
            n_sorted += 1
        group = weight.slices.group or SHAPE[1]
        stored = m.groups[order][::group]
        np.testing.assert_array_equal(codes, m.codes[:, order], err_msg=name)
        np.testing.assert_array_equal(steps, m.scales[:, stored].astype("f4"), err_msg=name)
        np.testing.assert_array_equal(zeros, m.zeros[:, stored], err_msg=name)
        assert weight.format is Format(Format.BS1 + width - 1)
        assert not weight.is_rounded
        assert not weight.slices.wide
        assert "kept exactly" in weight.note
        assert ("act-order" in weight.note) == (weight.order is not None)
        heads = 3 if weight.slices.zeros is Zeros.POINTS else 2
        n_with_points += heads == 3
        n_groups = len(stored)
        assert weight.n_bytes == 2 * (10 * width * 256 + n_groups * heads * 64)
        n_sliced += 1
    assert (n_sliced, n_blocks) == (3 * 32 + 3, 32)
    assert n_sorted == 3 * 2 * 2 * 3  # a whole row is one group, in any order
    assert n_with_points == 3 * 16 + 3


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_steps_that_are_no_halfs_are_kept_as_float32(dtype: str, tmp_path: Path) -> None:
    rng = np.random.RandomState(5)
    n_cases = 0
    for width in (2, 3, 4):
        m = q.random_matrix(rng, SHAPE, width, 64, symmetric=False)
        scales = rng.uniform(1e-6, 1e-5, m.scales.shape).astype("f4")
        raw = scales.view("<u4") >> 16
        m.scales = (raw << 16).view("<f4") if dtype == "BF16" else scales
        parts = q.gptq(m, width)
        stored = raw.astype("<u2") if dtype == "BF16" else scales
        parts["scales"] = (dtype, np.ascontiguousarray(stored.T))
        weight = one_matrix(config_of(width, 64), parts, tmp_path / "m")
        assert weight.slices.wide
        assert "steps as float32" in weight.note
        np.testing.assert_array_equal(dequantize(weight), m.values())
        n_cases += 1
    assert n_cases == 3


def test_groups_of_other_sizes(tmp_path: Path) -> None:
    """Whatever a multiple of 32 columns shares is exact; less is rounded, and says so."""
    rng = np.random.RandomState(6)
    sizes = (
        ([96, 32, 192], 32),
        ([128, 128, 64], 128),
        ([64, 0, 256], 64),
        ([96, 96, 96, 32], 32),
        ([48, 272], -1),
        ([16] * 20, -1),
    )
    n_exact = n_rounded = 0
    for counts, unit in sizes:
        for act_order in (False, True):
            groups = np.repeat(np.arange(len(counts)), counts)
            group = -(-SHAPE[1] // len(counts))
            m = q.random_matrix(
                *(rng, SHAPE, 4, group), symmetric=False, act_order=act_order, groups=groups
            )
            weight = one_matrix(config_of(4, group), q.gptq(m, 4), tmp_path / "m")
            if unit > 0:
                assert weight.slices.group == unit
                np.testing.assert_array_equal(dequantize(weight), m.values())
                n_exact += 1
            else:
                assert weight.format is Format.Q8
                assert weight.is_rounded
                assert "rounded anew" in weight.note
                n_rounded += 1
    assert (n_exact, n_rounded) == (8, 4)


def tiny_model(path: Path, width: int, group: int, *, orders: str) -> Path:
    """Write a model quantised with act-order; `orders`: every matrix its own, or by its input."""
    rng = np.random.RandomState(width)
    shared: dict[int, np.ndarray] = {}

    def make(shape: tuple[int, int]) -> tuple[q.Matrix, q.Parts]:
        k = shape[1]
        groups = np.arange(k) // (k if group == -1 else group)
        mixed = rng.permutation(groups)
        if orders == "by input":
            mixed = shared.setdefault(k, mixed)
        m = q.random_matrix(rng, shape, width, group, symmetric=False, groups=mixed)
        return m, q.gptq(m, width)

    folder = q.make_folder(config_of(width, group), make, vocab_size=tiny.N_VOCAB)
    shutil.copy(tiny.FOLDER / "llama-bf16" / "tokenizer.json", folder.write(path))
    return path


@pytest.mark.parametrize("fused", [True, False])
def test_executors_agree_to_the_bit(fused: bool, tmp_path: Path) -> None:
    n_cases = 0
    for width, orders in ((2, "own"), (3, "by input"), (4, "own"), (4, "by input"), (8, "own")):
        path = tiny_model(tmp_path / f"{width}{orders}", width, 32, orders=orders)
        with edgesparse.load(path, executor="reference", head="exact", fused=fused) as model:
            plan = model.engine.plan
            linears = [op for op in plan.ops if isinstance(op, Linear) and op.name != "output"]
            # q, k and v, gate and up have an op each, or one together.
            assert len(linears) == (8 if orders == "own" else 5)
            reference = model.engine.executor
            for other in ("native", "portable"):
                with executor_of(model, other) as executor:
                    report = lockstep(executor, reference, tiny.PROMPT, chunk=7)
                assert report.difference is None, report.difference
                assert report.n_ops == 3 * len(plan.ops)
            prompt = tiny.LONG_PROMPT[:40]
            expected = bits(run_in_chunks(reference, prompt, len(prompt)))
            assert np.unique(expected).size > 5_000
            for isa in isa_names():
                for threads in (1, 3):
                    for kernel in ("lut", "mad"):
                        options = {"isa": isa, "threads": threads}
                        with pytest.MonkeyPatch.context() as patch:
                            patch.setenv("EDGESPARSE_KERNEL", kernel)
                            with executor_of(model, "native", **options) as executor:
                                for chunk in (1, 7, 40):
                                    found = run_in_chunks(executor, prompt, chunk)
                                    np.testing.assert_array_equal(bits(found), expected)
                                    n_cases += 1
    assert n_cases == 5 * len(isa_names()) * 2 * 2 * 3


def test_an_order_is_gathered_from_the_input_that_it_belongs_to(tmp_path: Path) -> None:
    """The model computes what the same numbers do as plain floats."""
    path = tiny_model(tmp_path / "m", 4, 32, orders="own")
    plain = tmp_path / "plain"
    shutil.copytree(tiny.FOLDER / "llama-bf16", plain)
    with open_checkpoint(path) as checkpoint:
        names = [name for name, info in checkpoint.tensors.items() if info.packed]
        values = {name: dequantize(w) for name, w in load_weights(checkpoint, names).items()}
    folder = q.make_folder({}, lambda _: (any_matrix(), {}), vocab_size=tiny.N_VOCAB)
    del folder.config["quantization_config"]
    for module, stem in q.GGUF.items():
        tensor = ("F32", values[f"blk.0.{stem}.weight"])
        folder.tensors[f"model.layers.0.{module}.weight"] = tensor
    folder.write(plain)
    with (
        edgesparse.load(path, executor="reference", head="exact") as model,
        edgesparse.load(plain, executor="reference", head="exact") as truth,
    ):
        assert all(model.parameters.weights[name].order is not None for name in names)
        expected = truth.logits(tiny.PROMPT)
        found = model.logits(tiny.PROMPT)
    # Activations of int8: see tests/checkpoint/test_quantised.py.
    assert np.abs(found - expected).max() < 0.05 * expected.std()


def test_packed_files_keep_orders(tmp_path: Path) -> None:
    n_cases = 0
    for orders in ("own", "by input"):
        source = tiny_model(tmp_path / orders, 3, 32, orders=orders)
        path = pack(source, tmp_path / f"{orders}.esp")
        for mapped in (False, True):
            with (
                edgesparse.load(source, threads=2) as old,
                edgesparse.load(path, threads=2, mmap=mapped) as new,
            ):
                assert new.engine.plan == old.engine.plan
                assert np.array_equal(new.logits(tiny.PROMPT), old.logits(tiny.PROMPT))
                for name, weight in old.parameters.weights.items():
                    found = new.parameters.weights[name]
                    assert (found.order is None) == (weight.order is None)
                    if weight.order is not None:
                        assert np.array_equal(found.order, weight.order)
                        n_cases += 1
    assert n_cases == 2 * 2 * 7


def test_what_looks_rows_up_keeps_its_columns(tmp_path: Path) -> None:
    rng = np.random.RandomState(8)
    m = q.random_matrix(rng, (40, 64), 4, 32, symmetric=True, act_order=True)
    folder = q.make_folder(config_of(4, 32), lambda _: (m, q.gptq(m, 4)))
    name = "blk.0.attn_q.weight"
    with open_checkpoint(folder.write(tmp_path / "m")) as checkpoint:
        fixed = load_weights(checkpoint, [name], in_place={name})[name]
        free = load_weights(checkpoint, [name])[name]
    assert fixed.order is None
    assert fixed.format is Format.Q8
    assert "act-order" in fixed.note
    assert free.order is not None


def test_inspect_says_how_matrices_are_stored(tmp_path: Path, capsys: Any) -> None:
    from edgesparse.cli import main

    path = tiny_model(tmp_path / "m", 3, 32, orders="own")
    assert main(["inspect", str(path), "--tensors"]) == 0
    text = capsys.readouterr().out
    assert text.count("3-bit codes, steps and zero points kept exactly") == 7
    assert text.count("columns sorted by group (act-order)") == 7
    assert main(["inspect", str(path), "--tensors", "--weights", "blocks"]) == 0
    text = capsys.readouterr().out
    assert text.count("3-bit codes kept exactly") == 7
    assert "BS3" not in text


def test_inconsistent_files_are_one_typed_error_each(tmp_path: Path) -> None:
    """With act-order; `tests/checkpoint/test_quantised.py` damages the other layouts."""
    rng = np.random.RandomState(9)
    n_cases = 0
    for width in (2, 3, 4, 8):
        for v2 in (False, True):
            m = q.random_matrix(rng, SHAPE, width, 64, symmetric=False, act_order=True)
            good = q.gptq(m, width, plus_one=not v2)
            for what, parts, group in damaged(good):
                config = config_of(width, group, v2=v2)
                with pytest.raises(ModelFormatError) as caught:
                    one_matrix(config, parts, tmp_path / "m")
                assert "down_proj" in str(caught.value), what
                n_cases += 1
    assert n_cases == 8 * 22


def damaged(good: q.Parts) -> Iterator[tuple[str, q.Parts, int]]:
    for suffix, (dtype, array) in good.items():
        yield f"{suffix} short", good | {suffix: (dtype, array[:-1])}, 64
        yield f"{suffix} long", good | {suffix: (dtype, np.concatenate([array, array[-1:]]))}, 64
        yield f"{suffix} type", good | {suffix: ("I16", np.zeros(array.shape, "<i2"))}, 64
        if array.ndim == 2:
            yield f"{suffix} narrow", good | {suffix: (dtype, array[:, :-1])}, 64
    for bad in (-1, 5, 1 << 20, -(1 << 31)):
        dtype, array = good["g_idx"]
        broken = array.copy()
        broken[7] = bad
        yield f"g_idx {bad}", good | {"g_idx": (dtype, broken)}, 64
    for bad in (np.nan, np.inf):
        dtype, array = good["scales"]
        broken = array.copy()
        broken[1, 2] = bad
        yield f"scales {bad}", good | {"scales": (dtype, broken)}, 64
    yield "group 32", good, 32


def test_predictions_want_columns_in_place(tmp_path: Path) -> None:
    from edgesparse.sparsity.alphas import SparseInferTable
    from edgesparse.sparsity.predictor import add_predictor

    path = tiny_model(tmp_path / "m", 4, 32, orders="by input")
    config = path / "config.json"
    config.write_text(config.read_text().replace('"silu"', '"relu"'))
    with edgesparse.load(path, executor="reference") as model:
        gate = next(op for op in model.engine.plan.ops if op.name.endswith("gate_up"))
        table = SparseInferTable("x" * 32, {gate.name: 10_000}, 0.9)
        with pytest.raises(UsageError, match="act-order"):
            add_predictor(model.engine.plan, model.parameters, table, force=True)


@pytest.mark.parametrize("chunk", [1, 1 << 22])
def test_blocks_that_skip_come_in_whole_tiles(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are read a few at a time; formats by columns have up to 1024 in a tile."""
    from edgesparse.checkpoint import packed

    monkeypatch.setattr(packed, "_CHUNK_WEIGHTS", chunk)
    rng = np.random.RandomState(10)
    m = q.random_matrix(rng, (1096, 96), 4, 32, symmetric=True)
    folder = q.make_folder(config_of(4, 32), lambda _: (m, q.gptq(m, 4)))
    name = "blk.0.attn_q.weight"
    formats = set()
    with open_checkpoint(folder.write(tmp_path / "m")) as checkpoint:
        for options in ({}, {"neuron_major": {name}}, {"row_by_row": {name}}, {"slices": False}):
            weight = load_weights(checkpoint, [name], **options)[name]
            np.testing.assert_array_equal(dequantize(weight), m.values())
            formats.add(weight.format)
    assert formats == {Format.BS4, Format.BS4N, Format.Q4R, Format.Q4}


def test_the_engine_refuses_orders_that_name_no_input(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "m", 4, 32, orders="by input")
    n_cases = 0
    with edgesparse.load(path, executor="reference") as model:
        weights = model.parameters.weights
        good = weights["blk.0.ffn_down.weight"].order
        for bad in (-1, len(good), 1 << 30):
            order = good.copy()
            order[3] = bad
            changed = replace(weights["blk.0.ffn_down.weight"], order=order)
            broken = {**weights, "blk.0.ffn_down.weight": changed}
            for other in ("native", "portable"):
                with pytest.raises(EdgesparseError):
                    make_executor(
                        other,
                        model.engine.plan,
                        replace(model.parameters, weights=broken),
                        threads=1,
                    )
                n_cases += 1
    assert n_cases == 6
