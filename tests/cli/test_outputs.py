"""What verbs write: whole files, readable for others, and never in the place of a device."""

import os
import stat
import threading
from pathlib import Path

import pytest

from edgesparse.cli.program import run
from edgesparse.errors import UsageError
from edgesparse.transcript import write_transcript
from edgesparse.whole_file import replace_file, replacing, require_writable
from tests.models import tiny

RELU = str(tiny.path("llama-relu.gguf"))


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("the heron waits in the reeds and then it is not there at all. " * 10)
    return str(path)


def calibrate(text: str, out: Path) -> int:
    return run(["calibrate", RELU, "-f", text, "-o", str(out), "--method", "sparseinfer"])


def test_pipes_and_devices_stay_what_they_are(tmp_path: Path, text: str, capsys) -> None:
    """As root, renaming a file over /dev/null would leave everybody without one."""
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    link = tmp_path / "link"
    link.symlink_to(pipe)
    for arguments in (
        ["calibrate", RELU, "-f", text, "-o", str(pipe), "--method", "sparseinfer"],
        ["calibrate", RELU, "-f", text, "-o", str(link), "--method", "sparseinfer"],
        ["sparsity", RELU, "-f", text, "--plot", str(pipe), "--no-measure"],
        ["convert", RELU, str(pipe), "--force"],
        ["quantize", RELU, str(pipe), "q4_0", "-y"],
    ):
        assert run(arguments) in (1, 2), arguments
        assert "no regular file" in capsys.readouterr().err, arguments
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        assert link.is_symlink()
    for refused in (lambda: require_writable(pipe), lambda: write_transcript(pipe, None, [])):
        with pytest.raises(UsageError, match="no regular file"):
            refused()
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["link", "pipe.gguf", "text.txt"]


def test_a_link_stays_a_link(tmp_path: Path, text: str) -> None:
    """It leads to the new file."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "real.json").write_text("old")
    link = tmp_path / "link.json"
    link.symlink_to(elsewhere / "real.json")
    assert calibrate(text, link) == 0
    assert link.is_symlink()
    assert "sparseinfer" in (elsewhere / "real.json").read_text()
    assert len(list(elsewhere.iterdir())) == 1


def test_a_model_written_through_a_link_lies_where_it_leads(tmp_path: Path) -> None:
    real = tmp_path / "elsewhere" / "real.gguf"
    real.parent.mkdir()
    real.write_bytes(b"old")
    link = tmp_path / "model.gguf"
    link.symlink_to(real)
    assert run(["quantize", RELU, str(link), "q4_0", "-y", "-q"]) == 0
    assert link.is_symlink()
    assert real.read_bytes()[:4] == b"GGUF"
    assert [item.name for item in real.parent.iterdir()] == ["real.gguf"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o644), (0o077, 0o600)])
def test_others_may_read_and_not_write(tmp_path: Path, text: str, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        assert calibrate(text, tmp_path / "c.json") == 0
        write_transcript(tmp_path / "t.json", None, [])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "c.json").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "t.json").stat().st_mode) == 0o600


def test_two_writers_do_not_mix(tmp_path: Path) -> None:
    """Each has a temporary file of its own; whoever ends last wins as a whole."""
    path, begun = tmp_path / "f", threading.Barrier(2)

    def write(letter: bytes) -> None:
        with replacing(path) as file:
            file.write(letter * 1000)
            begun.wait()
            file.write(letter * 1000)

    writers = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert path.read_bytes() in (b"a" * 2000, b"b" * 2000)
    replace_file(path, "c")
    assert [item.name for item in tmp_path.iterdir()] == ["f"]
