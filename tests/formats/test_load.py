"""Loading as a whole: the default model, memory, vectors, and everything that must be refused."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from edgesparse import _native
from edgesparse.checkpoint import Checkpoint, TensorInfo, open_checkpoint
from edgesparse.checkpoint import dequantize as decode
from edgesparse.checkpoint.rows import ternary_chunks
from edgesparse.errors import (
    MemoryBudgetError,
    ModelFormatError,
    NativeUnavailable,
    UnsupportedTensorType,
    UsageError,
)
from edgesparse.formats import (
    Weight,
    choose,
    dequantize,
    load,
    load_vector,
    load_weights,
    memory,
    storage_bytes,
)
from tests.checkpoint import writers
from tests.formats.sources import (
    ENGINES,
    HALVES,
    NO_NATIVE,
    TERNARY,
    F,
    Memory,
    T,
    random_bytes,
)

MODEL = Path(__file__).parents[2] / "models/smolbit-190m/smolbit-190m-b1.58-tq1_0.gguf"


def matrices(checkpoint: Checkpoint) -> list[str]:
    return [name for name, info in checkpoint.tensors.items() if len(info.shape) == 2]


def test_the_native_module_is_there() -> None:
    assert NO_NATIVE or _native.available(), _native.why_not()


def test_the_default_model() -> None:
    with open_checkpoint(str(MODEL)) as c:
        names = matrices(c)
        ways = [load_weights(c, names, native=native, threads=2) for native in ENGINES]
        assert len(names) == 211
        for name in names:
            w = ways[-1][name]
            assert w.format is (F.T2 if w.source == "TQ1_0" else F.Q8)
            assert w.note == ""
            assert w.data.ctypes.data % 64 == 0
            assert w.data.nbytes == storage_bytes(w.format, w.n_rows, w.k)
            assert not w.data.flags.writeable
            assert w.data.tobytes() == ways[0][name].data.tobytes()
            assert w.scales.tobytes() == ways[0][name].scales.tobytes()
        for name in (names[0], names[7], names[-1]):
            info, w = c.tensors[name], ways[-1][name]
            raw = c.read_range(name, 0, 64 * info.row_bytes)
            expected = decode(info.type, raw, (64, info.n_cols))
            np.testing.assert_array_equal(dequantize(w, np.arange(64)), expected)
        # the weights outlive the checkpoint and each other
        keep = ways[-1][names[3]]
        before = keep.data.tobytes()
    ways.clear()
    assert keep.data.tobytes() == before


def test_chunks_of_any_size_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Memory()
    for kind, k in ((T.TQ2_0, 256), (T.Q8_0, 64), (T.Q6_K, 256), (T.F16, 33)):
        checkpoint.add(kind.name, kind, (203, k), random_bytes(kind, 203, k, 1))
    codes = np.random.default_rng(2).integers(-1, 2, size=(204, 128)).astype(np.int8)
    checkpoint.add("ROW4", T.I2_S_ROW4, (204, 128), TERNARY[T.I2_S_ROW4](codes, 0.5))
    n_reads = []
    found = []
    for chunk in (1, 4000, 1 << 20):
        monkeypatch.setattr(load, "_CHUNK_BYTES", chunk)
        for native in ENGINES:
            checkpoint.n_read = 0
            weights = load_weights(checkpoint, list(checkpoint.tensors), native=native, threads=3)
            n_reads.append(checkpoint.n_read)
            found.append([w.data.tobytes() + w.scales.tobytes() for w in weights.values()])
    assert all(bytes_ == found[0] for bytes_ in found)
    assert max(n_reads) == 5 * 26
    assert min(n_reads) == 5


@pytest.mark.parametrize("online", [False, True])
def test_folders_of_packed_and_of_master_weights(tmp_path: Path, online: bool) -> None:
    config = writers.bitnet_config()
    tensors = writers.packed_model(scale=0.25)
    if online:
        config["quantization_config"]["quantization_mode"] = "online"
        rng = np.random.default_rng(4)
        for module, (_, rows, cols) in writers.PROJECTIONS.items():
            values = writers.bf16(rng.normal(size=(rows, cols)))
            tensors[f"model.layers.0.{module}.weight"] = ("BF16", (rows, cols), values)
            tensors.pop(f"model.layers.0.{module}.weight_scale", None)
    n_matrices = 0
    with open_checkpoint(writers.write_folder(tmp_path / "m", tensors, config)) as c:
        for stem, _, _ in writers.PROJECTIONS.values():
            name = f"blk.0.{stem}.weight"
            assert c.tensors[name].type is (T.BF16 if online else T.HF_T2)
            chunks = [chunk for chunk in ternary_chunks(c, name, 6_000) if chunk]
            values = np.concatenate([codes * scales for _, _, codes, scales in chunks])
            for native in ENGINES:
                w = load_weights(c, [name], native=native, threads=2)[name]
                assert w.format is F.T2
                np.testing.assert_array_equal(dequantize(w), values)
            n_matrices += 1
    assert n_matrices == 7


def test_keys_may_stand_for_tensors() -> None:
    checkpoint = Memory().add("token_embd.weight", T.Q8_0, (9, 64), random_bytes(T.Q8_0, 9, 64, 0))
    names = {"embedding": "token_embd.weight", "head": "token_embd.weight"}
    weights = load_weights(checkpoint, names, threads=1)
    assert list(weights) == ["embedding", "head"]
    assert weights["embedding"] is weights["head"]
    assert load_weights(checkpoint, [], threads=1) == {}


def test_vectors() -> None:
    values = np.linspace(-1, 1, 256).astype(np.float32)
    checkpoint = Memory()
    checkpoint.add("f32", T.F32, (256,), values.view(np.uint8))
    checkpoint.add("f16", T.F16, (256,), values.astype("<f2").view(np.uint8))
    checkpoint.add("q8", T.Q8_0, (256,), random_bytes(T.Q8_0, 1, 256, 0))
    np.testing.assert_array_equal(load_vector(checkpoint, "f32"), values)
    half = values.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(load_vector(checkpoint, "f16"), half)
    assert load_vector(checkpoint, "q8").shape == (256,)
    broken = values.copy()
    broken[7] = np.nan
    with pytest.raises(ModelFormatError, match="broken"):
        load_vector(Memory().add("broken", T.F32, (256,), broken.view(np.uint8)), "broken")


@pytest.mark.parametrize("native", ENGINES)
def test_scales_that_are_not_finite_are_refused_by_name(native: bool) -> None:
    n_cases = 0
    for kind, offsets in HALVES.items():
        for at in offsets:
            for bits in (0x7C00, 0xFC00, 0x7E01):
                raw = random_bytes(kind, 16, 512, 3)
                raw[at : at + 2] = np.frombuffer(np.uint16(bits).tobytes(), np.uint8)
                checkpoint = Memory().add("blk.3.ffn_up.weight", kind, (16, 512), raw)
                with pytest.raises(ModelFormatError, match=r"blk\.3\.ffn_up\.weight") as error:
                    load_weights(checkpoint, list(checkpoint.tensors), native=native, threads=2)
                assert error.value.kind == "value"
                n_cases += 1
    assert n_cases == 3 * 21


@pytest.mark.parametrize("native", ENGINES)
def test_numbers_that_are_not_finite_are_refused(native: bool) -> None:
    n_cases = 0
    for kind, size, bits in ((T.F32, 4, 0x7FC00000), (T.F16, 2, 0x7C00), (T.BF16, 2, 0xFF80)):
        for row in (0, 10):
            for ternarize in (False, True):
                raw = random_bytes(kind, 11, 40, 1)
                number = bits.to_bytes(size, "little")
                at = (row * 40 + 39) * size
                raw[at : at + size] = np.frombuffer(number, np.uint8)
                checkpoint = Memory().add("w", kind, (11, 40), raw, None, ternarize)
                with pytest.raises(ModelFormatError):
                    load_weights(checkpoint, ["w"], native=native, threads=1)
                n_cases += 1
    raw = np.full(32 * 8, 1e9, dtype="<f4").view(np.uint8)
    with pytest.raises(ModelFormatError):
        load_weights(
            Memory().add("w", T.F32, (8, 32), raw),
            ["w"],
            native=native,
            threads=1,
            overrides={"w": F.Q8},
        )
    assert n_cases == 12


@pytest.mark.parametrize("native", ENGINES)
def test_code_3_is_refused_where_it_means_nothing(native: bool) -> None:
    codes = np.zeros((8, 256), dtype=np.int8)
    n_cases = 0
    for kind in (T.I2_S_128X32, T.I2_S_64X16, T.I2_S_ROW4, T.HF_T2, T.TQ2_0, T.IQ2_BN):
        raw = np.frombuffer(TERNARY[kind](codes, 0.5), dtype=np.uint8).copy()
        raw[13] |= 0xC0
        raw[13] |= 0x03
        checkpoint = Memory().add("w", kind, (8, 256), raw, 0.5)
        with pytest.raises(ModelFormatError):
            load_weights(checkpoint, ["w"], native=native, threads=1)
        n_cases += 1
    assert n_cases == 6


@pytest.mark.parametrize("native", ENGINES)
def test_row_scales_that_are_not_finite_are_refused(native: bool) -> None:
    codes = np.zeros((8, 256), dtype=np.int8)
    for kind, n_bytes in ((T.IQ2_BN, 4), (T.IQ1_BN, 2)):
        raw = np.frombuffer(TERNARY[kind](codes, 0.5), dtype=np.uint8).copy()
        row_bytes = len(raw) // 8
        raw[5 * row_bytes : 5 * row_bytes + n_bytes] = 0xFF
        with pytest.raises(ModelFormatError):
            load_weights(Memory().add("w", kind, (8, 256), raw), ["w"], native=native, threads=1)


def test_a_missing_or_broken_tensor_scale() -> None:
    raw = TERNARY[T.HF_T2](np.zeros((8, 64), dtype=np.int8), 1.0)
    for scale, kind in ((None, "missing"), (float("inf"), "value"), (1e300, "value")):
        with pytest.raises(ModelFormatError) as error:
            load_weights(Memory().add("w", T.HF_T2, (8, 64), raw, scale), ["w"], threads=1)
        assert error.value.kind == kind


def test_what_is_no_weight_matrix() -> None:
    n_cases = 0
    for kind in (T.I8, T.I16, T.I32, T.I64, T.F64):
        info = TensorInfo("w", kind, (8, 64), 0, 0)
        with pytest.raises(UnsupportedTensorType, match=kind.name):
            choose(info)
        n_cases += 1
    empty = Memory().add("w", T.F32, (0, 64), b"")
    with pytest.raises(ModelFormatError, match="shape"):
        load_weights(empty, ["w"], threads=1)
    with pytest.raises(ModelFormatError, match="absent"):
        load_weights(empty, ["absent"], threads=1)
    assert n_cases == 5


def test_overrides_that_cannot_be() -> None:
    n_cases = 0
    for kind, fmt in ((T.Q4_1, F.Q8), (T.Q4_K, F.Q4), (T.TQ1_0, F.Q8), (T.F32, F.F16)):
        with pytest.raises(UsageError):
            choose(TensorInfo("w", kind, (8, 256), 0, 0), override=fmt)
        n_cases += 1
    with pytest.raises(UsageError):
        choose(TensorInfo("w", T.TQ1_0, (8, 256), 0, 0), ternary=F.Q8)
    with pytest.raises(UsageError):
        choose(TensorInfo("w", T.TQ1_0, (8, 256), 0, 0), uniform=False, override=F.Q4)
    with pytest.raises(UsageError):
        load_weights(Memory(), [], threads=-1)
    assert n_cases == 4


def test_memory_is_asked_for_first(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Memory().add("w", T.Q8_0, (800, 640), random_bytes(T.Q8_0, 800, 640, 0))
    monkeypatch.setattr(memory, "available_bytes", lambda: 1_000_000)
    with pytest.raises(MemoryBudgetError, match="1 MB are available"):
        load_weights(checkpoint, ["w"], threads=1)
    assert checkpoint.n_read == 0
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    assert load_weights(checkpoint, ["w"], threads=1)["w"].n_rows == 800


def test_a_mapping_that_the_system_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(MemoryBudgetError, match="refuses"):
        memory.allocate([100, 200])


def test_the_arena_is_aligned_zeroed_and_disjoint() -> None:
    sizes = [1, 64, 0, 65, 4096, 3]
    arrays = memory.allocate(sizes)
    assert [len(a) for a in arrays] == sizes
    for value, array in enumerate(arrays):
        assert array.size == 0 or array.ctypes.data % 64 == 0
        assert not array.any()
        array[:] = value + 1
    assert all((array == value + 1).all() for value, array in enumerate(arrays))
    assert [a.size for a in memory.allocate([0, 0])] == [0, 0]


def test_what_comes_one_by_one_shares_mappings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapping of its own would be too small for huge pages."""
    monkeypatch.setattr(memory, "_ARENA_BYTES", 1 << 16)
    arena, rng = memory.Arena(), np.random.default_rng(3)
    data = [rng.integers(0, 256, n, np.uint8) for n in (1, 64, 0, 1000, 60_000, 200_000, 7)]
    kept = [arena.keep(each) for each in data]
    for old, new in zip(data, kept, strict=True):
        assert np.array_equal(old, new)
        assert not new.flags.writeable
        assert new.size == 0 or new.ctypes.data % 64 == 0
    starts = [new.ctypes.data for new in kept]
    assert [start - starts[0] for start in starts[:5]] == [0, 64, 128, 128, 1152]
    assert not 0 <= starts[5] - starts[0] < 1 << 16  # more than was left: another mapping


def test_matrices_that_may_lose_zeros_lie_together() -> None:
    checkpoint = Memory()
    for i in range(3):
        checkpoint.add(f"w{i}", T.Q8_0, (8, 64), random_bytes(T.Q8_0, 8, 64, i))
    seen = []

    def decide(weight: Weight) -> Weight:
        seen.append(weight.name)
        return weight

    sparse = dict.fromkeys(("w0", "w1", "w2"), decide)
    weights = load_weights(checkpoint, ["w0", "w1", "w2"], threads=1, sparse=sparse)
    plain = load_weights(checkpoint, ["w0", "w1", "w2"], threads=1)
    assert sorted(seen) == ["w0", "w1", "w2"]
    starts = [weights[name].data.ctypes.data for name in seen]
    step = -(-weights["w0"].n_bytes // 64) * 64
    assert [start - starts[0] for start in starts] == [0, step, 2 * step]
    assert all(np.array_equal(weights[name].data, plain[name].data) for name in seen)


def test_the_machine_tells_its_memory() -> None:
    available = memory.available_bytes()
    assert available is None or 1 << 20 < available < 1 << 50


def test_native_on_request_only_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESPARSE_NO_NATIVE", "1")
    with pytest.raises(NativeUnavailable):
        load_weights(Memory(), [], native=True, threads=1)
    checkpoint = Memory().add("w", T.F32, (8, 64), random_bytes(T.F32, 8, 64, 0))
    assert load_weights(checkpoint, ["w"], threads=1)["w"].format is F.F32
