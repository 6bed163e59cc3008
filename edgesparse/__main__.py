"""``python -m edgesparse`` is ``edgesparse``."""

from __future__ import annotations

import sys

from edgesparse.cli import main

if __name__ == "__main__":
    sys.exit(main())
