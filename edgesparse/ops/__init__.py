"""The numpy truth of every op, one file each; the arithmetic they promise is in README.md."""
