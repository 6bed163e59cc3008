"""Mutate the tiny models, load them, run them: typed errors or finite-time answers, no more.

    python -m tests.hostile.mutants FIRST COUNT FOLDER

runs mutants FIRST … FIRST + COUNT - 1 and prints one JSON line of tallies. The number alone decides
the mutant, so a crash is found again by running it alone: the number is written to
FOLDER/current before each.
"""

from __future__ import annotations

import json
import random
import shutil
import struct
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

import edgesparse
from edgesparse.errors import EdgesparseError
from tests.models import tiny

BOUNDARIES = (0, 1, 2, 3, 127, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
SLOW_SECONDS = 5.0


def header_bytes(raw: bytes) -> int:
    """Where the tensors' data begin, roughly: mutations there change structure."""
    if raw[:4] == b"GGUF":
        return raw.rfind(b"weight") + 60
    return 8 + int.from_bytes(raw[:8], "little")


def mutate(rng: random.Random, raw: bytes) -> bytes:
    """Apply one of seven operators; most of them where structure is."""
    out = bytearray(raw)
    head = min(header_bytes(raw), len(raw) - 16) if raw[:1] != b"{" else len(raw) - 16
    match rng.randrange(7):
        case 0:
            return raw[: rng.randrange(len(raw))]
        case 1:
            out[rng.randrange(head)] ^= 1 << rng.randrange(8)
        case 2:
            layout = rng.choice(("<I", "<Q"))
            at = rng.randrange(head)
            value = rng.choice(BOUNDARIES) % 2 ** (8 * struct.calcsize(layout))
            struct.pack_into(layout, out, at, value)
        case 3:
            metadata_number(rng, out, raw)
        case 4:  # the weights themselves: any bytes are codes, scales become wild
            for _ in range(rng.randint(1, 64)):
                out[rng.randrange(head, len(out))] = rng.randrange(256)
        case 5:
            at = rng.randrange(head)
            length = rng.randint(1, 32)
            out[at : at + length] = out[at + length : at + 2 * length]
        case _:
            value = np.array([rng.choice((0.0, -0.0, 1e38, -1e30, 1e-40, float("nan")))], "<f4")
            at = rng.randrange(head, len(out) - 4)
            out[at : at + 4] = value.tobytes()
    return bytes(out)


def metadata_number(rng: random.Random, out: bytearray, raw: bytes) -> None:
    """Change a hyperparameter by a little or a lot, leaving the file well-formed."""
    keys = (
        b"embedding_length block_count feed_forward_length attention.head_count context_length "
        b"attention.head_count_kv attention.key_length attention.value_length freq_base "
        b"rope.dimension_count rms_epsilon scaling.factor tokenizer.ggml.bos_token_id"
    ).split()
    at = raw.find(rng.choice(keys))
    if at < 0:
        out[rng.randrange(len(out))] ^= 0xFF
        return
    while raw[at : at + 1] not in (b"\4", b"\6", b""):  # the value type: u32 or f32
        at += 1
    if at + 8 > len(out):
        return
    found = struct.unpack_from("<I", raw, at + 4)[0]
    near = (found + 1, found - 1, found * 2, found // 2, rng.choice(BOUNDARIES))
    struct.pack_into("<I", out, at + 4, rng.choice(near) % 2**32)


def write_mutant(number: int, folder: Path) -> Path:
    """Write mutant `number`; return what to load."""
    rng = random.Random(number)
    source = tiny.path(rng.choice(tiny.NAMES))
    target = folder / "mutant"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    if source.is_dir():
        shutil.copytree(source, target / source.name)
        victim = rng.choice(sorted((target / source.name).iterdir()))
    else:
        shutil.copy(source, target)
        victim = target / source.name
    victim.write_bytes(mutate(rng, victim.read_bytes()))
    return target / source.name


def attempt(path: Path, executor: str) -> str:
    """Load and run; name the outcome."""
    try:
        with edgesparse.load(path, threads=2, n_ctx=0, executor=executor) as model:
            ids = [i % model.engine.n_vocab for i in tiny.PROMPT[:9]]
            logits = model.logits(ids[: model.engine.n_ctx])
            assert logits.shape[1] == model.engine.n_vocab
            model.detokenize(model.tokenize("the <|im_end|> é")[: model.engine.n_ctx])
            return "ran"
    except EdgesparseError as error:
        return "refused" if error.exit_code in (3, 4) else f"exit code {error.exit_code}"


def main() -> None:
    first, count, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    tally: Counter[str] = Counter()
    for number in range(first, first + count):
        (folder / "current").write_text(str(number))
        path = write_mutant(number, folder)
        begin = time.process_time()
        with np.errstate(all="ignore"):
            tally[attempt(path, "native" if number % 8 else "reference")] += 1
        tally["slow"] += time.process_time() - begin > SLOW_SECONDS
    print(json.dumps(tally))


if __name__ == "__main__":
    main()
