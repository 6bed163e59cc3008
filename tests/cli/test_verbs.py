from __future__ import annotations

import json

import pytest

from edgesparse.sampling.recommended import Recommended
from tests.cli.fake_model import fake_model
from tests.generate.fakes import BOS, EOS


def test_run_prints_the_answer_and_nothing_else(cli):
    done = cli("run", "-p", "Capital of France?", "--temp", "0", "-q")
    assert (done.code, done.out, done.err) == (0, "Paris.\n", "")


def test_warnings_are_escaped_and_on_stderr(cli):
    done = cli("run", "-p", "x", "--temp", "0")
    assert done.out == "Paris.\n"
    assert done.err == "edgesparse: warning: odd \u241b[31mheader\n"


@pytest.mark.parametrize("source", ["-p", "-p-", "-f", "-f-", "pipe"])
def test_run_takes_its_prompt_from_everywhere(cli, tmp_path, source):
    path = tmp_path / "prompt.txt"
    path.write_text("Capital?")
    argv = {
        "-p": ["-p", "Capital?"],
        "-p-": ["-p", "-"],
        "-f": ["-f", path],
        "-f-": ["-f", "-"],
        "pipe": [],
    }[source]
    done = cli("run", *argv, "--temp", "0", "--json", "-q", stdin="Capital?")
    data = json.loads(done.out)
    assert (data["text"], data["finish_reason"]) == ("Paris.", "stop")
    # <bos><user>…<im_end><assistant>
    assert data["stats"]["prompt_tokens"] == len("Capital?") + 4


def test_run_raw_leaves_the_template_out(cli):
    cli.model = fake_model(b" upon", raw_after=1 + len("Once"))
    done = cli("run", "-p", "Once", "--raw", "--temp", "0", "--json", "-q")
    data = json.loads(done.out)
    assert (data["text"], data["stats"]["prompt_tokens"]) == (" upon", 5)


def test_run_options_reach_the_sampler(cli):
    done = cli("run", "-p", "x", "-n", "3", "--temp", "0", "--seed", "17", "--json", "-q")
    data = json.loads(done.out)
    assert (data["text"], data["finish_reason"], data["stats"]["seed"]) == ("Par", "length", 17)
    done = cli("run", "-p", "x", "--stop", "is", "-r", "zz", "--temp", "0", "-q")
    assert done.out == "Par\n"
    assert "seed:" in cli("run", "-p", "x", "-v", "-q").err


def test_run_says_why_it_stopped(cli):
    cli.model = fake_model(b"ab" * 500)
    for verb in (["run"], ["chat", "-st"]):
        argv = [*verb, "-p", "x", "--temp", "0"]
        assert "repeats itself; " in cli(*argv).err
        assert "repeats itself)" in cli(*argv, "--repeat-penalty", "1.01").err
    done = cli("run", "-p", "x", "--temp", "0", "--no-loop-guard", "-q")
    assert done.out == "ab" * 500 + "\n"


def test_run_too_long_a_prompt_is_a_plain_error(cli):
    cli.model = fake_model(b"x", n_ctx=16)
    done = cli("run", "-p", "y" * 50, "-q")
    assert (done.code, done.out) == (1, "")
    assert "54 tokens" in done.err


def test_chat_in_a_pipe_prints_answers_only(cli):
    done = cli("chat", "--temp", "0", "-q", stdin="one\n\ntwo\n")
    assert (done.code, done.out, done.err) == (0, "Paris.\nParis.\n", "")
    assert len(cli.loaded) == 1


def test_chat_reads_bytes_that_are_no_text(cli):
    done = cli("chat", "--temp", "0", "-q", stdin="\udcff\udcfe hello\n")
    assert (done.code, done.out) == (0, "Paris.\n")


def test_chat_first_prompt_and_single_turn(cli):
    assert cli("chat", "-p", "x", "-st", "--temp", "0", "-q", stdin="y\n").out == "Paris.\n"
    assert cli("chat", "-p", "-", "--temp", "0", "-q", stdin="a\nb\n").out == "Paris.\n"


def test_chat_multi_line_messages(cli):
    script = '"""one\ntwo\n"""\n/stats\n'
    done = cli("chat", "--temp", "0", "-q", stdin=script)
    assert done.out == "Paris.\n"
    # <bos><user>one\ntwo<im_end><assistant>
    assert "prompt eval count:    11 tokens" in done.err


def test_chat_commands(cli, tmp_path):
    note = tmp_path / "note.txt"
    note.write_text("read me")
    saved = tmp_path / "talk.json"
    script = f"""/help
hello
/regen
/set parameter max_tokens 3
/set parameter stop "a b" c
again
/show parameters
/set system Be brief.
/show system
/show template
/show info
/read {note}
question
/undo
/save {saved}
/clear
/load {saved}
/stats
/set verbose
last
/bye
never said
"""
    done = cli("chat", "--temp", "0", "-q", stdin=script)
    assert done.code == 0, done.err
    assert done.out == "Paris.\nParis.\nPar\nPar\nPar\n"
    turns = json.loads(saved.read_text())["turns"]
    assert [turn["user"] for turn in turns] == ["hello", "again"]
    for expected in (
        "/exit, /bye, /quit",
        "max_tokens        3",
        "stop              a b c",
        "Be brief.",
        "fake: fake, 1 layers",
        "7 characters go in front",
        "5 messages loaded",
        "of 4096 tokens",
        "eval rate:",
        "exact, as far as a fake is",
    ):
        assert expected in done.err


@pytest.mark.parametrize(
    "command",
    [
        "/nonsense",
        "/set",
        "/set parameter nonsense 1",
        "/set parameter top_k many",
        "/set parameter top_p 7",
        "/show",
        "/read",
        "/read absent.txt",
        "/save",
        "/load",
        "/load absent.json",
        "/regen",
    ],
)
def test_chat_wrong_commands_end_a_pipe_with_code_2(cli, command):
    done = cli("chat", "-q", stdin=f"{command}\nhello\n")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("edgesparse: ")


def test_what_a_model_recommends_is_used_and_said(cli):
    recommended = Recommended({"temperature": 0.0, "top_k": 7}, "GGUF metadata")
    cli.model = fake_model(b"Paris.", recommended=recommended)
    assert "recommends" not in cli("chat", stdin="x\n").err
    for verb in (["chat"], ["run"]):
        assert "recommends" not in cli(*verb, stdin="x\n").err
        done = cli(*verb, "-v", "--top-k", "3", stdin="x\n")
        assert "recommends (GGUF metadata): temperature 0." in done.err
        assert "recommends" not in cli(*verb, "-v", "-q", stdin="x\n").err
    done = cli("chat", "--top-k", "3", stdin="/show parameters\n")
    assert "temperature       0.0" in done.err
    assert "top_k             3" in done.err


def test_raw_runs_take_what_the_model_recommends(cli):
    seeds = [str(seed) for seed in range(4)]
    texts = {}
    for name, recommended in (("warm", {"temperature": 90.0}), ("cold", {"temperature": 0.0})):
        cli.model = fake_model(b"Paris.", raw_after=2, recommended=Recommended(recommended, "t"))
        argv = ["run", "--raw", "-p", "x", "-n", "4", "--min-p", "0", "--top-p", "1", "-q"]
        texts[name] = {cli(*argv, "--seed", seed).out for seed in seeds}
    assert texts["cold"] == {"Pari\n"}
    assert len(texts["warm"]) > 1


def test_help_fits_a_narrow_screen(cli):
    done = cli("chat", "-q", stdin="/help\n")
    assert done.err.count("\n") >= 12
    assert max(map(len, done.err.splitlines())) <= 80


def test_chat_loads_a_saved_conversation(cli, tmp_path):
    saved = tmp_path / "talk.json"
    cli("chat", "--temp", "0", stdin=f"hello\n/save {saved}\n")
    done = cli("chat", "--load", saved, "--temp", "0", "-q", stdin="/regen\n/undo\n/undo\n")
    assert done.out == "Paris.\n"
    assert "Nothing was said yet." in done.err


DEFAULT_MODEL_IDS = [504, 3575, 282, 4649, 314, 7042, 30]


def test_tokenize_with_the_default_model(cli):
    text = "The capital of France is Paris."
    data = json.loads(cli("tokenize", "-p", text, "--json", "-q").out)
    assert data["ids"] == DEFAULT_MODEL_IDS
    assert "".join(data["pieces"]) == text
    lines = cli("tokenize", "-q", stdin=text).out.splitlines()
    assert lines[0] == "    504  'The'"
    assert len(lines) == data["count"] == len(DEFAULT_MODEL_IDS)
    ids = ",".join(map(str, DEFAULT_MODEL_IDS))
    assert cli("detokenize", "--ids", ids, "-q").out == text + "\n"
    assert cli.loaded == []  # no weights were loaded


def test_tokenize_reads_control_tokens_only_when_asked(cli):
    plain = json.loads(cli("tokenize", "-p", "<|im_end|>", "--json", "-q").out)
    parsed = json.loads(cli("tokenize", "-p", "<|im_end|>", "--parse-special", "--json", "-q").out)
    assert len(plain["ids"]) > 1
    assert parsed["ids"] == [2]
    chat = json.loads(cli("tokenize", "-p", "Hi", "--chat", "-o", "json", "-q").out)
    assert chat["ids"][0] == 1
    assert BOS != EOS


def test_inspect_the_default_file(cli):
    done = cli("inspect", "--no-load", "--tensors", "--metadata", "--template")
    assert done.code == 0
    for expected in ("bitnet-b1.58", "TQ1_0", "blk.0.attn_q.weight", "tokenizer.ggml.pre"):
        assert expected in done.out
    data = json.loads(cli("inspect", "--no-load", "--json").out)
    assert data["tokenizer"]["n_vocab"] == 49152
    assert len(data["tensors"]) == done.out.count("blk.") + 2
    assert sum(item["file_bytes"] for item in data["tensors"]) < data["file_bytes"]
