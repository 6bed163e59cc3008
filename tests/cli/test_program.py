from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgesparse.cli import main, program
from edgesparse.cli.verbs import VERBS, find
from edgesparse.errors import Cancelled, MemoryBudgetError, ModelNotFound, UsageError

ROOT = Path(__file__).parents[2]


def python(*argv, **environment):
    return subprocess.run(
        [sys.executable, *argv],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def test_every_verb_has_its_module_and_its_names_are_unique():
    names = [name for verb in VERBS for name in (verb.name, *verb.aliases)]
    assert len(names) == len(set(names)) >= 9
    for verb in VERBS:
        assert (ROOT / "edgesparse" / "cli" / f"{verb.name}.py").is_file()
        assert find(verb.name) is verb


def test_help_imports_nothing_heavy():
    script = (
        "import sys\n"
        "from edgesparse.cli import main\n"
        "codes = [main(['--help'])] + [main([v, '--help']) for v in sys.argv[1:]]\n"
        "heavy = {'numpy', 'numba', 'rich', 'prompt_toolkit', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(f'{codes} {heavy}' if any(codes) or heavy else 0)"
    )
    done = python("-c", script, *(verb.name for verb in VERBS))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: edgesparse") == len(VERBS) + 1


def test_the_package_runs_as_a_module():
    done = python("-m", "edgesparse", "--version")
    assert done.returncode == 0
    assert done.stdout.startswith("edgesparse ")
    done = python("-m", "edgesparse")
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage" in done.stderr


@pytest.mark.parametrize("verb", ["run", "chat", "inspect", "tokenize"])
def test_a_missing_file_is_exit_code_3(verb):
    executor = [] if verb == "tokenize" else ["--executor", "portable"]
    prompted = ["-p", "Hi"] if verb in ("run", "chat", "tokenize") else []
    done = python("-m", "edgesparse", verb, "absent.gguf", *executor, *prompted)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("edgesparse: ")
    assert "absent.gguf" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_debug_shows_the_traceback():
    done = python("-m", "edgesparse", "tokenize", "absent.gguf", "-p", "x", "--debug")
    assert done.returncode == 3
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    "argv",
    [
        ["rn"],
        ["run", "--no-such-flag"],
        ["run", "-n", "many"],
        ["run", "--executor", "magic"],
        ["run", "-p", "x", "--top-p", "3"],
        ["run", "-p", "x", "--stop", ""],
        ["run", "-p", "x", "-f", "y"],
        ["run", "-p", "x", "--parse-special"],
        ["run", "-p", "x", "--raw", "--system", "s"],
        ["run", "-p", " "],
        ["run", "-f", "absent.txt"],
        ["run", "a.gguf", "-m", "b.gguf", "-p", "x"],
        ["chat", "--single-turn"],
        ["chat", "--load", "absent.json"],
        ["tokenize", "--ids", "1,x"],
    ],
)
def test_wrong_usage_is_exit_code_2(cli, argv):
    done = cli(*argv)
    assert (done.code, done.out) == (2, "")
    assert done.err
    assert "Traceback" not in done.err


def test_a_near_miss_is_suggested(cli):
    assert "did you mean 'inspect'?" in cli("inspct").err
    done = cli("help", "inspct")
    assert (done.code, done.out) == (2, "")
    assert "did you mean 'inspect'?" in done.err
    assert "'edgesparse chat x.gguf'" in cli("x.gguf").err


def test_help_explains_a_verb(cli):
    done = cli("help", "chat")
    assert (done.code, done.err) == (0, "")
    assert done.out == cli("chat", "--help").out
    assert done.out.startswith("usage: edgesparse chat")
    assert cli("help").out.startswith("usage: edgesparse VERB")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("u"), 2),
        (ModelNotFound("m"), 3),
        (MemoryBudgetError("b"), 4),
        (MemoryError(), 4),
        (Cancelled("c"), 130),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 141),
        (OSError(28, "No space left on device"), 1),
    ],
)
def test_errors_become_exit_codes(monkeypatch, capfd, error, code):
    def fail(arguments):
        raise error

    monkeypatch.setattr(program, "_dispatch", fail)
    monkeypatch.setattr(program.os, "dup2", lambda *fds: None)
    assert main([]) == code
    assert "Traceback" not in capfd.readouterr().err


def test_the_environment_sets_defaults_and_flags_win(cli, monkeypatch):
    monkeypatch.setenv("EDGESPARSE_THREADS", "3")
    monkeypatch.setenv("EDGESPARSE_MODEL", "env.gguf")
    monkeypatch.setenv("EDGESPARSE_ISA", "scalar")
    monkeypatch.setenv("EDGESPARSE_JSON", "on")
    done = cli("run", "-p", "x")
    assert done.out.startswith("{")
    assert cli("run", "flag.gguf", "-p", "x", "-t", "1").code == 0
    assert [(item.path, item.threads, item.isa) for item in cli.loaded] == [
        ("env.gguf", 3, "scalar"),
        ("flag.gguf", 1, "scalar"),
    ]
    monkeypatch.setenv("EDGESPARSE_ISA", "quantum")
    assert cli("run", "-p", "x").code == 2
    monkeypatch.setenv("EDGESPARSE_ISA", "")
    monkeypatch.setenv("EDGESPARSE_THREADS", "few")
    assert cli("run", "-p", "x").code == 2


def test_engine_flags_reach_the_engine(cli):
    argv = ["-c", "512", "-t", "2", "--executor", "portable", "--isa", "avx2", "-ngl", "99"]
    argv += ["--i2s-layout", "64x16", "--sparse", "off", "-ctk", "q8_0", "--head", "q4"]
    argv += ["--lut", "lossy", "--kv-sparsity", "0.5", "--weights", "bmp4"]
    argv += ["--mem-budget", "2GB", "--mmap"]
    assert cli("run", "m.gguf", "-p", "x", *argv).code == 0
    assert vars(cli.loaded[0]) == {
        "path": "m.gguf",
        "mem_budget": "2GB",
        "mmap": True,
        "i2s_layout": "64x16",
        "sparse": "off",
        "cache_type_k": "q8_0",
        "kv_sparsity": 0.5,
        "ternary": "auto",
        "lut": "lossy",
        "weights": "bmp4",
        "sparsity": None,
        "cache_type_v": "f16",
        "head": "q4",
        "n_ctx": 512,
        "threads": 2,
        "executor": "portable",
        "isa": "avx2",
        "fused": True,
        "predict": None,
        "predict_force": False,
    }


def test_a_closed_pipe_is_quiet():
    script = (
        "import edgesparse, sys\n"
        "from edgesparse.cli import main\n"
        "from tests.cli.fake_model import fake_model\n"
        "edgesparse.load = lambda *a, **k: fake_model(bytes(range(65, 91)) * 100, token_s=0.001)\n"
        "sys.exit(main(['run', '-p', 'x', '-q']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=environment,
    )
    assert process.stdout.read(5) == b"ABCDE"
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(30) == 141
