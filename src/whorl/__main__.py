"""The command `whorl`, and `python -m whorl`: signals are heard before anything slow is loaded."""

from __future__ import annotations

import sys

from whorl.cli.interrupts import Interrupts

__all__ = ["main"]


def main() -> None:
    """Entry point."""
    interrupts = Interrupts()
    interrupts.install()
    from whorl.cli.early import begin_engine

    begin_engine(sys.argv[1:])
    from whorl.cli.main import main as run

    run(interrupts)


if __name__ == "__main__":
    main()
