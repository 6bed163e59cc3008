"""Pre-packed model files (``.esp``): weights as kernels read them, ready to be read or mapped.

* ``layout.py`` is the container: header, table of sections, checksums, and every check of them.
* ``metadata.py`` writes the model's metadata; GGUF's own key-value bytes, so its reader reads them.
* ``writer.py`` makes a file of a loaded model; ``reader.py`` opens one as a `Checkpoint`.
* ``stored.py`` gives its matrices as `Weight`.

The byte picture is in edgesparse/formats/README.md; the C runner (native/run) reads the same file.
"""

from edgesparse.esp.reader import open_esp
from edgesparse.esp.stored import StoredWeights
from edgesparse.esp.writer import write_esp

__all__ = ["StoredWeights", "open_esp", "write_esp"]
