"""A fingerprint tells models apart and does not see how they are stored."""

from dataclasses import replace

import edgesparse
from edgesparse.sparsity import fingerprint
from tests.models.tiny import path


def of(name: str, **options: object) -> str:
    with edgesparse.load(path(name), executor="reference", **options) as model:
        found = fingerprint(model.config, model.parameters.vectors)
    assert len(found) == 32
    return found


def test_models_differ():
    names = ("bitnet-tq2_0.gguf", "bitnet-tq1_0.gguf", "llama-floats.gguf", "llama-bf16")
    found = {name: of(name) for name in names}
    assert found["bitnet-tq2_0.gguf"] == found["bitnet-tq1_0.gguf"], "one model in two file types"
    assert len(set(found.values())) == 3


def test_storage_and_plan_do_not_matter():
    plain = of("bitnet-tq2_0.gguf")
    ways = ({"head": "q4"}, {"ternary": "t5"}, {"sparse": "off"}, {"fused": False}, {"n_ctx": 16})
    for options in ways:
        assert of("bitnet-tq2_0.gguf", **options) == plain, options


def test_thresholds_of_a_gate_matter():
    with edgesparse.load(path("llama-relu.gguf"), executor="reference") as model:
        config, vectors = model.config, model.parameters.vectors
    changes = ({}, {"gate_cutoff": 0.01}, {"gate_cutoff": 0.02}, {"gate_shift": 0.01})
    assert len({fingerprint(replace(config, **change), vectors) for change in changes}) == 4
