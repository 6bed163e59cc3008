"""The command line: one module per verb, imported when that verb is asked for.

Map: `verbs` the table · `program` parses, dispatches, turns errors into exit codes · `options`
flags that verbs share · `terminal` what may reach a screen · `interrupt` Ctrl-C · `lines`,
`commands`, `repl` the conversation · the other modules are verbs. A verb is a module with
``add_arguments(parser)`` and ``run(args) -> int`` and a row in `verbs`; it imports what is heavy
inside ``run``.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    from edgesparse.cli.program import run

    return run(argv)
