"""Answers are kept, found again, and never needed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgesparse
from edgesparse import tuning
from edgesparse.benchmark.micro import Micro
from edgesparse.cli import main
from edgesparse.column_share import COLUMN_TOPICS, column_shares
from edgesparse.errors import UsageError
from edgesparse.executors.native import choose_isa
from edgesparse.formats.sparse_cost import RATE_TOPICS, usual_cost
from edgesparse.formats.weight import Format
from edgesparse.lookup import NEVER, SLICE_TOPICS, mad_tokens
from edgesparse.tuning import (
    Answer,
    cache_file,
    lookup,
    preferred_ternary,
    remember,
    sparse_cost,
)
from edgesparse.tuning_columns import least_share
from edgesparse.tuning_slices import first_mad, measure_slices
from edgesparse.tuning_topics import TOPICS, fastest

MODEL = Path(__file__).parents[2] / "models" / "tiny" / "bitnet-tq2_0.gguf"
T5 = Answer("ternary", "avx2", 2, "t5", {"t2": 2e-3, "t5": 1e-3}, 2)


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tuning._choices.cache_clear()
    yield
    tuning._choices.cache_clear()


def forge(content: object) -> None:
    """Put something else in place of the cache."""
    path = cache_file()
    assert path is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    tuning._choices.cache_clear()


def kept() -> dict[str, object]:
    path = cache_file()
    assert path is not None
    content: dict[str, object] = json.loads(path.read_text())
    return content


def test_nothing_known() -> None:
    found = lookup("ternary", "avx2", 2)
    assert (found.value, found.measured_threads) == ("t2", 0)
    assert "default" in found.reason
    assert preferred_ternary("avx2", 2) is Format.T2


@pytest.mark.parametrize(("core", "isa"), [("Cortex-A72", "neon"), ("Cortex-A76", "neondot")])
def test_a_prediction_counts_until_something_is_measured(
    monkeypatch: pytest.MonkeyPatch, core: str, isa: str
) -> None:
    monkeypatch.setattr(tuning, "_core", lambda: core)
    found = lookup("ternary", isa, 4)
    assert (found.value, found.measured_threads) == ("t5", 0)
    assert f"predicted for {core}" in found.reason
    assert lookup("ternary", "scalar", 4).value == "t2"
    assert "predicted" not in lookup("bs2", isa, 4).reason
    remember([Answer("ternary", isa, 4, "t2", {"t2": 1e-3, "t5": 2e-3}, 4)])
    assert lookup("ternary", isa, 4).value == "t2"


@pytest.mark.parametrize(
    ("core", "isa", "read", "four"),
    [("Cortex-A72", "neon", 5.5, Format.BMP4), ("Cortex-A76", "neondot", 11.4, Format.Q4)],
)
def test_slow_memory_makes_bitmaps_pay(
    monkeypatch: pytest.MonkeyPatch, core: str, isa: str, read: float, four: Format
) -> None:
    """Of half zeros, where the board is known; not on the same instruction set elsewhere."""

    def fastest() -> list[Format]:
        cost = sparse_cost("scalar", 4)
        assert not cost.measured
        n, pairs = 1 << 20, ((Format.Q8, Format.BMP8), (Format.Q4, Format.BMP4))
        n_bytes = {Format.Q8: 17 / 16, Format.Q4: 9 / 16, Format.BMP8: 11 / 16, Format.BMP4: 7 / 16}
        return [
            min(pair, key=lambda f: cost.microseconds(f, int(n * n_bytes[f]), n)) for pair in pairs
        ]

    monkeypatch.setattr(tuning, "_core", lambda: core)
    monkeypatch.setitem(tuning.PREDICTED, ("scalar", core), tuning.PREDICTED[isa, core])
    monkeypatch.setattr(tuning, "usual_cost", lambda _, threads: usual_cost(isa, threads))
    assert sparse_cost("scalar", 4).read == read
    assert fastest() == [Format.BMP8, four]
    monkeypatch.setattr(tuning, "_core", lambda: "Neoverse-N1")
    assert fastest() == [Format.Q8, Format.Q4]


def test_kept_and_found() -> None:
    path = remember([T5, Answer("ternary", "avx2", 8, "t2", {"t2": 1e-3, "t5": 2e-3}, 8)])
    assert path == cache_file()
    assert path is not None
    assert path.parent.stat().st_mode & 0o77 == 0
    assert os.listdir(path.parent) == [path.name]  # no temporary file is left
    assert preferred_ternary("avx2", 2) is Format.T5
    assert preferred_ternary("avx2", 3) is Format.T5  # the nearest count
    assert preferred_ternary("avx2", 6) is Format.T2
    assert preferred_ternary("scalar", 2) is Format.T2
    assert "t5 1 ms" in lookup("ternary", "avx2", 2).reason
    remember([Answer("ternary", "scalar", 1, "t5", {}, 1)])  # joins, replaces nothing
    assert preferred_ternary("avx2", 2) is Format.T5
    assert preferred_ternary("scalar", 1) is Format.T5
    remember([Answer("ternary", "avx2", 2, "bst", {}, 2)])
    assert preferred_ternary("avx2", 2) is Format.BST
    tuning.forget()
    assert preferred_ternary("avx2", 2) is Format.T2


@pytest.mark.parametrize(
    "entry",
    [
        *(None, 3, [], "t5", {}, {"value": 5}, {"value": None}, {"value": ["t5"]}),
        *({"value": "t9"}, {"value": ""}, {"value": "T5"}),
        {"seconds": {"t5": 1}},
    ],
)
def test_wrong_entries_count_as_unknown(entry: object) -> None:
    remember([T5])
    content = kept()
    content["choices"] = {"ternary": {"avx2/2": entry}}
    forge(content)
    assert lookup("ternary", "avx2", 2).measured_threads == 0
    assert tuning.trouble() == ""


@pytest.mark.parametrize("value", [-1, -0.5, float("inf"), "5", True])
def test_numbers_that_mean_nothing_count_as_unknown(value: object) -> None:
    remember([Answer("read", "avx2", 2, 20.0, {}, 2)])
    assert lookup("read", "avx2", 2).value == 20
    content = kept()
    content["choices"] = {"read": {"avx2/2": {"value": value}}}
    forge(content)
    found = lookup("read", "avx2", 2)
    assert (found.value, found.measured_threads, found.choice) == (0, 0, "usual rates")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not in the layout"),
        ('{"schema": 2}', "not in the layout"),
        ('{"schema": 1, "machine": {}}', "made on another machine"),
        (" " * (1 << 19), "longer than 256 KiB"),
    ],
)
def test_a_damaged_file_is_told(text: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tuning.trouble() == ""
    forge(text)
    assert reason in tuning.trouble()
    assert main(["doctor", "--no-measure"]) == 0
    assert f"warning       {cache_file()}: {reason}" in capsys.readouterr().out
    assert main(["tune", "--show"]) == 0
    assert f"not used: {cache_file()}: {reason}" in capsys.readouterr().out
    remember([T5])
    assert tuning.trouble() == ""


def test_an_unreadable_file_is_told() -> None:
    path = cache_file()
    assert path is not None
    path.mkdir(parents=True)
    assert "cannot be read (Is a directory)" in tuning.trouble()
    assert preferred_ternary("avx2", 2) is Format.T2


def test_another_process_that_measures_meanwhile_loses_nothing() -> None:
    assert preferred_ternary("avx2", 2) is Format.T2  # the file has been looked for
    path = cache_file()
    remember([T5])
    assert path is not None
    theirs = path.read_text()
    tuning.forget()
    assert preferred_ternary("avx2", 2) is Format.T2
    path.write_text(theirs)
    remember([Answer("ternary", "scalar", 1, "bst", {}, 1)])
    assert preferred_ternary("avx2", 2) is Format.T5
    assert preferred_ternary("scalar", 1) is Format.BST


def given(*answers: Answer | type[BaseException]) -> Callable[..., Iterator[Answer]]:
    """Make a `tune` that answers so, and is interrupted where an exception stands."""

    def tune(*_: object) -> Iterator[Answer]:
        for answer in answers:
            if not isinstance(answer, Answer):
                raise answer
            yield answer

    return tune


def test_what_an_interrupted_run_measured_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgesparse.tuning_topics.tune", given(T5, KeyboardInterrupt))
    assert main(["tune", "--isa", "scalar", "-t", "2"]) == 130
    seen = capsys.readouterr()
    assert "t5 (measured with 2 threads" in seen.out
    assert f"kept in {cache_file()}" in seen.out
    assert f"interrupted: 1 of {len(TOPICS)} measurements are done" in seen.err
    assert preferred_ternary("avx2", 2) is Format.T5
    before = kept()
    monkeypatch.setattr("edgesparse.tuning_topics.tune", given(KeyboardInterrupt))
    assert main(["tune", "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["answers"] == []
    assert kept() == before
    forge("{")
    assert main(["tune"]) == 130
    assert "kept" not in capsys.readouterr().out
    assert "not JSON" in tuning.trouble()  # nothing was measured, so nothing is written


def test_answers_that_cannot_be_kept_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("edgesparse.tuning_topics.tune", given(T5))
    file = tmp_path / "file"
    file.write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    assert main(["tune"]) == 1
    seen = capsys.readouterr()
    assert "t5 (measured" in seen.out
    assert f"not kept: {cache_file()} cannot be written" in seen.err
    path = tmp_path / "cache" / "edgesparse"
    path.mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stuck = cache_file()
    assert stuck is not None
    stuck.mkdir()
    assert main(["tune", "--forget"]) == 1
    assert f"not forgotten: {stuck} cannot be deleted" in capsys.readouterr().err


def test_threads_that_no_pool_has_are_refused_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "-t", "5000"]) == 2
    assert "between 1 and 1024, not 5000" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"machine": {"cpu": "another"}},
        {"choices": 3},
        {"choices": {"ternary": []}},
        {"choices": {"ternary": {"avx2": {"value": "t5"}, "avx2/x": {"value": "t5"}}}},
        {"choices": {"unheard of": {"avx2/2": {"value": "t5"}}}},
    ],
)
def test_wrong_files_count_as_absent(change: dict[str, object]) -> None:
    remember([T5])
    forge(kept() | change)
    assert preferred_ternary("avx2", 2) is Format.T2


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "\0", " " * (1 << 19)])
def test_junk_counts_as_absent(text: str) -> None:
    forge(text)
    assert preferred_ternary("avx2", 2) is Format.T2
    remember([T5])  # and is replaced
    assert preferred_ternary("avx2", 2) is Format.T5


def test_odd_seconds_are_dropped() -> None:
    remember([T5])
    content = kept()
    times = {"a": -1, "b": "x", "c": True, "d": 1e-3}
    content["choices"] = {"ternary": {"avx2/2": {"value": "t5", "seconds": times}}}
    forge(content)
    assert lookup("ternary", "avx2", 2).seconds == {"d": 1e-3}


def test_numbers_as_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tuning.DEFAULTS, "crossover", 0.6)
    assert lookup("crossover", "avx2", 1).value == 0.6
    remember([Answer("crossover", "avx2", 1, 0.45, {}, 1)])
    assert lookup("crossover", "avx2", 1).value == 0.45
    remember([Answer("crossover", "avx2", 1, "t2", {}, 1)])
    assert lookup("crossover", "avx2", 1).value == 0.6
    remember([Answer("crossover", "avx2", 1, float("nan"), {}, 1)])
    assert lookup("crossover", "avx2", 1).value == 0.6


def test_no_place_to_write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    assert remember([T5]) is None
    assert preferred_ternary("avx2", 2) is Format.T2

    def no_home() -> Path:
        raise RuntimeError

    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(Path, "home", no_home)
    assert cache_file() is None
    assert remember([T5]) is None
    tuning.forget()


def test_the_default_stays_unless_beaten_clearly() -> None:
    assert fastest({"t2": 1.0, "t5": 0.96}, "t2") == "t2"
    assert fastest({"t2": 1.0, "t5": 0.9}, "t2") == "t5"
    assert fastest({"t5": 1.0}, "t2") == "t5"


def test_ternary_storage_is_judged_by_prompts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planes that win single tokens by less than they lose a prompt's do not win."""
    monkeypatch.setattr("edgesparse.tuning_topics._TERNARY_SHAPES", ((64, 256), (128, 128)))
    monkeypatch.setattr("edgesparse.tuning_topics.memory_bytes", lambda: 1 << 14)
    times = {("T2", 1): 300, ("T5", 1): 500, ("BST", 1): 200}
    times |= {("T2", 64): 64 * 80, ("T5", 64): 64 * 90, ("BST", 64): 64 * 150}

    def time_ops(_: object, micro: Micro, __: float) -> list[int]:
        weights = micro.parameters.weights.values()
        (name,) = {weight.format.name for weight in weights}
        return [times[name, micro.plan.max_tokens]]

    def measured() -> dict[str, float]:
        monkeypatch.setattr("edgesparse.tuning_topics.time_ops", time_ops)
        (topic,) = (topic for topic in TOPICS if topic.name == "ternary")
        return {name: round(1e9 * s) for name, s in topic.measure("scalar", 1, 0.01).items()}

    assert measured() == {"t2": 760, "t5": 1180, "bst": 700}
    assert fastest(measured(), "t2") == "bst"
    times["BST", 64] = 64 * 180
    assert fastest(measured(), "t2") == "t2"


def test_multiplying_pays_from_some_tokens_on() -> None:
    times = {f"lut {n}": float(n) for n in (1, 4, 16, 64)}
    times |= {"mad 1": 5.0, "mad 4": 6.0, "mad 16": 11.0, "mad 64": 30.0}
    assert first_mad(times, 8.0) == 16
    assert first_mad(times | {"mad 16": 15.9}, 8.0) == 64
    assert first_mad(times | {"mad 64": 70.0}, 8.0) == NEVER
    assert first_mad(times | {"mad 1": 0.5, "mad 4": 1.0}, 8.0) == 1


def test_skipping_pays_from_some_zeros_on() -> None:
    assert least_share({"rows": 10.0, "columns": 9.0, "half": 5.0}, 0.3) == 0
    assert least_share({"rows": 10.0, "columns": 12.0, "half": 8.0}, 0.3) == 0.25
    assert least_share({"rows": 10.0, "columns": 30.0, "half": 25.0}, 0.3) == 1
    assert least_share({"rows": 10.0, "columns": 12.0, "half": 12.0}, 0.3) == 1
    remember([Answer("bs3n", "avx2", 1, 0.25, {}, 1), Answer("bs2n", "avx2", 1, 1.0, {}, 1)])
    remember([Answer("q8n", "avx2", 1, 0.5, {}, 1)])
    shares = column_shares("avx2", 1, 1 << 30)
    blocks = {Format.Q8: 0.5, Format.Q8M: 0.5, Format.Q4: 0.0, Format.Q4M: 0.0}
    slices = {Format.BS2: 1.0, Format.BS3: 0.25, Format.BS4: COLUMN_TOPICS["bs4n"]}
    assert shares == blocks | slices
    small = column_shares("avx2", 1, 1 << 20)
    slices = {Format[f"BS{n}"]: COLUMN_TOPICS[f"bs{n}n small"] for n in (2, 3, 4)}
    assert small == dict.fromkeys(blocks, 0.0) | slices
    words = [lookup(topic, "avx2", 1).choice for topic in ("bs2n", "bs3n")]
    assert words == ["by rows", "by columns from 25% zeros on"]


def test_kernels_obey(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mad_tokens(Format.BS1, 4096, "avx2", 1) == NEVER
    remember([Answer("bs1", "avx2", 1, 4.0, {}, 1), Answer("bs1 long", "avx2", 1, 1.0, {}, 1)])
    assert mad_tokens(Format.BS1, 4096, "avx2", 1) == 4
    assert mad_tokens(Format.BS1, 4097, "avx2", 1) == 1
    monkeypatch.setenv("EDGESPARSE_KERNEL", "mad")
    assert mad_tokens(Format.BS1, 4096, "avx2", 1) == 1
    monkeypatch.setenv("EDGESPARSE_KERNEL", "lut")
    assert mad_tokens(Format.BS4, 4097, "avx2", 1) == NEVER


def test_topics_have_defaults() -> None:
    assert {topic.name for topic in TOPICS} == set(tuning.DEFAULTS)


def test_loading_obeys_and_bits_stay() -> None:
    def formats_and_logits(**options: str) -> tuple[set[str], bytes]:
        with edgesparse.load(MODEL, threads=1, **options) as model:
            weights = model.parameters.weights.values()
            names = {w.format.name for w in weights if w.format.has_row_scales}
            return names, model.logits([3, 17, 250]).tobytes()

    plain = formats_and_logits()
    remember([Answer("ternary", choose_isa(None), 1, "t5", {}, 1)])
    tuned = formats_and_logits()
    assert (plain[0], tuned[0]) == ({"T2", "T2N"}, {"T5", "T2N"})
    assert formats_and_logits(ternary="t2")[0] == {"T2", "T2N"}
    assert formats_and_logits(executor="portable")[0] == {"T2", "T2N"}
    if choose_isa(None) != "scalar":  # measured for another instruction set
        assert formats_and_logits(isa="scalar")[0] == {"T2", "T2N"}
    remember([Answer("ternary", choose_isa(None), 1, "bst", {}, 1)])
    planes = formats_and_logits()
    assert planes[0] == {"BST", "T2", "T2N"}
    assert plain[1] == tuned[1] == planes[1]
    assert np.frombuffer(plain[1], np.float32).any()
    with pytest.raises(UsageError, match="ternary"):
        edgesparse.load(MODEL, ternary="t7")


def test_inspect_says_which_storage_and_why(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def said(path: Path, *flags: str) -> str:
        assert main(["inspect", str(path), "-t", "1", *flags]) == 0
        lines = capsys.readouterr().out.splitlines()
        found = [line for line in lines if line.startswith("ternary ")]
        return found[0].split(maxsplit=1)[1] if found else ""

    assert said(MODEL).startswith("t2: default; ")
    assert said(MODEL, "--ternary", "t5") == "t5: asked for with --ternary"
    assert said(MODEL, "--executor", "portable") == "t2: what this executor takes"
    remember([Answer("ternary", choose_isa(None), 1, "bst", {"t2": 2e-3, "bst": 1e-3}, 1)])
    assert said(MODEL) == "bst: measured with 1 thread: bst 1 ms, t2 2 ms"
    assert said(MODEL.with_name("llama-blocks.gguf")) == ""
    packed = tmp_path / "model.esp"
    assert main(["convert", str(MODEL), str(packed), "--ternary", "t5"]) == 0
    capsys.readouterr()
    assert said(packed) == "t5: as the file was packed"


def test_verb(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgesparse.tuning_topics._TERNARY_SHAPES", ((64, 256),))
    monkeypatch.setattr("edgesparse.tuning_topics.memory_bytes", lambda: 1 << 17)
    monkeypatch.setattr("edgesparse.tuning_rates.memory_bytes", lambda: 1 << 17)
    monkeypatch.setattr("edgesparse.tuning_columns._ROWS", 128)
    small = {False: 1 << 15, True: 1 << 14}
    monkeypatch.setattr("edgesparse.tuning_columns._WORKING_SETS", small)
    monkeypatch.setattr("edgesparse.tuning_slices.SHAPES", {"": (64, 64), " long": (64, 96)})
    monkeypatch.setattr(
        "edgesparse.tuning_topics.TOPICS",
        tuple(
            replace(t, measure=measure_slices(t.name)) if t.name in SLICE_TOPICS else t
            for t in TOPICS
        ),
    )
    assert main(["tune", "-t", "1-2", "--seconds", "0.02", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["file"] == str(cache_file())
    ternary = [a for a in data["answers"] if a["topic"] == "ternary"]
    assert [a["threads"] for a in ternary] == [1, 2]
    assert all(set(a["seconds"]) == {"t2", "t5", "bst"} for a in ternary)
    slices = [a for a in data["answers"] if a["topic"] in SLICE_TOPICS]
    assert {(a["topic"], a["threads"]) for a in slices} == {
        (topic, n) for topic in SLICE_TOPICS for n in (1, 2)
    }
    assert all(len(a["seconds"]) == 8 and a["value"] in (1, 4, 16, 64, NEVER) for a in slices)
    columns = [a for a in data["answers"] if a["topic"] in COLUMN_TOPICS]
    assert len(columns) == 2 * len(COLUMN_TOPICS)
    assert all(set(a["seconds"]) == {"rows", "columns", "half"} for a in columns)
    assert all(0 <= a["value"] <= 1 for a in columns)
    rates = {(a["topic"], a["threads"]): a["value"] for a in data["answers"]}
    assert all(rates[topic, n] > 0 for topic in RATE_TOPICS for n in (1, 2))
    cost = sparse_cost(data["answers"][0]["isa"], 2)
    assert cost.measured
    assert cost.rates["bmp8"] == rates["bmp8", 2]
    assert main(["doctor", "--no-measure", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["tuning"]["ternary"]["reason"].startswith("measured with")
    assert facts["threads"]["default"] >= 1
    assert main(["tune", "--forget"]) == 0
    assert "default" in capsys.readouterr().out
    assert main(["tune", "--seconds", "0"]) == 2
    assert main(["tune", "-t", "0"]) == 2
