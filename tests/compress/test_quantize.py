"""Rounding to few bits, the files that come of it, and what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import edgesparse
from edgesparse.checkpoint import open_checkpoint
from edgesparse.checkpoint.slices import slice_bytes
from edgesparse.checkpoint.types import SliceLayout
from edgesparse.cli import main
from edgesparse.compress.gguf_out import norm_rope_rows
from edgesparse.compress.grid import fit_grid, round_gptq, round_nearest
from edgesparse.compress.sparsegpt import layer_error
from edgesparse.compress.target import Target
from edgesparse.errors import Cancelled, ModelFormatError, UsageError
from edgesparse.formats.bitslice import pack_bitslice, unpack_bitslice
from edgesparse.formats.dequantize import dequantize
from edgesparse.formats.load import load_weights
from tests.models import tiny

F32 = np.float32


def features(rng, n, k):
    """Inputs that depend on each other, some of them far larger than others."""
    x = rng.normal(size=(n, k // 2)) @ rng.normal(size=(k // 2, k)) / np.sqrt(k)
    x *= np.exp(rng.normal(size=k))
    return x.astype(F32)


# ---- grids -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "group"), [*itertools.product((1, 2, 3, 4), (32, 64, 128, 200))])
def test_codes_steps_and_zeros_are_what_bit_slices_store(bits, group):
    """They pack without a change, and the planes hold the values that rounding promised."""
    weight = np.random.default_rng(bits).normal(size=(70, 200)).astype(F32)
    found = round_nearest(weight, bits, group)
    packed = pack_bitslice(found.codes, bits, group, found.steps, found.zeros)
    assert packed.slices is not None
    assert not packed.slices.wide
    codes, steps, zeros, offsets = unpack_bitslice(packed)
    assert offsets is None
    np.testing.assert_array_equal(codes, found.codes)
    np.testing.assert_array_equal(steps, found.steps)
    np.testing.assert_array_equal(zeros, found.zeros)
    np.testing.assert_array_equal(dequantize(packed), found.values)


def test_more_bits_and_smaller_groups_lose_less():
    weight = np.random.default_rng(1).normal(size=(64, 512)).astype(F32)
    losses = {
        (bits, group): float(np.square(round_nearest(weight, bits, group).values - weight).mean())
        for bits, group in itertools.product((1, 2, 3, 4), (32, 128))
    }
    for bits in (2, 3, 4):
        assert losses[bits, 32] < losses[bits, 128] < losses[bits - 1, 32]
    # 16 even steps over a group's range; Gaussian numbers reach to 2.1 sigma in groups of 32.
    assert losses[4, 32] == pytest.approx(0.0065, rel=0.3)


def test_numbers_on_a_grid_stay():
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 8, (40, 64))
    codes[:, :2] = 0, 7
    weight = ((codes - 3) * F32(0.25)).astype(F32)
    np.testing.assert_array_equal(round_nearest(weight, 3, 64).values, weight)
    nothing = np.zeros((3, 64), F32)
    np.testing.assert_array_equal(round_nearest(nothing, 2, 32).values, nothing)


def test_shrinking_the_range_never_hurts():
    weight = np.random.default_rng(3).standard_t(3, size=(50, 128)).astype(F32)
    for bits in (2, 3, 4):
        grid = fit_grid(weight, bits)
        full = (weight.max(1) - weight.min(1)) / ((1 << bits) - 1)
        naive = np.rint(weight / full[:, None]) * full[:, None]
        ours = np.square(grid.values(grid.codes(weight)) - weight).sum(1)
        assert (ours <= np.square(naive - weight).sum(1) * 1.001).mean() > 0.98


# ---- GPTQ --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gptq_loses_less_of_the_outputs(bits):
    rng = np.random.default_rng(bits)
    weight, x = rng.normal(size=(48, 320)).astype(F32), features(rng, 900, 320)
    hessian = x.T @ x
    for group in (64, 128, 320):
        nearest = layer_error(weight, round_nearest(weight, bits, group).values, hessian)
        spread = layer_error(weight, round_gptq(weight, hessian, bits, group).values, hessian)
        assert spread < 0.8 * nearest


def test_gptq_over_independent_inputs_is_rounding_to_the_nearest():
    """Nothing can be made good, so no column is moved."""
    weight = np.random.default_rng(5).normal(size=(20, 256)).astype(F32)
    found = round_gptq(weight, np.diag(np.full(256, 7.0)), 3, 64)
    np.testing.assert_array_equal(found.codes, round_nearest(weight, 3, 64).codes)


@pytest.mark.parametrize("act_order", [False, True])
def test_gptq_is_the_plain_algorithm(act_order):
    """Against inverses of what is left of H, one column after the other, without blocks."""
    rng = np.random.default_rng(6)
    k, group = 160, 32  # a second block of columns begins inside a group of none
    weight, x = rng.normal(size=(8, k)).astype(F32), features(rng, 700, k)
    hessian = (x.T @ x).astype(np.float64)
    found = round_gptq(weight, hessian, 4, group, act_order=act_order)
    damped = hessian + 0.01 * np.mean(np.diag(hessian)) * np.eye(k)
    work, codes = weight.astype(np.float64), np.zeros((8, k))
    left = sorted(range(k), key=lambda j: -hessian[j, j]) if act_order else list(range(k))
    power = (np.diag(hessian) / np.diag(hessian).max()).astype(F32)
    grids = {
        j: fit_grid(weight[:, j : j + group], 4, power[j : j + group]) for j in range(0, k, group)
    }
    while left:
        j = left[0]
        if j % group == 0 and not act_order:
            grids[j] = fit_grid(work[:, j : j + group].astype(F32), 4, power[j : j + group])
        grid = grids[j // group * group]
        inverse = np.linalg.inv(damped[np.ix_(left, left)])
        codes[:, j] = grid.codes(work[:, j : j + 1].astype(F32))[:, 0]
        value = grid.values(codes[:, j : j + 1].astype(F32))[:, 0]
        work[:, left] -= np.outer((work[:, j] - value) / inverse[0, 0], inverse[0])
        left.pop(0)
    assert (found.codes == codes).mean() > 0.995


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_grids_suit_the_columns_with_large_inputs(bits):
    rng = np.random.default_rng(bits)
    weight, power = rng.normal(size=(50, 64)).astype(F32), np.ones(64, F32)
    power[7] = 1000
    even, suited = fit_grid(weight, bits), fit_grid(weight, bits, power)
    lost = [np.square(grid.values(grid.codes(weight)) - weight) @ power for grid in (even, suited)]
    assert (lost[1] <= lost[0] * 1.0001).all()
    assert lost[1].sum() < 0.7 * lost[0].sum()


def test_large_inputs_are_rounded_first():
    """The last column's input is by far the largest: from left to right nothing makes up for it."""
    rng = np.random.default_rng(8)
    k = 128
    x = rng.normal(size=(900, k)).astype(F32)
    x[:, -1] *= 30
    x[:, :-1] += 0.1 * x[:, -1:]
    weight, hessian = rng.normal(size=(64, k)).astype(F32), x.T @ x
    ordered = layer_error(weight, round_gptq(weight, hessian, 4, 64).values, hessian)
    plain = round_gptq(weight, hessian, 4, 64, act_order=False).values
    assert ordered < 0.5 * layer_error(weight, plain, hessian)


def test_inputs_that_are_always_zero_do_no_harm():
    rng = np.random.default_rng(7)
    weight, x = rng.normal(size=(8, 64)).astype(F32), features(rng, 200, 64)
    x[:, 5] = 0
    found = round_gptq(weight, x.T @ x, 4, 32)
    assert np.isfinite(found.values).all()
    assert abs(found.values[:, 5] - weight[:, 5]).max() < 0.5


# ---- files -------------------------------------------------------------------------------------


def quantise(source, output, kind, *flags):
    return main(["quantize", str(source), str(output), kind, "--windows", "0", *flags])


@pytest.mark.parametrize("kind", ["w2_g64", "w3_g128", "w4_row", "w1_g32", "q8_0", "q4_0", "q4_1"])
@pytest.mark.parametrize("model", ["llama-floats.gguf", "qwen3-bf16", "gemma3-f16.gguf"])
def test_a_file_opens_and_holds_the_rounded_numbers(model, kind, tmp_path: Path, capsys):
    output = tmp_path / "out.gguf"
    assert quantise(tiny.path(model), output, kind, "-y") == 0
    assert "layer" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]
    target = Target.parse(kind)
    with open_checkpoint(tiny.path(model)) as before, open_checkpoint(str(output)) as after:
        assert set(before.tensors) == set(after.tensors)
        name = "blk.1.ffn_down.weight"
        old = dequantize(load_weights(before, [name])[name])
        new = load_weights(after, [name])[name]
        if target.bits:
            assert new.format.planes == target.bits
            group = target.columns(old.shape[1])
            np.testing.assert_array_equal(
                dequantize(new), round_nearest(old, target.bits, group).values
            )
        else:
            np.testing.assert_allclose(dequantize(new), old, atol=np.abs(old).max() / 5)
    with edgesparse.load(output) as ours, edgesparse.load(output, executor="reference") as truth:
        np.testing.assert_array_equal(ours.logits([5, 6, 7]), truth.logits([5, 6, 7]))


@pytest.mark.parametrize("model", ["llama-bf16", "qwen2-bf16", "gemma3-bf16"])
def test_a_folder_becomes_a_file_that_says_the_same(model, tmp_path: Path):
    """Rows of q and k change places for the llama family, norms of gemma gain their 1."""
    output = tmp_path / "out.gguf"
    quantise(tiny.path(model), output, "q8_0")
    with edgesparse.load(tiny.path(model)) as before, edgesparse.load(output) as after:
        ids = before.tokenize("hello world", add_special=True)
        assert after.tokenize("hello world", add_special=True) == ids
        a, b = before.logits(ids), after.logits(ids)
        assert np.abs(a - b).max() < 0.05 * np.abs(a).max()


def test_a_quantised_file_can_be_quantised_again(tmp_path: Path):
    """Its bit slices are read as numbers, not as the int8 that their tensors are said to hold."""
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    assert quantise(tiny.path("llama-floats.gguf"), first, "w4_g32") == 0
    assert quantise(first, second, "w2_g64") == 0
    name = "blk.0.attn_q.weight"
    with open_checkpoint(str(first)) as before, open_checkpoint(str(second)) as after:
        old = dequantize(load_weights(before, [name])[name])
        new = load_weights(after, [name])[name]
    assert new.format.planes == 2
    np.testing.assert_array_equal(dequantize(new), round_nearest(old, 2, 64).values)


def test_bit_slices_outside_the_layers_are_kept(tmp_path: Path):
    from edgesparse.compress.gguf_out import write_gguf
    from edgesparse.compress.gguf_quantized import _kept_slices

    write_slices(tmp_path / "a.gguf")
    slices: dict[str, list] = {
        key: [] for key in ("names", "rows", "columns", "bits", "group", "zeros", "wide")
    }
    with open_checkpoint(str(tmp_path / "a.gguf")) as checkpoint:
        kept = _kept_slices(checkpoint, "w", checkpoint.info("w"), slices)
        extra = {f"edgesparse.slices.{key}": values for key, values in slices.items()}
        write_gguf(
            tmp_path / "b.gguf", checkpoint, [kept], {**extra, "edgesparse.slices.version": 1}
        )
    with (
        open_checkpoint(str(tmp_path / "a.gguf")) as a,
        open_checkpoint(str(tmp_path / "b.gguf")) as b,
    ):
        assert a.info("w").slices == b.info("w").slices
        np.testing.assert_array_equal(a.read("w"), b.read("w"))


def test_a_type_that_cannot_hold_the_model_leaves_nothing(tmp_path: Path, capsys):
    assert quantise(tiny.path("llama-floats.gguf"), tmp_path / "out.gguf", "t2", "-y") == 2
    assert "blocks of 256" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_halves_of_a_head_become_neighbours():
    assert norm_rope_rows(2, 6).tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_gptq_runs_from_text_to_file_and_goes_on_where_it_was(tmp_path: Path, monkeypatch, capsys):
    import edgesparse.compress.rounded as module

    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog and on it goes. " * 300)
    flags = ("--method", "gptq", "-f", str(text), "--tokens", "512")
    rounded, rounds = [], module.round_gptq

    def counted(*args):
        rounded.append(1)
        if len(rounded) == 9:
            raise Cancelled("Stopped.")
        return rounds(*args)

    monkeypatch.setattr(module, "round_gptq", counted)
    first, second = tmp_path / "a" / "out.gguf", tmp_path / "b" / "out.gguf"
    for output in (first, second):
        output.parent.mkdir()
    source = tiny.path("llama-floats.gguf")
    assert quantise(source, first, "w3_g64", *flags) != 0
    assert not first.exists()
    assert quantise(source, first, "w3_g64", *flags) == 0
    assert "8 matrices are finished" in capsys.readouterr().err
    assert quantise(source, second, "w3_g64", *flags) == 0
    assert first.read_bytes() == second.read_bytes()
    assert [p.name for p in first.parent.iterdir()] == ["out.gguf"]


def test_what_makes_no_sense_is_refused(tmp_path: Path, capsys):
    model, output = tiny.path("llama-floats.gguf"), tmp_path / "out.gguf"
    cases = (
        (("w5_g32",), "no type"),
        (("w4_g16",), "no type"),
        (("t2",), "not trained ternary"),
        (("w1_g32",), "single bits"),
        (("q8_0", "--method", "gptq"), "GPTQ is for w1 to w4"),
    )
    for arguments, message in cases:
        assert quantise(model, output, *arguments) == 2
        assert message in capsys.readouterr().err
    assert quantise(model, tmp_path / "out.bin", "q8_0") == 2
    assert quantise(tiny.path("qwen2moe-blocks.gguf"), output, "q8_0") == 2
    output.write_text("precious")
    assert quantise(model, output, "q8_0") == 2
    assert output.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [output]


# ---- reading the extension ---------------------------------------------------------------------


def write_slices(path: Path, **changed):
    import gguf

    arrays = {"names": ["w"], "rows": [70], "columns": [96], "bits": [2], "group": [32]}
    arrays |= {"zeros": [1], "wide": [0]}
    version = changed.pop("version", 1)
    data = changed.pop("data", None)
    arrays |= changed
    weight = np.random.default_rng(1).normal(size=(70, 96)).astype(F32)
    found = round_nearest(weight, 2, 32)
    packed = pack_bitslice(found.codes, 2, 32, found.steps, found.zeros)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("edgesparse.slices.version", version)
    for key, values in arrays.items():
        writer.add_array(f"edgesparse.slices.{key}", values)
    writer.add_tensor("w", packed.data.view(np.int8) if data is None else data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return packed, found


def test_the_extension_is_read_as_it_was_written(tmp_path: Path):
    packed, found = write_slices(tmp_path / "a.gguf")
    with open_checkpoint(str(tmp_path / "a.gguf")) as checkpoint:
        assert checkpoint.info("w").shape == (70, 96)
        weight = load_weights(checkpoint, ["w"])["w"]
    np.testing.assert_array_equal(weight.data, packed.data)
    np.testing.assert_array_equal(dequantize(weight), found.values)
    assert slice_bytes(70, 96, SliceLayout(2, 32, 1, False)) == packed.data.nbytes


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"version": 2}, "version"),
        ({"names": ["v"]}, "missing"),
        ({"rows": [71, 3]}, "layout"),
        ({"rows": [200]}, "layout"),
        ({"columns": [1 << 30]}, "layout"),
        ({"rows": [0]}, "range"),
        ({"rows": [-5]}, "range"),
        ({"bits": [5]}, "range"),
        ({"group": [48]}, "range"),
        ({"zeros": [3]}, "range"),
        ({"wide": [2]}, "range"),
        ({"bits": ["two"]}, "layout"),
        ({"data": np.zeros((2, 64), np.int8)}, "layout"),
        ({"data": np.zeros(64, np.float32)}, "layout"),
    ],
)
def test_lies_about_slices_are_refused(changed, kind, tmp_path: Path):
    write_slices(tmp_path / "a.gguf", **changed)
    with pytest.raises(ModelFormatError) as caught:
        open_checkpoint(str(tmp_path / "a.gguf"))
    assert caught.value.kind == kind


def test_steps_must_be_numbers(tmp_path: Path):
    packed, _ = write_slices(tmp_path / "a.gguf")
    data = packed.data.copy()
    data[:2] = np.array([np.nan], np.float16).view(np.uint8)
    write_slices(tmp_path / "b.gguf", data=data.view(np.int8))
    found = pytest.raises(ModelFormatError)
    with open_checkpoint(str(tmp_path / "b.gguf")) as checkpoint, found as caught:
        load_weights(checkpoint, ["w"])
    assert caught.value.kind == "value"


def test_types_have_names():
    assert Target.parse("W4_G128") == Target("w4_g128", 4, 128)
    assert Target.parse("w2_row").group == 0
    assert Target.parse("t2").is_ternary
    with pytest.raises(UsageError):
        Target.parse("w4")
