"""The data folder: one owner at a time, and secrets that are made once."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from foundation.data_folder import (
    RunningService,
    announce_running_service,
    hold_data_folder,
    is_data_folder_held,
    prepare_data_folder,
    read_running_service,
    write_private_file,
)
from foundation.errors import SettingsError
from foundation.secrets_file import JWT_SECRET, WEBHOOK_SECRET, SecretKind, add_generated_secrets, ensure_secret
from foundation.settings import Settings

SOURCE_FOLDER = Path(__file__).resolve().parent.parent


def test_folder_is_made_with_all_above_it(tmp_path: Path) -> None:
    folder = prepare_data_folder(tmp_path / "a" / ".." / "b" / "c")
    assert folder == tmp_path / "b" / "c"
    assert folder.is_dir()
    assert list(folder.iterdir()) == []


def test_second_owner_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    with hold_data_folder(tmp_path), announce_running_service(tmp_path, RunningService(77, "postgresql://x")):
        assert is_data_folder_held(tmp_path)
        with pytest.raises(SettingsError, match=r"^DATA_DIR: .* is in use by another run \(process 77\)$"):
            hold_data_folder(tmp_path).__enter__()
    assert not is_data_folder_held(tmp_path)
    with hold_data_folder(tmp_path):
        pass


def test_lock_ends_with_a_killed_owner(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; from foundation.data_folder import *\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "with hold_data_folder(folder), announce_running_service(folder, RunningService(1, 'postgresql://old')):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], env={"PYTHONPATH": str(SOURCE_FOLDER)}, check=False)
    assert read_running_service(tmp_path) is not None
    with hold_data_folder(tmp_path):
        # What the dead one told must not pass for the word of its successor.
        assert read_running_service(tmp_path) is None


def test_announcement_is_private_and_ends_with_the_service(tmp_path: Path) -> None:
    service = RunningService.of_this_process("postgresql://x")
    with announce_running_service(tmp_path, service):
        assert read_running_service(tmp_path) == service
        assert (tmp_path / "run.json").stat().st_mode & 0o777 == 0o600
    assert read_running_service(tmp_path) is None


def test_private_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_private_file(path, "first")
    with pytest.raises(UnicodeEncodeError):
        write_private_file(path, "second \ud800")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", [JWT_SECRET, WEBHOOK_SECRET], ids=lambda kind: kind.name)
def test_secret_is_made_once_and_private(tmp_path: Path, kind: SecretKind) -> None:
    secret = ensure_secret(tmp_path, kind)
    kind.check(secret)
    assert ensure_secret(tmp_path, kind) == secret
    assert (tmp_path / kind.name).stat().st_mode & 0o777 == 0o600
    assert ensure_secret(tmp_path / "other", kind) != secret


def test_all_who_ask_at_once_get_one_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        secrets = set(pool.map(lambda _: ensure_secret(tmp_path / "new", JWT_SECRET), range(64)))
    assert len(secrets) == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["jwt_secret"]


@pytest.mark.parametrize("kind", [JWT_SECRET, WEBHOOK_SECRET], ids=lambda kind: kind.name)
def test_damaged_secret_is_told_not_used(tmp_path: Path, kind: SecretKind) -> None:
    (tmp_path / kind.name).write_text("short\n")
    with pytest.raises(SettingsError, match=rf"^DATA_DIR: .*{kind.name}"):
        ensure_secret(tmp_path, kind)


def test_secret_that_is_set_wins(tmp_path: Path) -> None:
    webhook_secret = ensure_secret(tmp_path / "elsewhere", WEBHOOK_SECRET)
    given = Settings(
        _env_file=None, data_dir=tmp_path / "none", database_url="", jwt_secret="s" * 40, webhook_secret=webhook_secret
    )
    assert add_generated_secrets(given) is given
    assert not (tmp_path / "none").exists()
    made = add_generated_secrets(Settings(_env_file=None, data_dir=tmp_path, database_url="", jwt_secret=""))
    assert made.jwt_secret == ensure_secret(tmp_path, JWT_SECRET)
    assert made.webhook_secret == ensure_secret(tmp_path, WEBHOOK_SECRET)


def test_nodes_of_one_installation_never_make_secrets_of_their_own(tmp_path: Path) -> None:
    given = Settings(
        _env_file=None, data_dir=tmp_path / "none", database_url="postgresql://there/db", jwt_secret="s" * 40
    )
    assert add_generated_secrets(given) is given
    assert not (tmp_path / "none").exists()
