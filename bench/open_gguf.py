"""Time to open GGUF files: the bundled model, and a header with a 128k-token vocabulary.

Run: python -m bench.open_gguf [--vocabulary 128256] [--merges 280147] [--repeat 5]
The last line is JSON. The ceiling is the time to read the header's bytes alone.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from edgesparse.checkpoint import open_checkpoint

MODEL = Path(__file__).parents[1] / "models" / "smolbit-190m" / "smolbit-190m-b1.58-tq1_0.gguf"


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def array_pair(key: str, type_id: int, count: int, body: bytes) -> bytes:
    return text(key) + struct.pack("<IIQ", 9, type_id, count) + body


def vocabulary_file(path: str, n_tokens: int, n_merges: int) -> None:
    """Write a header with the vocabulary of a Llama-3-sized tokenizer and no tensors."""
    tokens = b"".join(text(f"Ġtoken{i}") for i in range(n_tokens))
    merges = b"".join(text(f"Ġto{i} ken{i}") for i in range(n_merges))
    pairs = [
        array_pair("tokenizer.ggml.tokens", 8, n_tokens, tokens),
        array_pair("tokenizer.ggml.merges", 8, n_merges, merges),
        array_pair("tokenizer.ggml.token_type", 5, n_tokens, struct.pack("<i", 1) * n_tokens),
    ]
    header = b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs))
    Path(path).write_bytes(header + b"".join(pairs))


def best_ms(work: Callable[[], object], repeat: int) -> float:
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return 1e3 * min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=int, default=128_256)
    parser.add_argument("--merges", type=int, default=280_147)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "vocabulary.gguf")
        vocabulary_file(path, options.vocabulary, options.merges)
        result["vocabulary_file_mb"] = os.path.getsize(path) / 1e6
        result["vocabulary_read_ms"] = best_ms(Path(path).read_bytes, options.repeat)
        result["vocabulary_open_ms"] = best_ms(
            lambda: open_checkpoint(path).close(), options.repeat
        )
        with open_checkpoint(path) as checkpoint:
            tokens = checkpoint.get_array("tokenizer.ggml.tokens", kind="str")
            result["vocabulary_to_list_ms"] = best_ms(lambda: list(tokens), options.repeat)
    if MODEL.exists():
        result["bundled_open_ms"] = best_ms(lambda: open_checkpoint(MODEL).close(), options.repeat)
    for key, value in result.items():
        print(f"{key:24s} {value:10.2f}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
