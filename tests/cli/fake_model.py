"""A model for the command line that speaks a fixed text, slowly if asked."""

from __future__ import annotations

from types import SimpleNamespace

from edgesparse.chat import Session
from edgesparse.sampling.recommended import Recommended
from tests.generate.fakes import ByteTokenizer, FakeEngine, speak


def fake_model(text, *, token_s=0.0, n_ctx=4096, raw_after=None, recommended=None):
    engine = FakeEngine(speak(text, after=raw_after), n_ctx=n_ctx, token_s=token_s)
    engine.executor_name, engine.n_threads = "native", 2
    engine.plan = SimpleNamespace(architecture="fake", n_layers=1, n_vocab=engine.n_vocab)
    tokenizer = ByteTokenizer()
    info = SimpleNamespace(
        name="fake",
        path="fake.gguf",
        quality="exact, as far as a fake is",
        warnings=("odd \x1b[31mheader",),
        recommended=recommended or Recommended(),
    )
    return SimpleNamespace(
        engine=engine,
        tokenizer=tokenizer,
        info=info,
        chat=lambda system=None, **options: Session(
            engine, tokenizer, system, **info.recommended.under(options)
        ),
    )
