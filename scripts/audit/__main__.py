"""List or run the findings of the audit."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the folder holds a package, however it is started

from audit.command import main  # noqa: E402 - not found before

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
