"""The command `harness`, and `python -m harness`.

While modules are loaded Ctrl-C ends the process as it ends others, not with a traceback from within an import.
"""

from __future__ import annotations

import signal


def main() -> None:
    """Load the command line, and run it."""
    listens = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if listens:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from harness import cli

    if listens:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


if __name__ == "__main__":
    main()
