from __future__ import annotations

import io
from types import SimpleNamespace

import pytest

import edgesparse
from edgesparse.cli import main
from tests.cli.fake_model import fake_model


class Cli:
    """Runs command lines against a fake model and collects what they print."""

    def __init__(self, monkeypatch, capsys):
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.model = fake_model(b"Paris.")
        self.loaded = []
        monkeypatch.setattr(edgesparse, "load", self._load)

    def _load(self, path=None, **options):
        self.loaded.append(SimpleNamespace(path=path, **options))
        return self.model

    def __call__(self, *argv, stdin=""):
        data = io.BytesIO(stdin.encode(errors="surrogateescape"))
        self._monkeypatch.setattr("sys.stdin", io.TextIOWrapper(data, encoding="utf-8"))
        code = main([str(item) for item in argv])
        captured = self._capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)


@pytest.fixture
def cli(monkeypatch, capsys):
    return Cli(monkeypatch, capsys)
