"""Take a GGUF file apart and write it again with changes, through the `gguf` package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Tensors = dict[str, tuple[np.ndarray, gguf.GGMLQuantizationType]]


def rewrite(
    source: Path,
    target: Path,
    *,
    metadata: Mapping[str, Any] | None = None,
    tensors: Callable[[Tensors], None] | None = None,
) -> Path:
    """Copy a file; `metadata` overrides values (None drops a key), `tensors` edits in place."""
    reader = gguf.GGUFReader(source)
    changes = dict(metadata or {})
    architecture = str(reader.get_field("general.architecture").contents())
    writer = gguf.GGUFWriter(target, changes.pop("general.architecture", architecture))
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = changes.pop(key, field.contents())
        if value is None:
            continue
        sub_type = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, value, field.types[0], sub_type)
    for key, value in changes.items():
        kind = gguf.GGUFValueType.FLOAT32
        if isinstance(value, str):
            kind = gguf.GGUFValueType.STRING
        elif isinstance(value, int):
            kind = gguf.GGUFValueType.UINT32
        writer.add_key_value(key, value, kind)
    found: Tensors = {t.name: (np.array(t.data), t.tensor_type) for t in reader.tensors}
    if tensors is not None:
        tensors(found)
    for name, (data, tensor_type) in found.items():
        writer.add_tensor(name, data, raw_dtype=tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
