"""The command line."""

from __future__ import annotations

import sys

__all__ = ["main"]

_INTERRUPTED = 130


def main() -> None:
    """Run `autotelic`; a mistake of the user's ends in one clear line and exit code 2, never in a traceback."""
    from autotelic.cli.app import app
    from autotelic.core.errors import AutotelicError

    try:
        app(standalone_mode=True)
    except AutotelicError as error:
        sys.stderr.write(f"autotelic: {error}\n")
        sys.exit(error.exit_code)
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:  # Typer ends silently on Ctrl-C
            sys.stderr.write("autotelic: interrupted. The same command goes on where it stopped.\n")
        raise
