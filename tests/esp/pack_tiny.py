"""Writes pre-packed files of tiny models, between them every kind of op and storage, into a folder.

    python -m tests.esp.pack_tiny FOLDER

``make sanitize`` has `es_fuzz` damage them. Prints their paths.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from edgesparse.cli.program import run
from tests.esp.packing import pack
from tests.models import tiny

SAMPLES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("bitnet-tq2_0.gguf", {}),
    ("bitnet-i2_s.gguf", {"ternary": "t5", "fused": False}),
    ("bitnet-tq1_0.gguf", {"ternary": "bst", "cache_type_k": "q8_0"}),
    ("llama-blocks.gguf", {}),
    ("llama-k.gguf", {"weights": "bmp4", "cache_type_v": "q8_0"}),
    ("llama-relu.gguf", {"weights": "q8"}),
    ("llama-floats.gguf", {"weights": "bmp8"}),
    ("gemma3-f16.gguf", {}),
    ("qwen3-bf16", {"head": "q6"}),
    ("mixtral-tq2_0.gguf", {}),
    ("qwen2moe-blocks.gguf", {"fused": False}),
)


def write_samples(folder: Path) -> list[Path]:
    """Convert the samples; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, (name, options) in enumerate(SAMPLES):
        path = folder / f"{i:02}-{name.removesuffix('.gguf')}.esp"
        path.unlink(missing_ok=True)
        paths.append(pack(tiny.path(name), path, **options))
    quantised, path = folder / "outliers.gguf", folder / "outliers.esp"
    flags = ("w3_g32", "--outliers", "2%", "--windows", "0", "-y", "-q")
    with redirect_stdout(sys.stderr):
        if run(["quantize", str(tiny.path("llama-relu.gguf")), str(quantised), *flags]) != 0:
            raise RuntimeError("quantising failed")
    path.unlink(missing_ok=True)
    paths.append(pack(quantised, path))
    return paths


if __name__ == "__main__":
    print(*write_samples(Path(sys.argv[1])), sep="\n")
