"""A tiny deterministic engine and tokenizer: the next token's scores depend on the last tokens."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np

from edgesparse.errors import Cancelled
from edgesparse.tokenizer.stream import StreamDecoder

BOS, EOS, IM_END, USER, ASSISTANT, SYSTEM = range(6)
N_CONTROL = 6
N_VOCAB = N_CONTROL + 256


class ByteTokenizer:
    """One token per byte behind six control tokens."""

    n_vocab = N_VOCAB
    bos_id = BOS
    eos_id = EOS
    eog_ids = frozenset({EOS, IM_END})
    add_bos = True
    add_eos = False
    chat_template = "fake"
    template_source = "model"
    warnings: list[str] = []  # noqa: RUF012

    def encode(self, text, *, add_special=False, parse_special=False):
        ids = [N_CONTROL + byte for byte in text.encode()]
        return [BOS, *ids] if add_special else ids

    def decode(self, ids, *, skip_special=True, continuation=False):
        stream = self.stream()
        return "".join(stream.push(i) for i in ids) + stream.flush()

    def piece(self, token):
        return bytes([token - N_CONTROL]) if token >= N_CONTROL else b""

    def is_control(self, token):
        return token < N_CONTROL

    def stream(self, *, skip_special=True, continuation=False):
        return StreamDecoder(self.piece)

    def render_chat(self, messages, *, add_generation_prompt=True):
        return repr(messages)

    def encode_chat(self, messages, *, add_generation_prompt=True):
        roles = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
        ids = [BOS]
        for message in messages:
            ids += [roles[message["role"]], *self.encode(message["content"]), IM_END]
        return [*ids, ASSISTANT] if add_generation_prompt else ids


class FakeEngine:
    """Scores from a rule; checks that positions and cached tokens always agree."""

    def __init__(self, rule=None, *, n_ctx=256, max_tokens=64, token_s=0.0, n_vocab=N_VOCAB + 3):
        self.rule = rule or seeded_rule
        self.n_ctx = n_ctx
        self.n_vocab = n_vocab
        self.max_tokens = max_tokens
        self.token_s = token_s
        self.steps: list[tuple[int, int]] = []

    def new_cache(self, capacity=None):
        def reusable(n_held, n_wanted):
            return n_wanted

        return SimpleNamespace(capacity=capacity or self.n_ctx, seen={}, reusable=reusable)

    def forward(self, cache, tokens, start, *, outputs="last", cancel=None, chunk=None, **_):
        assert 0 < len(tokens) <= self.max_tokens
        assert start + len(tokens) <= cache.capacity
        assert all(position in cache.seen for position in range(start)), "a hole in the cache"
        for i, token in enumerate(tokens):
            if self.token_s:
                time.sleep(self.token_s)
            if cancel is not None and cancel.is_set():
                raise Cancelled("stopped")
            cache.seen[start + i] = int(token)
        self.steps.append((start, len(tokens)))
        if outputs == "none":
            return np.empty((0, self.n_vocab), np.float32)
        history = [cache.seen[i] for i in range(start + len(tokens))]
        return np.asarray(self.rule(history, self.n_vocab), np.float32)[None]

    @property
    def n_computed(self):
        return sum(n for _, n in self.steps)


def seeded_rule(history, n_vocab):
    rng = np.random.default_rng([len(history), *history[-4:]])
    scores = rng.normal(0, 2, n_vocab).astype(np.float32)
    scores[:N_CONTROL] = -50
    scores[N_VOCAB:] = 99  # padding rows: must never be chosen
    return scores


def speak(text: bytes, *, after: int | None = None):
    """A rule that says `text` behind the last ASSISTANT (or behind `after` tokens), then IM_END."""

    def rule(history, n_vocab):
        begin = after
        if begin is None:
            begin = len(history) - history[::-1].index(ASSISTANT)
        at = len(history) - begin
        scores = np.zeros(n_vocab, np.float32)
        scores[N_CONTROL + text[at] if at < len(text) else IM_END] = 30
        return scores

    return rule
