"""Bit slices by columns: the bytes, the bits of bs2 to bs4, and what is not read."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import edgesparse
from edgesparse.cli import main
from edgesparse.errors import UsageError
from edgesparse.executors.base import Parameters
from edgesparse.executors.native import NativeExecutor, isa_names
from edgesparse.executors.reference import ReferenceExecutor
from edgesparse.formats import Format, Weight, load_weights, storage_bytes
from edgesparse.formats.bitslice import unpack_bitslice
from edgesparse.formats.turned_slices import by_columns
from edgesparse.formats.weight import NEURON_MAJOR
from edgesparse.plan.op import Linear, Output
from edgesparse.sparsity import fingerprint
from tests.columns.test_sparsity_option import thresholds_for
from tests.executors.running import (
    EXECUTORS,
    bits,
    bits_of_each,
    every_executor,
    load_tiny,
    step_of,
)
from tests.formats.sources import ENGINES, Memory, T, random_bytes
from tests.models import tiny
from tests.portable.packing import random_slices
from tests.portable.running import plan_of

F32 = np.float32
COLUMNS = [fmt for fmt in Format if fmt.is_column and fmt.is_sliced]
SHAPES = ((1, 1), (128, 32), (129, 40), (300, 200), (1100, 97), (1200, 160))
"""Less than a line, exactly one, several tiles with a narrower last one."""


def same_parts(a: Weight, b: Weight) -> bool:
    pairs = list(zip(unpack_bitslice(a), unpack_bitslice(b), strict=True))
    return all(x is y is None or (x is not None and np.array_equal(x, y)) for x, y in pairs)


def test_every_format_has_its_rows() -> None:
    assert [fmt.name for fmt in COLUMNS] == ["BS2N", "BS3N", "BS4N"]
    assert {NEURON_MAJOR[fmt.row_format] for fmt in COLUMNS} == set(COLUMNS)
    assert Format.BS1 not in NEURON_MAJOR


@pytest.mark.parametrize("fmt", COLUMNS)
def test_bytes_follow_the_picture(fmt: Format) -> None:
    """Unpacking against the tests' own packer, packing against unpacking."""
    rng = np.random.default_rng(int(fmt))
    n_cases = 0
    for _ in range(6):  # groups, zero points and widths change from one to the next
        for shape in SHAPES:
            weight, (own, steps, *_) = random_slices(rng, fmt, *shape)
            codes, scales, _, _ = unpack_bitslice(weight)
            middle = 1 << (fmt.planes - 1)
            np.testing.assert_array_equal(codes, (own + middle)[:, : shape[1]])
            np.testing.assert_array_equal(scales, steps)
            rows, _ = random_slices(rng, fmt.row_format, *shape)
            made = by_columns(rows)
            assert made.data.nbytes == storage_bytes(fmt, *shape, rows.slices)
            assert same_parts(made, rows)
            n_cases += 1
    assert n_cases == 6 * len(SHAPES)


@pytest.mark.parametrize("fmt", COLUMNS)
def test_same_bits_as_by_rows(fmt: Format) -> None:
    """Every executor and instruction set, one token and several, from no live input to all."""
    rng = np.random.default_rng(int(fmt))
    n_cases = 0
    for shape, n_tokens in itertools.product(SHAPES, (1, 2, 70)):
        rows, _ = random_slices(rng, fmt.row_format, *shape)
        bias = rng.normal(size=shape[0]).astype(F32)
        op = Linear("op", "x", (Output("w", "y", add=True, bias="b"),))
        buffers = {"x": shape[1], "y": shape[0]}
        plan = plan_of(op, buffers=buffers, max_tokens=70, n_ctx=70)
        made = [NativeExecutor(plan, Parameters({"w": rows}, {"b": bias}, {}), threads=1)]
        columns = Parameters({"w": by_columns(rows)}, {"b": bias}, {})
        made += every_executor(plan, columns)
        for share in (0.0, 0.02, 0.6, 1.0):
            x = rng.normal(size=(n_tokens, shape[1])).astype(F32)
            x[rng.random(x.shape) >= share] = 0
            residual = rng.normal(size=(n_tokens, shape[0])).astype(F32)
            results = bits_of_each(made, n_tokens, {"x": x, "y": residual})
            assert all(np.array_equal(results[0], other) for other in results[1:])
            n_cases += len(results) - 1
        for executor in made:
            executor.close()
    assert n_cases == len(SHAPES) * 3 * 4 * (2 + 2 * len(isa_names()))


@pytest.mark.parametrize("fmt", COLUMNS)
def test_bytes_read_are_those_of_live_columns(fmt: Format) -> None:
    """Beside another format by columns, whose inputs are rounded otherwise."""
    rng = np.random.default_rng(int(fmt))
    while True:
        weight, _ = random_slices(rng, fmt, 300, 160)
        if weight.slices is not None and weight.slices.group == 64:
            break
    op = Linear("op", "x", (Output("w", "y"),))
    plan = plan_of(op, buffers={"x": 160, "y": 300})
    executor = NativeExecutor(plan, Parameters({"w": weight}, {}, {}), threads=2)
    x = np.zeros((1, 160), F32)
    x[0, [0, 5, 128]] = 1  # the group in the middle is dead,
    x[0, 31] = 1e-3  # and so is this beside a 1, in int8
    n_lines, head = 3, 2 * weight.slices.head_bytes
    for n_tokens, expected in (
        (1, n_lines * (3 * fmt.line_bytes + 2 * head)),
        (2, weight.data.nbytes),
    ):
        read = np.zeros(1, np.uint64)
        executor.buffer("x", n_tokens)[:] = x
        executor.run(step_of(executor, [0] * n_tokens, outputs=[], op_bytes=read))
        assert read[0] == expected
    executor.close()


def test_formats_by_columns_share_an_op() -> None:
    """Int8 and int16 inputs have lists of their own."""
    from tests.formats.twins import random_blocks

    rng = np.random.default_rng(5)
    n_cases = 0
    for shape in ((300, 160), (1100, 97)):
        slices, _ = random_slices(rng, Format.BS4N, *shape)
        blocks, _ = random_blocks(rng, Format.Q8N, shape)
        weights = {"a": blocks, "b": slices, "c": blocks, "d": slices}
        buffers = {"x": shape[1]} | {f"y{name}": shape[0] for name in weights}
        op = Linear("op", "x", tuple(Output(name, f"y{name}") for name in weights))
        plan = plan_of(op, buffers=buffers)
        parameters = Parameters(weights, {}, {})
        x = rng.normal(size=(1, shape[1])).astype(F32)
        x[0, ::3] = 0
        x[0, 1::7] = 1e-3  # 0 in int8 alone
        made = [ReferenceExecutor(plan, parameters)]
        made += [NativeExecutor(plan, parameters, threads=2, isa=isa) for isa in isa_names()]
        for executor in made:
            executor.buffer("x", 1)[:] = x
            executor.run(step_of(executor, [0], outputs=[]))
            for name in weights:
                truth = made[0].buffer(f"y{name}", 1)
                assert np.array_equal(bits(executor.buffer(f"y{name}", 1)), bits(truth))
                n_cases += 1
    assert n_cases == 2 * 4 * (1 + len(isa_names()))


@pytest.mark.parametrize(
    ("kind", "fmt"),
    [(T.Q4_0, Format.BS4N), (T.Q4_1, Format.BS4N), (T.Q4_K, Format.BS4N)],
    ids=lambda p: p.name,
)
def test_loading_keeps_codes_and_steps(kind: T, fmt: Format) -> None:
    n_cases = 0
    for shape, native in itertools.product(((1, 512), (300, 256), (1100, 256)), ENGINES):
        raw = random_bytes(kind, *shape, seed=shape[0])
        checkpoint = Memory().add("w", kind, shape, raw)
        wish = {"native": native, "threads": 2, "slices": True}
        rows = load_weights(checkpoint, ["w"], **wish)["w"]
        found = load_weights(checkpoint, ["w"], neuron_major={"w"}, **wish)["w"]
        assert (rows.format, found.format) == (fmt.row_format, fmt)
        assert same_parts(rows, found)
        n_cases += 1
    assert n_cases == 3 * len(ENGINES)


@pytest.mark.parametrize("kind", ["w2_g64", "w3_row", "w4_g32"])
def test_a_quantised_model_skips_small_inputs(kind: str, tmp_path: Path) -> None:
    """Loaded for many zeros it lies by columns, and every executor gives the same bits."""
    file = tmp_path / "out.gguf"
    source = tiny.path("llama-k.gguf")
    assert main(["quantize", str(source), str(file), kind, "--windows", "0"]) == 0
    with edgesparse.load(file) as model:
        ops = [op.name for op in model.engine.plan.ops if isinstance(op, Linear)]
        thresholds = thresholds_for(
            "llama-k.gguf",
            sparsity=0.6,
            model_fingerprint=fingerprint(model.config, model.parameters.vectors),
            thresholds={op: 0.3 if op.endswith("qkv") else 0.02 for op in ops if op != "head"},
        )
        plain = dict(model.parameters.weights)
    tokens = [5, 9, 2, 7, 1, 3, 8, 4]
    found = []
    for name in EXECUTORS:
        with edgesparse.load(file, sparsity=thresholds, executor=name, threads=2) as model:
            assert not [text for text in model.info.warnings if "save nothing" in text]
            weights = model.parameters.weights
            moved = {n for n in plain if weights[n].format is not plain[n].format}
            assert len(moved) == 7 * model.engine.plan.n_layers
            assert all(weights[n].format is NEURON_MAJOR[plain[n].format] for n in moved)
            assert all(same_parts(weights[n], plain[n]) for n in moved)
            engine = model.engine
            for chunk in (1, 3, 8):
                logits = engine.forward(
                    engine.new_cache(16), tokens, 0, outputs="all", thresholds=True, chunk=chunk
                )
                found.append(bits(logits))
    with edgesparse.load(file, executor="reference") as model:
        dense = bits(model.logits(tokens))
    assert all(np.array_equal(found[0], other) for other in found[1:])
    assert np.array_equal(found[0][:4], dense[:4])
    assert not np.array_equal(found[0][4:], dense[4:])


def test_a_relu_reads_the_live_columns_of_down(tmp_path: Path) -> None:
    """Exact skipping: the zeros that int8 makes count, too."""
    file, found = tmp_path / "out.gguf", {}
    source = str(tiny.path("llama-relu.gguf"))
    assert main(["quantize", source, str(file), "w4_g32", "--windows", "0"]) == 0
    for sparse in ("auto", "off"):
        with edgesparse.load(file, sparse=sparse) as model:
            name = "blk.0.ffn_down.weight"
            found[sparse] = model.parameters.weights[name].format, bits(model.logits([5, 9, 2, 7]))
    assert found["auto"][0] is Format.BS4N
    assert found["off"][0] is Format.BS4
    assert np.array_equal(found["auto"][1], found["off"][1])
    packed = tmp_path / "out.esp"
    assert main(["convert", str(file), str(packed)]) == 0
    with edgesparse.load(packed) as model:
        assert model.parameters.weights[name].format is Format.BS4N
        assert np.array_equal(bits(model.logits([5, 9, 2, 7])), found["auto"][1])
    with pytest.raises(UsageError, match="other settings"):
        edgesparse.load(packed, sparse="off")
    assert main(["convert", str(file), str(packed), "--force", "--sparse", "off"]) == 0
    with edgesparse.load(packed) as model:  # by rows: nothing is skipped, the bits are the same
        assert model.parameters.weights[name].format is Format.BS4
        assert np.array_equal(bits(model.logits([5, 9, 2, 7])), found["auto"][1])


@pytest.mark.parametrize(
    ("weights", "topic", "rows", "columns"),
    [
        ("slices", "bs4n small", Format.BS4, Format.BS4N),
        ("auto", "q4n small", Format.Q4M, Format.Q4MN),
    ],
)
def test_too_few_zeros_leave_them_by_rows(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    weights: str,
    topic: str,
    rows: Format,
    columns: Format,
) -> None:
    """From what share on skipping pays was measured, or has a default; inspect says why not."""
    from edgesparse import tuning
    from edgesparse.executors.native import choose_isa
    from edgesparse.sparsity import Thresholds
    from edgesparse.tuning import Answer, remember

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    request.addfinalizer(tuning._choices.cache_clear)
    isa, found = choose_isa(None), []
    for least in (0.1, 0.41, 1.0):
        remember([Answer(topic, isa, 2, least, {}, 2)])
        thresholds = thresholds_for("llama-blocks.gguf", method="teal")
        assert isinstance(thresholds, Thresholds)
        with load_tiny(
            "llama-blocks.gguf", sparsity=thresholds, weights=weights, executor="native", threads=2
        ) as model:
            weight = model.parameters.weights["blk.0.ffn_down.weight"]
            found.append((weight.format, "skipping pays from" in weight.note))
            said = [text for text in model.info.warnings if "save nothing" in text]
            assert bool(said) == (least > 0.4)
            assert not said or rows.name.lower() in said[0]
    assert found == [(columns, False), (rows, True), (rows, True)]
