"""The data folder: where the embedded database and the generated secrets live, owned by one ``run`` at a time."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from foundation.errors import SettingsError
from foundation.processes import await_condition

LOCK_NAME = "run.lock"
RUN_FILE_NAME = "run.json"
# A predecessor that is just stopping gets this long to finish.
LOCK_WAIT_SECONDS = 2.0


@dataclass(frozen=True)
class RunningService:
    """What a ``run`` tells the commands beside it: its process and the address of its database."""

    pid: int
    database_url: str

    @classmethod
    def of_this_process(cls, database_url: str) -> RunningService:
        """Return what this process tells."""
        return cls(os.getpid(), database_url)


def prepare_data_folder(folder: Path) -> Path:
    """Make the folder where it is missing and return its absolute path.

    Raises:
        SettingsError: it cannot be made or written.
    """
    folder = folder.expanduser().resolve()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise SettingsError(f"DATA_DIR: {folder} cannot be written ({error.strerror})") from error


@contextmanager
def hold_data_folder(folder: Path) -> Iterator[None]:
    """Own the folder for the length of the block; the lock ends with the process, however it ends.

    Raises:
        SettingsError: another process owns it.
    """
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not await_condition(lambda: _try_lock(descriptor, fcntl.LOCK_EX), LOCK_WAIT_SECONDS):
            running = read_running_service(folder)
            owner = f" (process {running.pid})" if running else ""
            raise SettingsError(f"DATA_DIR: {folder} is in use by another run{owner}")
        # What a killed predecessor told holds no longer.
        (folder / RUN_FILE_NAME).unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def is_data_folder_held(folder: Path) -> bool:
    """Return whether some process owns the folder at this moment."""
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def announce_running_service(folder: Path, service: RunningService) -> Iterator[None]:
    """Tell the commands beside this process about it for the length of the block."""
    write_private_file(folder / RUN_FILE_NAME, json.dumps(asdict(service)))
    try:
        yield
    finally:
        (folder / RUN_FILE_NAME).unlink(missing_ok=True)


def read_running_service(folder: Path) -> RunningService | None:
    """Return what the newest ``run`` told; it holds only while the folder is held."""
    try:
        return RunningService(**json.loads((folder / RUN_FILE_NAME).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def write_private_file(path: Path, text: str) -> None:
    """Write a file whole or not at all, readable by its owner alone."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
