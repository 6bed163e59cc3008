"""The models of models/tiny, by name."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[2] / "models" / "tiny"
NAMES = (
    "bitnet-tq1_0.gguf",
    "bitnet-tq2_0.gguf",
    "bitnet-i2_s.gguf",
    "bitnet-packed",
    "llama-floats.gguf",
    "llama-blocks.gguf",
    "llama-k.gguf",
    "llama-relu.gguf",
    "llama-bf16",
    "qwen2-f16.gguf",
    "qwen2-bf16",
    "qwen3-f16.gguf",
    "qwen3-bf16",
    "gemma3-f16.gguf",
    "gemma3-bf16",
    "mixtral-tq2_0.gguf",
    "mixtral-bf16",
    "qwen2moe-blocks.gguf",
    "qwen2moe-bf16",
    "qwen3moe-bf16",
)
N_VOCAB = 300
PROMPT = [3, 17, 250, 9, 9, 100, 260, 270, 41, 299, 5, 66, 77, 88, 99, 0, 1, 2, 120, 130]
LONG_PROMPT = [(7 * i * i + 11 * i) % N_VOCAB for i in range(130)]


def path(name: str) -> Path:
    return FOLDER / name


def files() -> list[Path]:
    """Every data file of every tiny model."""
    found = [FOLDER / name for name in NAMES]
    return [f for p in found for f in (sorted(p.iterdir()) if p.is_dir() else [p])]
