"""Loading with a calibration: what is stored, when it applies, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgesparse.errors import EdgesparseError, UsageError
from edgesparse.executors.lockstep import lockstep
from edgesparse.plan.cost import op_bytes
from edgesparse.plan.op import Linear
from edgesparse.sparsity import Thresholds, fingerprint
from tests.executors.running import EXECUTORS, bits, executor_of, load_tiny

MODEL = "llama-k.gguf"


def thresholds_for(name: str, **changes: object) -> Thresholds:
    with load_tiny(name) as model:
        ops = [op.name for op in model.engine.plan.ops if isinstance(op, Linear)]
        fields = {
            "model_fingerprint": fingerprint(model.config, model.parameters.vectors),
            "method": "teal",
            "sparsity": 0.4,
            "thresholds": {op: 0.3 if op.endswith("qkv") else 0.02 for op in ops if op != "head"},
            "dense_tokens": 4,
        }
    return Thresholds(**(fields | changes))  # type: ignore[arg-type]


def test_generated_tokens_ignore_small_inputs_and_prompts_do_not() -> None:
    tokens = [5, 9, 2, 7, 1, 3, 8, 4]
    found = {}
    with load_tiny(MODEL) as plain:
        dense = bits(plain.logits(tokens))
    for name in EXECUTORS:
        with load_tiny(MODEL, sparsity=thresholds_for(MODEL), executor=name, threads=2) as model:
            assert "teal thresholds" in model.info.quality
            stored = {w.format.is_column for w in model.parameters.weights.values()}
            assert stored == {False, True}
            assert np.array_equal(bits(model.logits(tokens)), dense)
            engine, cache = model.engine, model.engine.new_cache(16)
            rows = [
                engine.forward(cache, tokens[i : i + 1], i, thresholds=True)
                for i in range(len(tokens))
            ]
            found[name] = bits(np.concatenate(rows))
            chunked = engine.forward(
                engine.new_cache(16), tokens, 0, outputs="all", thresholds=True, chunk=3
            )
            assert np.array_equal(bits(chunked), found[name])
    assert all(np.array_equal(found["reference"], other) for other in found.values())
    assert np.array_equal(found["reference"][:4], dense[:4])
    assert not np.array_equal(found["reference"][4:], dense[4:])


def test_lockstep_compares_with_thresholds() -> None:
    with (
        load_tiny(MODEL, sparsity=thresholds_for(MODEL)) as model,
        executor_of(model, "native") as left,
        executor_of(model, "portable") as right,
    ):
        assert lockstep(left, right, [3, 1, 4, 1, 5, 9, 2, 6], chunk=1).difference is None


def test_costs_follow_what_the_calibration_expects() -> None:
    with load_tiny(MODEL) as dense, load_tiny(MODEL, sparsity=thresholds_for(MODEL)) as model:
        sparse, plain = (
            {
                op.name: op_bytes(op, m.parameters, m.engine.plan, 0)
                for op in m.engine.plan.ops
                if isinstance(op, Linear)
            }
            for m in (model, dense)
        )
        assert sparse["head"] == plain["head"]
        weights = model.parameters.weights
        n_checked = 0
        for op in model.engine.plan.ops:
            if isinstance(op, Linear) and op.threshold:
                full = sum(weights[out.weight].n_bytes for out in op.outputs)
                assert 0.6 * full <= sparse[op.name] < 0.7 * full
                n_checked += 1
        assert n_checked == 4 * model.engine.plan.n_layers


def test_a_file_works_as_well_and_a_foreign_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "teal.json"
    thresholds_for(MODEL).save(file)
    with load_tiny(MODEL, sparsity=file) as model:
        assert any(op.threshold for op in model.engine.plan.ops if isinstance(op, Linear))
    with pytest.raises(EdgesparseError, match="model"):
        load_tiny("bitnet-tq1_0.gguf", sparsity=file)


def test_a_number_alone_and_thresholds_on_the_gate_are_refused() -> None:
    for number in (0.4, "0.4"):
        with pytest.raises(UsageError, match="needs thresholds that were calibrated"):
            load_tiny(MODEL, sparsity=number)
    with pytest.raises(UsageError, match="cannot be run"):
        load_tiny(
            MODEL, sparsity=thresholds_for(MODEL, method="cats", thresholds={"blk.0.gate_up": 0.1})
        )
