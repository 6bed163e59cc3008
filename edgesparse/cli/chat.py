"""``edgesparse chat``: a conversation in the terminal, or one answer per line of a pipe."""

from __future__ import annotations

import argparse

from edgesparse.cli import loading, options

__all__ = ["add_arguments", "run"]

_LIMITS = (
    "The model that ships with edgesparse is small: it chats, knows little and invents freely.\n"
    "'edgesparse chat FILE' talks to a larger one."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    options.add_model(parser)
    talk = parser.add_argument_group("conversation")
    talk.add_argument("-p", "--prompt", metavar="TEXT", help="say this first")
    talk.add_argument(
        "-st", "--single-turn", action="store_true", help="leave after the answer to --prompt"
    )
    talk.add_argument("-sys", "--system", "--system-prompt", metavar="TEXT", help="system prompt")
    talk.add_argument("-sysf", "--system-prompt-file", metavar="FILE", help="the same from a file")
    talk.add_argument("--load", metavar="FILE", help="go on with a conversation that /save wrote")
    talk.add_argument(
        "--raw-output", action="store_true", help="do not filter control characters on a terminal"
    )
    options.add_generation(parser)
    options.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Talk until the input ends; return the exit code."""
    from edgesparse.cli.commands import words
    from edgesparse.cli.lines import messages, reader
    from edgesparse.cli.repl import Repl
    from edgesparse.cli.terminal import Terminal
    from edgesparse.errors import UsageError

    if args.single_turn and args.prompt is None:
        raise UsageError("--single-turn needs --prompt.")
    system = args.system
    if args.system_prompt_file is not None:
        system = options.read_prompt_file(args.system_prompt_file)
    changes = options.generation_changes(args)
    terminal = Terminal(color=not args.no_color, raw=args.raw_output)
    model = loading.load_model(args, terminal)
    session = model.chat(system=system)
    session.options = session.options.updated(**changes)
    if args.load is not None:
        session.load(args.load)
    repl = Repl(model, session, terminal, verbose=args.verbose)
    talking = terminal.interactive and not args.single_turn and args.prompt != "-"
    if talking and not args.quiet:
        terminal.note(repl.describe())
        if loading.model_path(args) is None:
            terminal.note(_LIMITS)
    loading.note_recommended(args, model, changes, terminal)
    if args.prompt is not None:
        repl.run(iter([options.read_prompt_file("-") if args.prompt == "-" else args.prompt]))
        if not talking or repl.leaving:
            return 0
    if talking and not args.quiet:
        terminal.note("/help lists the commands; Ctrl-C stops an answer; Ctrl-D or /bye leaves.")
    read = reader(terminal.interactive, terminal.out_is_tty, words(), color=terminal.color)
    try:
        repl.run(messages(read))
    except KeyboardInterrupt:
        if not terminal.interactive:
            raise
    return 0
