"""The bytes that the cost model expects are those that the kernels count."""

from pathlib import Path

import numpy as np
import pytest

import edgesparse
from bench.make_model import make_model
from edgesparse.sparsity.expected import expected_bytes
from edgesparse.sparsity.speed import feed_forward, measure_saving
from edgesparse.sparsity.statistics import LayerStatistics, collect
from tests.executors.test_sparse import WIDE
from tests.models import tiny


def counted(model: edgesparse.Model, ids: list[int]) -> np.ndarray:
    """Bytes that each layer's linear ops read per token, decoding one by one."""
    engine = model.engine
    cache, op_bytes = engine.new_cache(len(ids)), np.zeros(len(engine.plan.ops), np.uint64)
    for position, token in enumerate(ids):
        engine.forward(cache, [token], position, op_bytes=op_bytes)
    layers = np.zeros(engine.plan.n_layers)
    for op, n_bytes in zip(engine.plan.ops, op_bytes, strict=True):
        if op.name.startswith("blk."):
            layers[int(op.name.split(".")[1])] += n_bytes
    return layers / len(ids)


CASES = [
    ("tq2_0", 0.0),
    ("tq2_0", 0.5),
    ("tq2_0", 0.9),
    ("q8_0", 0.5),
    ("q8_0", 0.9),
    ("q4_0", 0.9),
]


@pytest.mark.parametrize(("kind", "dead"), CASES)
def test_every_layer_within_a_twentieth(tmp_path: Path, kind: str, dead: float) -> None:
    path = tmp_path / "wide.gguf"
    make_model(path, WIDE, kind, dead_gates=dead)
    ids = np.random.default_rng(2).integers(0, WIDE.n_vocab - 256, 48).tolist()
    with edgesparse.load(path, fused=False) as model:
        layers = collect(model, ids)
    whole = LayerStatistics()  # nothing is zero
    for threads in (1, 2):
        with edgesparse.load(path, threads=threads) as model:
            read = counted(model, ids)
            expected = expected_bytes(model, layers)
            dense = expected_bytes(model, [whole] * len(layers))
        assert len(read) == 2
        np.testing.assert_allclose(expected, read, rtol=0.05)
        assert (dense / read > (1.4 if dead == 0.9 else 1.0)).all()


def test_a_dense_relu_and_experts() -> None:
    n_cases = 0
    for name in ("llama-relu.gguf", "mixtral-tq2_0.gguf", "bitnet-tq2_0.gguf"):
        ids = np.random.default_rng(4).integers(0, 290, 64).tolist()
        with edgesparse.load(tiny.path(name), fused=False) as model:
            layers = collect(model, ids)
        with edgesparse.load(tiny.path(name), threads=1) as model:
            read = counted(model, ids)
            expected = expected_bytes(model, layers)
        np.testing.assert_allclose(expected, read, rtol=0.05, err_msg=name)
        n_cases += len(read)
    assert n_cases == 5


def test_feed_forwards_are_timed_on_their_own(tmp_path: Path) -> None:
    path = tmp_path / "wide.gguf"
    make_model(path, WIDE, "tq2_0", dead_gates=0.9)
    ids = np.random.default_rng(2).integers(0, WIDE.n_vocab - 256, 40).tolist()
    with edgesparse.load(path, sparse="off") as dense, edgesparse.load(path) as sparse:
        assert int(feed_forward(dense.engine.plan).sum()) == 2 * WIDE.n_layers
        found = measure_saving(dense, sparse, ids, n_tokens=8, rounds=3)
    assert found.n_tokens == 8
    assert len(found.dense_ffn_s) == len(found.sparse_ffn_s) == 3
    pairs = zip(found.dense_ffn_s + found.sparse_ffn_s, found.dense_s + found.sparse_s, strict=True)
    assert all(0 < part < whole for part, whole in pairs)
