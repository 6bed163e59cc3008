"""Compression layer by layer: what matrices see, in which order, and how a run goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgesparse
from edgesparse.architectures import build_plan
from edgesparse.cancel import CancelToken
from edgesparse.checkpoint import open_checkpoint
from edgesparse.compress import work as work_module
from edgesparse.compress.layers import Matrix, compress_layers, layer_ops, read_matrix
from edgesparse.compress.work import Work, fingerprint_of
from edgesparse.config import read_config
from edgesparse.errors import Cancelled, UsageError
from edgesparse.executors.base import KVCache, Step
from edgesparse.loading import tensor_names
from edgesparse.plan.op import Linear
from edgesparse.sparsity.observed import Observed
from edgesparse.whole_file import TEMPORARY
from tests.models import tiny

F32 = np.float32
MODELS = ("llama-floats.gguf", "qwen3-f16.gguf", "gemma3-f16.gguf", "llama-relu.gguf")
TOKENS = [
    np.random.default_rng(i).integers(0, 300, n).astype(np.int32) for i, n in ((1, 40), (2, 9))
]


def opened(name):
    checkpoint = open_checkpoint(tiny.path(name))
    config = read_config(checkpoint)
    plan = build_plan(config, tensor_names(checkpoint), n_ctx=64, max_tokens=64, path=name)
    return checkpoint, config, plan


def seen_by_the_reference(name):
    """Inputs of every linear op, by another way: the reference executor with hooks."""
    found = {}
    with edgesparse.load(tiny.path(name), executor="reference", fused=False, n_ctx=64) as model:

        def hook_of(op):
            def hook(step, rows):
                found.setdefault(op.name, []).append(rows.copy())

            return hook

        plan = model.engine.plan
        hooks = {op.name: hook_of(op) for op in plan.ops if isinstance(op, Linear)}
        executor = Observed(model.engine.executor, hooks, {})
        for tokens in TOKENS:
            n = len(tokens)
            executor.run(
                Step(
                    tokens=tokens,
                    positions=np.arange(n, dtype=np.int32),
                    sequences=np.zeros(n, np.int32),
                    outputs=np.zeros(0, np.int32),
                    caches=[KVCache(plan, 64)],
                    logits=np.empty((0, model.engine.n_vocab), F32),
                )
            )
    return {key: np.concatenate(rows) for key, rows in found.items()}


@pytest.mark.parametrize("name", MODELS)
def test_matrices_see_what_the_model_computes(name):
    """Hessians against the reference executor's inputs, also behind layers that did not change."""
    seen, n_matrices = seen_by_the_reference(name), 0
    checkpoint, config, plan = opened(name)
    ops = {
        out.weight: op.name
        for layer in layer_ops(plan)
        for op in layer
        if isinstance(op, Linear)
        for out in op.outputs
    }

    def change(matrix: Matrix):
        nonlocal n_matrices
        x = seen[ops[matrix.name]].astype(np.float64)
        expected = x.T @ x
        assert matrix.n_tokens == 49 == len(x)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(matrix.hessian, expected, atol=0.02 * scale)
        np.testing.assert_allclose(
            matrix.norms, np.linalg.norm(x, axis=0), atol=0.02 * np.sqrt(scale)
        )
        np.testing.assert_array_equal(matrix.weight, read_matrix(checkpoint, matrix.name))
        n_matrices += 1
        return matrix.weight

    with checkpoint:
        compress_layers(checkpoint, config, plan, TOKENS, change)
    assert n_matrices == 7 * config.n_layers


def test_later_layers_see_the_change():
    first, second = [], []
    for record, factor in ((first, 1.0), (second, 0.0)):
        checkpoint, config, plan = opened("llama-floats.gguf")

        def change(matrix: Matrix, record=record, factor=factor):
            record.append(matrix.hessian.copy())
            return matrix.weight * F32(factor)

        with checkpoint:
            compress_layers(checkpoint, config, plan, TOKENS, change)
    for a, b in zip(first[:7], second[:7], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[7], second[7])


def test_what_is_known_needs_no_hessian():
    checkpoint, config, plan = opened("llama-floats.gguf")
    shapes = []

    def change(matrix: Matrix):
        shapes.append(matrix.hessian.shape)
        return matrix.weight

    with checkpoint:
        compress_layers(
            *(checkpoint, config, plan, TOKENS, change),
            is_done=lambda name: name.startswith("blk.0."),
        )
    assert shapes[:7] == [(0, 0)] * 7
    assert all(shape != (0, 0) for shape in shapes[7:])


def test_it_can_be_stopped():
    checkpoint, config, plan = opened("llama-floats.gguf")
    token, n_matrices = CancelToken(), 0

    def change(matrix: Matrix):
        nonlocal n_matrices
        n_matrices += 1
        token.cancel()
        return matrix.weight

    with checkpoint, pytest.raises(Cancelled):
        compress_layers(checkpoint, config, plan, TOKENS, change, cancel=token)
    assert n_matrices == 1


def test_work_is_kept_for_the_same_input_and_options(tmp_path: Path):
    source = tmp_path / "in.gguf"
    source.write_bytes(b"x")
    fingerprint = fingerprint_of(source, {"bits": 4})
    assert fingerprint != fingerprint_of(source, {"bits": 3})
    with Work(tmp_path / "out.gguf", fingerprint) as work:
        work.put("blk.0.w", {"codes": np.arange(6).reshape(2, 3)})
        with pytest.raises(UsageError, match=r"out\.gguf is being made by another process"):
            Work(tmp_path / "out.gguf", fingerprint)
        (work.folder / f"{TEMPORARY}x").write_bytes(b"half a matrix, and then power went")
    with Work(tmp_path / "out.gguf", fingerprint) as again:
        assert not again.thrown_away
        assert again.notes(["blk.0.w", "blk.1.w"]) == ["going on: 1 matrices are finished already"]
        assert not list(again.folder.glob(f"{TEMPORARY}*"))
        found = again.get("blk.0.w")
        assert found is not None
        np.testing.assert_array_equal(found["codes"], np.arange(6).reshape(2, 3))
        next(again.folder.glob("*.npz")).write_bytes(b"PK\x03\x04 cut short")
        assert again.get("blk.0.w") is None
    with Work(tmp_path / "out.gguf", fingerprint_of(source, {"bits": 3})) as other:
        assert other.thrown_away
        (said,) = other.notes(["blk.0.w"])
        assert "thrown away" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.gguf"]


@pytest.mark.parametrize("part", ["version", "text"])
def test_another_program_does_not_go_on(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two versions' algorithms are not mixed in one model."""
    source = tmp_path / "in.gguf"
    source.write_bytes(b"x")
    before = fingerprint_of(source, {})
    assert fingerprint_of(source, {}) == before
    if part == "version":
        monkeypatch.setattr(edgesparse, "__version__", "99")
    else:
        package = tmp_path / "compress"
        package.mkdir()
        (package / "work.py").write_text(Path(work_module.__file__).read_text() + "\n")
        monkeypatch.setattr(work_module, "__file__", str(package / "work.py"))
    assert fingerprint_of(source, {}) != before


def test_progress_goes_up_by_parts_of_a_layer() -> None:
    seen: list[tuple[float, int]] = []
    checkpoint, config, plan = opened("llama-floats.gguf")
    with checkpoint:
        compress_layers(
            *(checkpoint, config, plan, TOKENS, lambda matrix: matrix.weight),
            progress=lambda done, of: seen.append((done, of)),
        )
    n_windows, n_layers = len(TOKENS), config.n_layers
    assert seen[0] == (0, n_layers)
    assert seen[-1] == (n_layers, n_layers)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert len(seen) == n_layers * (2 * n_windows + 7) - n_windows + 1
