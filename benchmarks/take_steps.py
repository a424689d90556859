"""``python -m benchmarks.take_steps URL``: one escalation engine, without an outbox, until nothing is due.

Says that it is ready, waits for a line, and prints how many steps it took.
"""

from __future__ import annotations

import sys
from pathlib import Path

from foundation.settings import Settings
from wiring import build_services


def main() -> None:
    """Take every step that is due."""
    settings = Settings(_env_file=None, database_url=sys.argv[1], jwt_secret="b" * 40, data_dir=Path("unused"))
    services = build_services(settings)
    with services.database.autocommit():
        print("ready", flush=True)
    sys.stdin.readline()
    print(services.escalations.run_once().steps)
    services.database.close()


if __name__ == "__main__":
    main()
