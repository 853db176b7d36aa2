"""`python -m whorl` is the command `whorl`."""

from __future__ import annotations

from whorl.cli.main import main

main()
