"""Data folders for tests that start the embedded server themselves."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foundation.embedded_postgres import EmbeddedPostgres
from foundation.migrator import migrate


@contextmanager
def make_folder() -> Iterator[Path]:
    """Yield a folder that goes with the block.

    It is none of pytest's: those are closed to others at any time, and under root the server has an account of its own.
    """
    folder = Path(tempfile.mkdtemp(prefix="aa-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def make_template() -> Iterator[Path]:
    """Yield a data folder whose cluster is made and migrated, and stopped."""
    with make_folder() as folder:
        server = EmbeddedPostgres(folder)
        try:
            migrate(server.start())
        finally:
            server.stop()
        yield folder


def copy_template(template: Path, folder: Path) -> Path:
    """Return ``folder`` with a copy of the cluster, owned by whom it was: much quicker than making one."""
    folder.mkdir(mode=0o755, exist_ok=True)
    subprocess.run(["cp", "-a", str(template / "postgres"), str(folder)], check=True)
    return folder
