"""Executors, instruction sets, chunk sizes, fusion: the same bits on every tiny model."""

from __future__ import annotations

import numpy as np
import pytest

from edgesparse.executors.base import Parameters
from edgesparse.executors.lockstep import lockstep
from edgesparse.executors.native import isa_names
from edgesparse.executors.reference import ReferenceExecutor
from tests.executors.running import bits, executor_of, load_tiny, run_in_chunks
from tests.models import tiny


@pytest.mark.parametrize("name", tiny.NAMES)
@pytest.mark.parametrize("fused", [True, False])
def test_op_by_op(name: str, fused: bool) -> None:
    with load_tiny(name, fused=fused) as model:
        reference = model.engine.executor
        for other in ("native", "portable"):
            with executor_of(model, other) as executor:
                report = lockstep(executor, reference, tiny.PROMPT, chunk=7)
            assert report.difference is None, report.difference
            assert report.n_ops == 3 * len(model.engine.plan.ops)
            assert report.n_values > 25_000


@pytest.mark.parametrize("name", tiny.NAMES)
def test_chunks_fusion_and_instruction_sets(name: str) -> None:
    """One prompt in steps of 1, 7, 64 and all, on every instruction set, fused and not."""
    prompt = tiny.LONG_PROMPT
    with load_tiny(name) as model, executor_of(model, "portable") as portable:
        expected = bits(run_in_chunks(portable, prompt, len(prompt)))
    assert np.unique(expected).size > 10_000
    compared = 0
    for fused in (True, False):
        with load_tiny(name, fused=fused) as model:
            for isa in isa_names():
                with executor_of(model, "native", isa=isa) as executor:
                    for chunk in (1, 7, 64, len(prompt)):
                        found = run_in_chunks(executor, prompt, chunk)
                        np.testing.assert_array_equal(bits(found), expected)
                        compared += 1
            with executor_of(model, "portable") as executor:
                for chunk in (7, 64):
                    found = run_in_chunks(executor, prompt, chunk)
                    np.testing.assert_array_equal(bits(found), expected)
                    compared += 1
    assert compared == 8 * len(isa_names()) + 4
    assert len(isa_names()) >= 2


def test_the_reference_agrees_on_whole_prompts() -> None:
    for name in tiny.NAMES:
        with load_tiny(name) as model, executor_of(model, "native") as native:
            expected = run_in_chunks(native, tiny.PROMPT, 20)
            found = run_in_chunks(model.engine.executor, tiny.PROMPT, 13)
        np.testing.assert_array_equal(bits(found), bits(expected))


def test_lockstep_names_the_first_op_that_differs() -> None:
    """One changed norm weight is found in the op that reads it, and nowhere before."""
    with load_tiny("bitnet-tq1_0.gguf") as model:
        plan, parameters = model.engine.plan, model.parameters
        key = "blk.1.ffn_norm.weight"
        vectors = dict(parameters.vectors)
        vectors[key] = vectors[key] * np.float32(1.01)
        changed = Parameters(parameters.weights, vectors, parameters.tables)
        other = ReferenceExecutor(plan, changed)
        report = lockstep(model.engine.executor, other, tiny.PROMPT, chunk=20)
    assert report.difference is not None
    assert report.difference.op == "blk.1.gate_up"
    assert plan.ops[report.difference.index].name == "blk.1.gate_up"
    assert report.difference.n_different > 0
    assert report.difference.left != report.difference.right
