"""Prints digests of logits, for comparing machines: one line per model, equal where bits are.

Run: python native/check/same_logits.py [FOLDER OF TINY MODELS]
The default model writes 16 greedy tokens; the tiny I2_S model is also read from a copy in the
packing of 64 weights by 16 bytes, which ARM builds of BitNet's own engine write.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import edgesparse
from edgesparse.checkpoint.opening import open_checkpoint

N_TOKENS = 16
PROMPT = "Once upon a time"


def digest(path: str | None, prompt: str | list[int], **options: Any) -> str:
    """Return the greedy tokens and the digest of the logits that they were taken from."""
    with edgesparse.load(path, threads=2, **options) as model:
        tokens = model.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        made, hashed = [], hashlib.sha256()
        cache = model.engine.new_cache(len(tokens) + N_TOKENS)
        given, position = tokens, 0
        for _ in range(N_TOKENS):
            logits = model.engine.forward(cache, given, position)
            hashed.update(np.ascontiguousarray(logits, np.float32).tobytes())
            position += len(given)
            given = [int(logits.argmax())]
            made += given
    return f"{','.join(map(str, made))} {hashed.hexdigest()}"


def repack(source: Path, target: Path) -> int:
    """Write a copy whose I2_S tensors are packed 64x16; return how many there are."""
    data = bytearray(source.read_bytes())
    n_tensors = 0
    with open_checkpoint(source) as checkpoint:
        for info in checkpoint.tensors.values():
            if info.type.name != "I2_S_128X32":
                continue
            n_tensors += 1
            end = info.offset + info.n_rows * info.n_cols // 4
            packed = np.frombuffer(data[info.offset : end], np.uint8).reshape(-1, 32)
            # Field f of byte j of 32 is column 32 f + j; of 16, it is 16 f + j of its half.
            fields = np.stack([packed >> s & 3 for s in (6, 4, 2, 0)], axis=1)
            halves = fields.reshape(-1, 2, 4, 16)
            moved = sum(halves[:, :, f] << (6 - 2 * f) for f in range(4))
            data[info.offset : end] = np.asarray(moved, np.uint8).tobytes()
    target.write_bytes(data)
    return n_tensors


def main() -> None:
    """Print a line per model."""
    default = Path(edgesparse.__file__).parent.parent / "models" / "tiny"
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    prompt = [1, 5, 9, 2, 7]
    print("default", digest(None, PROMPT))
    print("default, t5", digest(None, PROMPT, ternary="t5"))
    source = folder / "bitnet-i2_s.gguf"
    known = digest(str(source), prompt)
    print("tiny I2_S", known)
    with tempfile.TemporaryDirectory() as name:
        target = Path(name) / "64x16.gguf"
        if repack(source, target) == 0:
            sys.exit(f"{source} has no I2_S tensors")
        other = digest(str(target), prompt, i2s_layout="64x16")
        print("tiny I2_S 64x16", other)
        if digest(str(target), prompt) == other:
            sys.exit("the two packings cannot be told apart")
    if other != known:
        sys.exit("the two packings give different logits")
    for path in ("bitnet-tq2_0", "llama-blocks", "llama-k", "llama-floats", "llama-relu"):
        print(path, digest(str(folder / f"{path}.gguf"), prompt))


if __name__ == "__main__":
    main()
