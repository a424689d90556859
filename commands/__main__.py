"""``python -m commands``: the same as ``python app_advanced.py``, without the imports of the web application."""

from __future__ import annotations

from commands import main

if __name__ == "__main__":
    raise SystemExit(main())
