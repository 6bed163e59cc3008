"""Memory is predicted before it is taken, within a few percent, and refused with figures."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgesparse
from edgesparse import budget
from edgesparse.budget import MemoryNeed, check_memory, parse_size
from edgesparse.cli import main
from edgesparse.errors import MemoryBudgetError, UsageError
from edgesparse.formats import memory
from edgesparse.formats.weight import Format
from tests.executors.running import load_tiny

_NEED = MemoryNeed(10_000_000, 50_000_000, 0, 0, 0, 80_000_000, 5_000_000, 1_000_000, 1024)

_PEAK = """
import json, resource, sys
import numpy as np
import edgesparse
model = edgesparse.load(n_ctx=1024, threads=2)
ids = np.random.default_rng(0).integers(0, model.engine.n_vocab, 1000).astype(np.int32)
cache = model.engine.new_cache()
model.engine.forward(cache, ids, 0)
for i in range(4):
    model.engine.forward(cache, ids[i : i + 1], 1000 + i)
status = open("/proc/self/status").read()
peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps([model.info.memory.total, peak]))
"""


def test_sizes() -> None:
    good = {
        "900MB": 900 * 10**6,
        "1.5G": 15 * 10**8,
        "1.5gb": 15 * 10**8,
        "512MiB": 512 << 20,
        "2 GiB": 2 << 30,
        "4096": 4096,
        4096: 4096,
        "3kB": 3000,
    }
    assert {text: parse_size(text) for text in good} == good
    bad = ["", "0", "-1", "MB", "1e9", "1XB", "1.2.3G", "iB", "5iB", "9" * 40, "nan", "²"]
    for text in bad:
        with pytest.raises(UsageError, match="is no size"):
            parse_size(text)
    assert len(good) + len(bad) == 20


def test_the_peak_is_running_or_loading() -> None:
    assert _NEED.total == 145_000_000
    assert replace(_NEED, loading=100_000_000).total == 160_000_000
    assert _NEED.to_dict()["total"] == 145_000_000
    assert _NEED.describe().startswith("145 MB at most (10.0 the process + 50.0 weights + ")


def test_refusals_name_figures_and_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    savings = lambda: [("--head q6", 7_000_000), ("--ternary t5", 0)]  # noqa: E731
    monkeypatch.setattr(budget, "available_bytes", lambda: None)
    check_memory(_NEED, 145_000_000, savings)
    check_memory(_NEED, None, savings)
    with pytest.raises(MemoryBudgetError) as caught:
        check_memory(_NEED, 100_000_000, savings)
    text = str(caught.value)
    assert "145 MB" in text
    assert "the budget is 100 MB" in text
    assert "-c 256 fits; --head q6 saves 7 MB." in text
    assert "t5" not in text
    # Without a budget the cache does not count, and only what certainly does not fit is refused.
    monkeypatch.setattr(budget, "available_bytes", lambda: 55_000_000)
    check_memory(_NEED, None, savings)
    monkeypatch.setattr(budget, "available_bytes", lambda: 54_999_999)
    with pytest.raises(MemoryBudgetError, match="55 MB are available"):
        check_memory(_NEED, None, savings)


def test_nothing_is_loaded_beyond_the_budget(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgesparse.formats import load

    def fail(*_: object) -> None:
        raise AssertionError("allocated")

    monkeypatch.setattr(load, "allocate", fail)
    n_cases = 0
    for verb, *rest in (
        ["chat", "-p", "x", "-st"],
        ["run", "-p", "x"],
        ["plan"],
        ["inspect"],
        ["verify"],
        ["bench"],
        ["perplexity", "-f", __file__],
    ):
        assert main([verb, "--mem-budget", "1MB", *rest]) == 4
        captured = capsys.readouterr()
        assert "the budget is 1 MB" in captured.err
        assert not captured.out
        n_cases += 1
    assert n_cases == 7
    with pytest.raises(UsageError, match="is no size"):
        edgesparse.load(mem_budget="much")


def test_a_budget_gives_up_what_costs_least_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgesparse.budget.resident_bytes", lambda: 10**8)
    options: dict[str, object] = {"threads": 1, "n_ctx": 256, "isa": "scalar", "ternary": "auto"}
    ids = list(range(100, 170))
    with edgesparse.load(**options) as model:  # type: ignore[arg-type]
        budget, expected = model.info.memory.total, model.logits(ids)
        preferred = {weight.format for weight in model.parameters.weights.values()}
    assert preferred >= {Format.T2, Format.T2N}
    found = []
    for _ in range(4):
        with edgesparse.load(mem_budget=budget, **options) as model:  # type: ignore[arg-type]
            assert model.info.memory.total <= budget
            assert np.array_equal(model.logits(ids), expected)
            found.append((model.info.warnings[-1:], model.info.memory.total))
            formats = {weight.format for weight in model.parameters.weights.values()}
            budget = model.info.memory.total - 1
            assert (Format.T2N in formats) == (len(found) < 4)
            assert (Format.T5 in formats) == (len(found) > 1)
    with pytest.raises(MemoryBudgetError, match="the budget is"):
        edgesparse.load(mem_budget=budget, **options)  # type: ignore[arg-type]
    said = [warnings[0].partition(": ")[2] if warnings else "" for warnings, _ in found]
    t5, steps = "ternary weights in t5", "prompts in steps of 32 tokens"
    zeros = "inputs that are zero are not skipped"
    assert said == ["", t5, f"{t5}, {steps}", f"{t5}, {steps}, {zeros}"]
    sizes = [size for _, size in found]
    assert sizes == sorted(sizes, reverse=True)


def test_a_budget_does_not_overrule_a_storage_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgesparse.budget.resident_bytes", lambda: 10**8)
    with edgesparse.load(ternary="t2", threads=1, n_ctx=256) as model:
        need = model.info.memory.total
    with edgesparse.load(ternary="t2", threads=1, n_ctx=256, mem_budget=need - 1) as model:
        formats = {weight.format for weight in model.parameters.weights.values()}
        assert Format.T2 in formats
        assert Format.T5 not in formats
        assert model.info.warnings[-1].endswith("prompts in steps of 32 tokens")


def test_a_budget_says_nothing_of_ternary_weights_where_there_are_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgesparse.budget.resident_bytes", lambda: 10**8)
    options = {"executor": "native", "threads": 1}
    with load_tiny("llama-blocks.gguf", **options) as model:
        need = model.info.memory.total
    with load_tiny("llama-blocks.gguf", mem_budget=need - 1, **options) as model:
        assert not any(weight.format.is_ternary for weight in model.parameters.weights.values())
        assert model.info.warnings[-1].endswith("budget: prompts in steps of 32 tokens")


def test_a_vocabulary_is_forgotten_when_its_tokenizer_is_made() -> None:
    from edgesparse.checkpoint import open_checkpoint
    from edgesparse.default_model import default_model_path

    with open_checkpoint(default_model_path()) as checkpoint:
        before = set(checkpoint.metadata)
        checkpoint.forget_vocabulary()
        gone = before - set(checkpoint.metadata)
        assert gone == {f"tokenizer.ggml.{name}" for name in ("tokens", "merges", "token_type")}
        assert checkpoint.get_str("general.architecture")


def test_plan_and_inspect_print_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--head", "two-stage", "--no-measure", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["summary"]["memory"]
    assert main(["inspect", "--head", "two-stage", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    parts = data["engine"]["memory"]
    assert parts["head_copy"] == found["head_copy"] > 0
    assert data["stored_bytes"] == parts["weights"] + parts["head_copy"]
    assert main(["plan", "--no-measure"]) == 0
    assert "MB at most" in capsys.readouterr().out
    assert main(["inspect"]) == 0
    assert "MB at most" in capsys.readouterr().out


def test_weights_are_predicted_exactly() -> None:
    n_cases = 0
    for name in ("bitnet-tq1_0.gguf", "bitnet-i2_s.gguf", "llama-k.gguf", "mixtral-tq2_0.gguf"):
        for head in ("exact", "two-stage"):
            with load_tiny(name, head=head) as model:
                need = model.info.memory
                assert need is not None
                assert need.weights + need.head_copy == model.info.weight_bytes
                vectors = sum(v.nbytes for v in model.parameters.vectors.values())
                tables = sum(t.nbytes for t in model.parameters.tables.values())
                assert need.tables == vectors + tables
                assert need.cache == model.engine.new_cache().raw.nbytes
                n_cases += 1
    assert n_cases == 8


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_prediction_is_the_peak() -> None:
    done = subprocess.run([sys.executable, "-c", _PEAK], capture_output=True, text=True, check=True)
    predicted, peak = json.loads(done.stdout)
    assert 0.97 * peak < predicted < 1.10 * peak


def test_the_tightest_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = tmp_path / "a" / "b"
    group.mkdir(parents=True)
    for folder, limit in ((group, 900), (tmp_path / "a", 700), (tmp_path, 800)):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text("300\n")
        (folder / "memory.stat").write_text("anon 5\ninactive_file 100\n")
    (tmp_path / "cgroup").write_text("4:memory:/x\n0::/a/b\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory, "_CGROUP_OF", tmp_path / "cgroup")
    assert memory._cgroup_room() == 500
    (tmp_path / "a" / "memory.max").write_text("max\n")
    assert memory._cgroup_room() == 600
    (tmp_path / "cgroup").unlink()
    assert memory._cgroup_room() == 600
