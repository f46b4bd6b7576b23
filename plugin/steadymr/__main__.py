"""``python -m steadymr``."""

from __future__ import annotations

from steadymr.cli.main import main

if __name__ == "__main__":
    main()
