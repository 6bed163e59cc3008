"""Train the small ReLU-fied Llama of this folder, in numpy, on text that comes with Python.

    python models/docs-relu/train.py FOLDER [--minutes M]

The text is the docstrings of the standard library; ``pydoc_data.topics``, the language reference,
is left for judging. A byte-level BPE of 2,048 tokens is learned from it, then a dense Llama with
SiLU, whose gates become ReLU after three tenths of the steps (Mirzadeh et al., 2023). Seeds are
fixed, but a BLAS may round otherwise, so that another machine trains a slightly different model.
State is kept in FOLDER, and a later call goes on.
"""

from __future__ import annotations

import argparse
import ast
import json
import sysconfig
import time
import warnings
from pathlib import Path

import gguf
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

N_VOCAB, WIDTH, N_FF, N_LAYERS, N_HEADS, HEAD = 2048, 128, 512, 4, 4, 32
EPS, THETA = 1e-5, 10_000.0
BATCH, LENGTH, STEPS, RELU_FROM, WARM_UP = 12, 128, 1000, 300, 60
RATE, DECAY = 3e-3, 0.1
NAMES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def docstrings() -> str:
    """Collect the docstrings of the standard library, without tests, each once."""
    root, found = Path(sysconfig.get_paths()["stdlib"]), {}
    warnings.simplefilter("ignore")
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if "-packages" in name or "/test" in name or name.startswith(("test", "pydoc_data")):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text and len(text) > 60:
                    found[text] = None
    return "\n\n".join(found)


def topics() -> str:
    """Give the language reference, on which nothing is trained."""
    from pydoc_data.topics import topics as found

    return "\n\n".join(found[name] for name in sorted(found))


def learn_tokens(text: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCAB,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


# ---- the model, forwards and backwards -----------------------------------------------------------


def new_weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = dict.fromkeys(NAMES[:4], (WIDTH, WIDTH))
    shapes |= {"ffn_gate": (N_FF, WIDTH), "ffn_up": (N_FF, WIDTH), "ffn_down": (WIDTH, N_FF)}
    found = {"token_embd": rng.normal(0, 0.05, (N_VOCAB, WIDTH)), "output_norm": np.ones(WIDTH)}
    for layer in range(N_LAYERS):
        for name, shape in shapes.items():
            spread = shape[1] ** -0.5
            if name in ("attn_output", "ffn_down"):
                spread /= (2 * N_LAYERS) ** 0.5
            found[f"blk.{layer}.{name}"] = rng.normal(0, spread, shape)
        found[f"blk.{layer}.attn_norm"] = found[f"blk.{layer}.ffn_norm"] = np.ones(WIDTH)
    return {name: np.array(values, np.float32) for name, values in found.items()}


def norm(x, w):
    r = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(EPS))
    return x * r * w, r


def norm_back(dy, x, w, r):
    g = dy * w
    dx = r * (g - x * (r * r) * (g * x).mean(-1, keepdims=True))
    return dx, (dy * x * r).sum(0)


def turn(x, sign):
    """Rotate neighbours of every head by their position; backwards with sign -1."""
    n = x.shape[1]
    angles = np.arange(n)[:, None] * THETA ** (-np.arange(0, HEAD, 2) / HEAD)
    c = np.cos(angles).astype(np.float32)[None, :, None]
    s = np.float32(sign) * np.sin(angles).astype(np.float32)[None, :, None]
    a, b = x[..., 0::2], x[..., 1::2]
    out = np.empty_like(x)
    out[..., 0::2], out[..., 1::2] = a * c - b * s, b * c + a * s
    return out


def heads(x, batch):
    return x.reshape(batch, -1, N_HEADS, HEAD)


def act(g, relu):
    """Give the activation and its slope."""
    if relu:
        return np.maximum(g, 0), (g > 0).astype(np.float32)
    s = 1 / (1 + np.exp(-g))
    return g * s, s * (1 + g * (1 - s))


def gradients(w, tokens, relu):
    """Return the mean loss of a batch (batch, length + 1) and its slope by every weight."""
    batch, n = tokens.shape[0], tokens.shape[1] - 1
    inputs, targets = tokens[:, :-1].reshape(-1), tokens[:, 1:].reshape(-1)
    x, kept = w["token_embd"][inputs], []
    hidden = np.triu(np.full((n, n), -np.inf, np.float32), 1)
    for layer in range(N_LAYERS):
        q_, k_, v_, o_, g_, u_, d_ = (w[f"blk.{layer}.{name}"] for name in NAMES)
        h, r = norm(x, w[f"blk.{layer}.attn_norm"])
        q, k = (turn(heads(h @ m.T, batch), 1).transpose(0, 2, 1, 3) for m in (q_, k_))
        v = heads(h @ v_.T, batch).transpose(0, 2, 1, 3)
        s = q @ k.transpose(0, 1, 3, 2) * np.float32(HEAD**-0.5) + hidden
        p = np.exp(s - s.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        mixed = (p @ v).transpose(0, 2, 1, 3).reshape(-1, WIDTH)
        x1 = x + mixed @ o_.T
        h1, r1 = norm(x1, w[f"blk.{layer}.ffn_norm"])
        gate, up = h1 @ g_.T, h1 @ u_.T
        a, slope = act(gate, relu)
        kept.append((x, h, r, q, k, v, p, mixed, x1, h1, r1, up, a, slope))
        x = x1 + (a * up) @ d_.T
    h, r = norm(x, w["output_norm"])
    logits = h @ w["token_embd"].T
    logits -= logits.max(-1, keepdims=True)
    p = np.exp(logits)
    total = p.sum(-1, keepdims=True)
    rows = np.arange(len(targets))
    loss = float((np.log(total[:, 0]) - logits[rows, targets]).mean())
    p /= total
    p[rows, targets] -= 1
    p /= np.float32(len(targets))
    dw = {"token_embd": p.T @ h}
    dx, dw["output_norm"] = norm_back(p @ w["token_embd"], x, w["output_norm"], r)
    for layer in reversed(range(N_LAYERS)):
        blk = f"blk.{layer}."
        q_, k_, v_, o_, g_, u_, d_ = (w[blk + name] for name in NAMES)
        x, h, r, q, k, v, p, mixed, x1, h1, r1, up, a, slope = kept.pop()
        dw[blk + "ffn_down"] = dx.T @ (a * up)
        dm = dx @ d_
        dgate, dup = dm * up * slope, dm * a
        dw[blk + "ffn_gate"], dw[blk + "ffn_up"] = dgate.T @ h1, dup.T @ h1
        more, dw[blk + "ffn_norm"] = norm_back(dgate @ g_ + dup @ u_, x1, w[blk + "ffn_norm"], r1)
        dx = dx + more
        dw[blk + "attn_output"] = dx.T @ mixed
        dmixed = heads(dx @ o_, batch).transpose(0, 2, 1, 3)
        dv = p.transpose(0, 1, 3, 2) @ dmixed
        dp = dmixed @ v.transpose(0, 1, 3, 2)
        ds = p * (dp - (dp * p).sum(-1, keepdims=True)) * np.float32(HEAD**-0.5)
        dq, dk = ds @ k, ds.transpose(0, 1, 3, 2) @ q
        dh = np.zeros_like(h)
        for name, m, d, turned in (("q", q_, dq, 1), ("k", k_, dk, 1), ("v", v_, dv, 0)):
            d = d.transpose(0, 2, 1, 3)
            d = (turn(d, -1) if turned else d).reshape(-1, WIDTH)
            dw[f"{blk}attn_{name}"] = d.T @ h
            dh += d @ m
        more, dw[blk + "attn_norm"] = norm_back(dh, x, w[blk + "attn_norm"], r)
        dx = dx + more
    np.add.at(dw["token_embd"], inputs, dx)
    return loss, dw


# ---- training ------------------------------------------------------------------------------------


def step(w, m, v, ids, number):
    """Take one step of AdamW on a batch that the step's number chooses; return its loss."""
    rng = np.random.default_rng([2, number])
    first = rng.integers(0, len(ids) - LENGTH - 1, BATCH)
    loss, dw = gradients(w, ids[first[:, None] + np.arange(LENGTH + 1)], number >= RELU_FROM)
    size = np.sqrt(sum(float((d * d).sum()) for d in dw.values()))
    rate = RATE * min(1, (number + 1) / WARM_UP)
    rate *= 0.05 + 0.95 * 0.5 * (1 + np.cos(np.pi * number / STEPS))
    for name, d in dw.items():
        d = d * np.float32(min(1.0, 1.0 / size))
        m[name] += (d - m[name]) * np.float32(0.1)
        v[name] += (d * d - v[name]) * np.float32(0.05)
        slope = m[name] / np.float32(1 - 0.9 ** (number + 1))
        slope /= np.sqrt(v[name] / np.float32(1 - 0.95 ** (number + 1))) + np.float32(1e-8)
        if d.ndim == 2:
            slope += np.float32(DECAY) * w[name]
        w[name] -= np.float32(rate) * slope
    return loss


def write_model(path: Path, w: dict[str, np.ndarray], tokenizer: Tokenizer) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("docs-relu")
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(N_LAYERS)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(THETA)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_string("llama.hidden_activation", "relu")
    learned = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(learned["vocab"], key=learned["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i == 0 else 1 for i in range(len(tokens))])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in learned["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    for name, values in w.items():
        kind = gguf.GGMLQuantizationType.F32 if values.ndim == 1 else gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many, to go on")
    args = parser.parse_args()
    args.folder.mkdir(exist_ok=True)
    state, words = args.folder / "state.npz", args.folder / "tokenizer.json"
    text = docstrings()
    if not words.exists():
        learn_tokens(text).save(str(words))
    tokenizer = Tokenizer.from_file(str(words))
    ids = np.array(tokenizer.encode(text).ids)
    w, number = new_weights(), 0
    m, v = ({name: np.zeros_like(x) for name, x in w.items()} for _ in range(2))
    if state.exists():
        with np.load(state) as kept:
            number = int(kept["number"])
            for name in w:
                w[name], m[name], v[name] = (kept[f"{part} {name}"] for part in "wmv")
    print(f"{len(text)} characters, {len(ids)} tokens; step {number} of {STEPS}", flush=True)
    end, losses = time.monotonic() + 60 * args.minutes, []
    while number < STEPS and time.monotonic() < end:
        losses.append(step(w, m, v, ids, number))
        number += 1
        if number % 50 == 0:
            print(f"{number}: loss {np.mean(losses[-50:]):.3f}", flush=True)
    parts = {
        f"{part} {name}": x
        for part, of in zip("wmv", (w, m, v), strict=True)
        for name, x in of.items()
    }
    np.savez(state, number=number, **parts)
    if number == STEPS:
        write_model(args.folder / "docs-relu.gguf", w, tokenizer)
        (args.folder / "topics.txt").write_text(topics())


if __name__ == "__main__":
    main()
