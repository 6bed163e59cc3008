"""The verbs sparsity and calibrate, and --predict, on tiny models."""

import json

import pytest

from edgesparse.cli.program import run
from edgesparse.sparsity import SparseInferTable, Thresholds, load_calibration
from edgesparse.sparsity.report import bar, save_plot
from tests.esp.packing import pack
from tests.models import tiny

RELU = str(tiny.path("llama-relu.gguf"))
SILU = str(tiny.path("llama-k.gguf"))
BITNET = str(tiny.path("bitnet-tq2_0.gguf"))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the heron waits in the reeds and then it is not there at all. " * 30)
    return str(path)


def test_a_report_of_every_kind_of_model(text, capsys):
    n_cases = 0
    for model in (RELU, SILU, BITNET):
        assert run(["sparsity", model, "-f", text, "--json", "--tokens", "256"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert len(found["layers"]) == (1 if model == SILU else 2)
        for row in found["layers"]:
            assert 0.2 < row["gate_zero"] < 0.8
            assert 0 <= row["down_int8_zero"] <= 1
            assert list(row["down_magnitudes"].values()) == sorted(row["down_magnitudes"].values())
            assert ("predictor_recall" in row) == (model != SILU)
            if model != SILU:
                assert 0.5 < row["predictor_precision"] <= 1
                assert row["down_int8_zero"] >= row["gate_zero"]
            n_cases += 1
        if model != SILU:
            assert found["summary"]["predicted_speed_up"] >= 1
            assert found["summary"]["measured_speed_up"] > 0
            assert found["summary"]["measured_feed_forward_speed_up"] > 0
            # The zeros are of other tokens than those that are decoded, of a random model.
            ratios = [row["bytes_expected"] / row["bytes_read"] for row in found["layers"]]
            assert all(0.8 < ratio < 1.25 for ratio in ratios), ratios
    assert n_cases == 5


def test_the_table(text, capsys):
    assert run(["sparsity", BITNET, "-f", text, "--no-measure"]) == 0
    out = capsys.readouterr().out
    assert "█" in out
    assert len(out.splitlines()) == 2 + 2 + 1 + 1
    assert run(["sparsity", BITNET, "-f", text, "--no-measure", "--head", "q4"]) == 0
    assert "rounded to q4" in capsys.readouterr().out.splitlines()[-1]


def test_several_alphas_make_a_table(text, tmp_path, capsys):
    base = ["sparsity", BITNET, "-f", text, "--no-measure", "--tokens", "256"]
    assert run([*base, "--alpha", "0.9,1,1.2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = found["alphas"]
    assert [row["alpha"] for row in rows] == [0.9, 1.0, 1.2]
    recalls = [row["predictor_recall"] for row in rows]
    assert recalls == sorted(recalls, reverse=True)
    assert found["layers"][0]["predictor_recall"] == rows[0]["layers"]["blk.0.gate_up"]["recall"]
    assert found["summary"]["dense_perplexity"] > 1
    assert all(row["perplexity"] > 1 and not row["pays"] for row in rows)
    assert run([*base, "--alpha", "0.9,1.2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.lstrip().startswith("alpha "))
    assert lines[at].split()[-1] == "perplexity"
    assert [float(line.split()[0]) for line in lines[at + 1 : at + 3]] == [0.9, 1.2]
    assert lines[at + 3].startswith("perplexity without prediction")


def test_bars():
    assert bar(0.0, 4) == "    "
    assert bar(1.0, 4) == "████"
    assert bar(0.5, 4) == "██  "
    assert bar(1 / 32, 4) == "▏   "
    assert bar(2.0, 4) == "████"


def test_a_plot_without_matplotlib_names_the_extra(text, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    arguments = ["sparsity", SILU, "-f", text, "--plot", str(tmp_path / "p.png")]
    assert run(arguments) == 2
    assert "edgesparse[plot]" in capsys.readouterr().err
    assert not (tmp_path / "p.png").exists()


def test_a_plot(tmp_path):
    rows = [{"layer": i, "gate_zero": 0.5, "down_int8_zero": 0.7} for i in range(3)]
    save_plot(rows, tmp_path / "p.png", "title")
    plain = (tmp_path / "p.png").read_bytes()
    assert plain[:8] == b"\x89PNG\r\n\x1a\n"
    shares = {"predictor_precision": 0.9, "predictor_recall": 0.5, "predictor_live_kept": 0.8}
    alphas = [shares | {"alpha": a, "perplexity": 12 + a} for a in (0.9, 1.0)]
    save_plot(rows, tmp_path / "p.png", "title", alphas)
    assert len((tmp_path / "p.png").read_bytes()) > len(plain)
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]
    drawn = {plain}
    series = ("gate_zero", "qkv_int8_zero", "attn_output_int8_zero", "gate_up_int8_zero")
    for name in (*series, "down_int8_zero"):
        save_plot([row | {name: 0.3} for row in rows], tmp_path / "p.png", "title")
        drawn.add((tmp_path / "p.png").read_bytes())
    assert len(drawn) == 6, "a series is not drawn"


@pytest.mark.parametrize("method", ["teal", "cats", "chess"])
def test_thresholds(method, text, tmp_path, capsys):
    out = str(tmp_path / "c.json")
    arguments = ["--method", method, "--sparsity", "0.3", "-f", text, "-o", out, "--ctx", "128"]
    assert run(["calibrate", SILU, *arguments, "-e", text]) == 0
    assert "with it from position 16 on, prompts too (" in capsys.readouterr().out
    found = load_calibration(out)
    assert isinstance(found, Thresholds)
    assert (found.method, found.sparsity) == (method, 0.3)
    assert len(found.text_sha256) == 64


def test_a_predictor_and_its_use(text, tmp_path, capsys):
    out = str(tmp_path / "p.json")
    arguments = ["--method", "sparseinfer", "--recall", "0.8", "-f", text, "-o", out]
    for model in (RELU, BITNET):
        assert run(["calibrate", model, *arguments, "-e", text, "--ctx", "128"]) == 0
        assert "dense" in capsys.readouterr().out
        found = load_calibration(out)
        assert isinstance(found, SparseInferTable)
        assert len(found.alphas) == 2
        assert all(0.8 <= kept < 0.9 for kept in found.kept.values())
    use = ["perplexity", BITNET, "-f", text, "--ctx", "64", "-q", "--json", "--predict", out]
    assert run([*use[:-2], "--predict-force"]) == 2  # which predictor?
    assert "none is given" in capsys.readouterr().err
    assert run(use) == 2
    assert "--predict-force" in capsys.readouterr().err
    assert run([*use, "--predict-force"]) == 0
    assert "predicted from signs" in json.loads(capsys.readouterr().out)["quality"]
    use[1] = RELU
    assert run([*use, "--predict-force"]) == 3
    assert "made for a model" in capsys.readouterr().err


def test_mistakes(text, tmp_path, capsys):
    out = str(tmp_path / "c.json")
    cases = (
        (["sparsity", SILU], 2),
        (["sparsity", SILU, "-f", str(tmp_path / "nowhere")], 2),
        (["sparsity", SILU, "-f", text, "--tokens", "0"], 2),
        (["sparsity", RELU, "-f", text, "--alpha", "nan"], 2),
        (["sparsity", RELU, "-f", text, "--alpha", "1,,2"], 2),
        (["sparsity", RELU, "-f", text, "--alpha", "1,101"], 2),
        (["calibrate", SILU, "-o", out], 2),
        (["calibrate", SILU, "-f", text], 2),
        (["calibrate", SILU, "-f", text, "-o", out, "--sparsity", "1"], 2),
        (["calibrate", SILU, "-f", text, "-o", out, "--method", "sparseinfer"], 2),
        (["calibrate", RELU, "-f", text, "-o", out, "--method", "sparseinfer", "--recall", "0"], 2),
        (["calibrate", SILU, "-f", text, "-o", out, "--recall", "0.9"], 2),
        (
            [
                "calibrate",
                SILU,
                "-f",
                text,
                "-o",
                out,
                "--method",
                "cats",
                "--allocation",
                "uniform",
            ],
            2,
        ),
        (
            [
                "calibrate",
                RELU,
                "-f",
                text,
                "-o",
                out,
                "--method",
                "sparseinfer",
                "--sparsity",
                "0.4",
            ],
            2,
        ),
        (["calibrate", SILU, "-o", out, "--from", "x", "--allocation", "uniform"], 2),
        (["calibrate", RELU, "-f", text, "-o", out, "--method", "cats"], 2),
        (["calibrate", RELU, "-f", text, "-o", out, "--method", "chess"], 2),
        (["calibrate", RELU, "-o", out, "--method", "cats", "--from", "x"], 2),
        (["sparsity", SILU, "-f", text, "--alpha", "1"], 2),
        (["sparsity", str(tiny.path("mixtral-tq2_0.gguf")), "-f", text, "--alpha", "1"], 2),
        (["run", SILU, "-p", "a", "--predict", "128"], 2),
        (["run", SILU, "-p", "a", "--predict", ""], 2),
        (["run", SILU, "-p", "a", "--sparsity", ""], 2),
        (["calibrate", SILU, "-o", out, "--from", str(tmp_path / "nowhere")], 3),
        (["run", SILU, "-p", "a", "--predict", str(tmp_path / "nowhere")], 3),
    )
    for arguments, code in cases:
        assert run(arguments) == code, arguments
        assert "Traceback" not in capsys.readouterr().err
    assert len(cases) == 25
    assert not (tmp_path / "c.json").exists()


def test_mistakes_are_said_before_the_work(text, tmp_path, monkeypatch, capsys):
    """Calibrating takes minutes; what makes its end impossible is known at the beginning."""

    def fail(*_, **__):
        raise AssertionError("the work has begun")

    for name in ("calibrate.calibrate_thresholds", "sparseinfer.calibrate_alphas"):
        monkeypatch.setattr(f"edgesparse.sparsity.{name}", fail)
    monkeypatch.setattr("edgesparse.sparsity.statistics.collect", fail)
    short, out = tmp_path / "short.txt", str(tmp_path / "c.json")
    short.write_text("a heron")
    nowhere = str(tmp_path / "nowhere" / "c")
    predictor = ["calibrate", RELU, "-f", text, "--method", "sparseinfer"]
    cases = (
        (["calibrate", SILU, "-f", text, "-o", nowhere], "there is no folder"),
        (["calibrate", SILU, "-f", text, "-o", str(tmp_path)], "it is a folder"),
        (["calibrate", SILU, "-o", nowhere, "--from", "x"], "there is no folder"),
        (["calibrate", SILU, "-f", text, "-o", out, "-e", str(short)], "tokens"),
        (["calibrate", SILU, "-f", text, "-o", out, "-e", nowhere], "nowhere"),
        (["sparsity", SILU, "-f", text, "--plot", f"{nowhere}.png"], "there is no folder"),
        (["sparsity", RELU, "-f", text, "--alpha", "1,2", "--sparse", "off"], "several alphas"),
        ([*predictor, "-o", out, "-e", text, "--sparse", "off"], "nothing to compare"),
    )
    for arguments, word in cases:
        assert run(arguments) == 2, arguments
        assert word in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert run(["sparsity", SILU, "-f", text, "--plot", str(tmp_path / "p.png")]) == 2
    assert "edgesparse[plot]" in capsys.readouterr().err


def test_a_refusal_names_what_is_in_the_way(text, tmp_path, capsys):
    """Not the text where the context is short; no method for experts that refuses them too."""
    out, experts = str(tmp_path / "c.json"), str(tiny.path("qwen2moe-blocks.gguf"))
    cases = (
        (["sparsity", SILU, "-f", text, "--ctx", "8"], "Choose a larger context"),
        (["calibrate", SILU, "-f", text, "-o", out, "--ctx", "40"], "Choose a larger context"),
        (["calibrate", SILU, "-f", text, "-o", out, "--dense-tokens", "900"], "fewer tokens"),
        (["calibrate", experts, "-f", text, "-o", out, "--method", "sparseinfer"], "of experts"),
    )
    for arguments, words in cases:
        assert run(arguments) == 2, arguments
        assert words in capsys.readouterr().err, arguments


def test_what_thresholds_save_is_measured(text, tmp_path, capsys):
    """Against the model without them; and it is not called exact."""
    out = str(tmp_path / "c.json")
    run(["calibrate", SILU, "-f", text, "-o", out, "--sparsity", "0.8", "--allocation", "uniform"])
    capsys.readouterr()
    base = ["sparsity", SILU, "-f", text, "--sparsity", out]
    assert run([*base, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    summary = found["summary"]
    assert summary["predicted_speed_up"] > 1.1
    assert summary["measured_speed_up"] > 0
    assert "layer_bytes_expected" not in summary
    assert "lossy" in summary["quality"]
    assert found["layers"][0]["bytes_saved"] > 0
    assert run(base) == 0
    assert "lossy: small inputs count as 0" in capsys.readouterr().out


def test_a_pre_packed_file_is_reported_on(text, tmp_path, capsys):
    """It cannot decode without skipping, and says so instead of failing in the end."""
    packed = str(pack(RELU, tmp_path / "model.esp"))
    assert run(["sparsity", packed, "-f", text]) == 0
    assert "name what it was made of" in capsys.readouterr().out


def test_bench_takes_a_predictor(text, tmp_path, capsys):
    out = str(tmp_path / "p.json")
    assert run(["calibrate", RELU, "--method", "sparseinfer", "-f", text, "-o", out]) == 0
    capsys.readouterr()
    base = ["bench", RELU, "-p", "8", "-n", "4", "-r", "1", "-o", "json"]
    assert run([*base, "--predict", out]) == 2
    assert "--predict-force" in capsys.readouterr().err
    assert run([*base, "--predict", out, "--predict-force"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all("predicted from signs" in row["quality"] for row in rows)
