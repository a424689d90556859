"""``run`` and the commands beside it, as real processes: start, stop, being killed, and every way to start wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.clusters import copy_template, make_folder, make_template

SOURCE_FOLDER = Path(__file__).resolve().parent.parent
# Long, because the machine may be busy; nothing waits for it in vain.
PATIENCE_SECONDS = 90.0
PASSWORD = "a password of some length"
COMMANDS = (sys.executable, "-m", "commands")


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_true(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited in vain: {what}")
        time.sleep(0.02)
    return found


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Run:
    """One ``run`` of the product, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_folder = folder / "data"
        self.port = find_free_port()
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self.environment = {
            **inherited,
            "DATA_DIR": str(self.data_folder),
            "PORT": str(self.port),
            "WEB_WORKERS": "2",
            "PYTHONPATH": str(SOURCE_FOLDER),
        }
        self.processes: list[subprocess.Popen[str]] = []
        self.welcome = ""

    @property
    def process(self) -> subprocess.Popen[str]:
        """The process that was started last."""
        return self.processes[-1]

    @property
    def log(self) -> str:
        """What the process that was started last wrote to standard error."""
        return (self.folder / f"log-{len(self.processes)}").read_text()

    def start(self, *words: str, program: tuple[str, ...] = COMMANDS) -> None:
        with (self.folder / f"log-{len(self.processes) + 1}").open("w") as log:
            process = subprocess.Popen(
                [*program, *words],
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.processes.append(process)

    def start_and_await(self, *words: str, program: tuple[str, ...] = COMMANDS) -> str:
        """Start and return what was printed, up to the last line of the welcome."""
        self.start(*words, program=program)
        assert self.process.stdout is not None
        self.welcome = ""
        for line in self.process.stdout:
            self.welcome += line
            if "Ctrl-C" in line:
                return self.welcome
        pytest.fail(f"run ended: {self.log}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)

    def end(self) -> None:
        """End whatever a test left."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
                process.wait(PATIENCE_SECONDS)
            assert process.stdout is not None
            process.stdout.close()

    def call(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [*COMMANDS, *words],
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    def get(self, path: str, token: str = "") -> requests.Response:
        headers = {"Authorization": f"Bearer {token}", "Connection": "close"}
        return requests.get(f"http://127.0.0.1:{self.port}{path}", headers=headers, timeout=10)

    def answers(self, path: str) -> bool:
        try:
            return self.get(path).status_code == 200
        except requests.RequestException:
            return False

    def family(self) -> list[psutil.Process]:
        """Return the supervising process and all below it."""
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def find(self, *words: str) -> psutil.Process | None:
        """Return the living direct child whose command line has these words."""
        for child in psutil.Process(self.process.pid).children():
            if is_alive(child) and all(any(word in part for part in child.cmdline()) for word in words):
                return child
        return None


@contextmanager
def make_run() -> Iterator[Run]:
    with make_folder() as folder:
        run = Run(folder)
        try:
            yield run
        finally:
            run.end()


@pytest.fixture(scope="module")
def service() -> Iterator[Run]:
    """A first start, shared by the tests that leave it running."""
    with make_run() as run:
        run.start_and_await(program=(sys.executable, str(SOURCE_FOLDER / "app_advanced.py")))
        yield run


@pytest.fixture
def own() -> Iterator[Run]:
    """A run that a test starts and ends by itself."""
    with make_run() as run:
        yield run


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A data folder to copy."""
    with make_template() as folder:
        yield folder


@pytest.fixture
def later(own: Run, template: Path) -> Run:
    """The same, where the service has run before."""
    copy_template(template, own.data_folder)
    return own


def test_first_start_tells_where_it_is_and_how_to_get_in(service: Run) -> None:
    welcome = service.welcome
    assert f"http://127.0.0.1:{service.port}/api/v1/docs" in welcome
    email = re.search(r"Administrator\s+(\S+)", welcome)
    password = re.search(r"Password\s+(\S+)", welcome)
    assert email is not None
    assert password is not None
    answer = requests.post(
        f"http://127.0.0.1:{service.port}/api/v1/auth/login",
        json={"email": email[1], "password": password[1]},
        timeout=10,
    )
    assert answer.status_code == 200
    assert password[1] not in service.log


def test_everything_becomes_ready(service: Run) -> None:
    await_true(lambda: service.answers("/ready"), "database, migrations and the worker's beat")


def test_token_is_printed_alone_and_opens_the_api(service: Run) -> None:
    answer = service.call("token", "--role", "viewer", "--user", "7", "--hours", "0.5")
    assert answer.stderr == ""
    token = answer.stdout.strip()
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", token)
    assert service.get("/api/v1/alerts", token).status_code == 200
    assert service.get("/api/v1/users", token).status_code == 403


@pytest.mark.parametrize("words", [["--role", "owner"], [], ["--role", "viewer", "--hours", "0"]])
def test_token_refuses_what_it_cannot_issue(service: Run, words: list[str]) -> None:
    answer = service.call("token", *words)
    assert answer.returncode == 2
    assert answer.stdout == ""


def test_create_user_works_beside_the_service(service: Run) -> None:
    words = ("create-user", "--email", "new@example.com", "--name", "New", "--role", "operator", "--password-stdin")
    answer = service.call(*words, stdin=f"{PASSWORD}\n")
    assert (answer.returncode, answer.stderr) == (0, "")
    user_id = int(answer.stdout)
    token = service.call("token", "--role", "admin").stdout.strip()
    assert service.get(f"/api/v1/users/{user_id}", token).json()["email"] == "new@example.com"

    again = service.call(*words, stdin=f"{PASSWORD}\n")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.count("\n") == 1


def test_migrate_beside_the_service_finds_nothing_to_do(service: Run) -> None:
    answer = service.call("migrate")
    assert (answer.returncode, answer.stdout) == (0, "the database is up to date\n")


def test_openapi_is_printed_without_a_database(own: Run) -> None:
    specification = json.loads(own.call("openapi").stdout)
    assert specification["openapi"] == "3.0.3"
    assert not own.data_folder.exists()


def test_second_run_on_the_same_data_is_refused(service: Run) -> None:
    answer = service.call("run")
    assert answer.returncode == 1
    assert answer.stderr == (
        f"advanced-alerting: DATA_DIR: {service.data_folder} is in use by another run (process {service.process.pid})\n"
    )
    assert service.answers("/health")


def test_secrets_stand_in_private_files_and_on_no_command_line(service: Run) -> None:
    secret = (service.data_folder / "jwt_secret").read_text().strip()
    for name in ("jwt_secret", "run.json"):
        assert (service.data_folder / name).stat().st_mode & 0o777 == 0o600
    lines = [" ".join(process.cmdline()) for process in service.family()]
    assert len(lines) > 4
    assert not any(secret in line for line in lines)


def test_requests_of_all_web_processes_are_counted_together(service: Run) -> None:
    def count_health() -> float:
        found = re.search(
            r'^advanced_alerting_http_requests_total\{method="GET",route="/health",status="200"\} (\S+)$',
            service.get("/metrics").text,
            re.MULTILINE,
        )
        return float(found[1]) if found else 0.0

    before = count_health()
    for _ in range(20):
        assert service.answers("/health")
    assert count_health() >= before + 20


@pytest.mark.parametrize("words", [("commands", "serve"), ("commands", "worker"), ("bin/postgres",)])
def test_a_part_that_dies_is_started_again(service: Run, words: tuple[str, ...]) -> None:
    await_true(lambda: service.answers("/ready"), "a ready service")
    victim = service.find(*words)
    assert victim is not None
    descendants = victim.children(recursive=True)
    victim.kill()
    await_true(lambda: not any(map(is_alive, [victim, *descendants])), "its processes to end with it")
    await_true(lambda: service.find(*words), "a successor")
    await_true(lambda: service.answers("/ready"), "a ready service again")


def test_stop_and_second_start(own: Run) -> None:
    assert "Password" in own.start_and_await()
    family = own.family()
    assert own.stop(signal.SIGTERM) == 0
    assert not any(map(is_alive, family))
    assert not (own.data_folder / "run.json").exists()

    assert "Password" not in own.start_and_await()
    family = own.family()
    assert own.stop(signal.SIGINT) == 0
    assert not any(map(is_alive, family))


def test_killed_run_leaves_no_process_and_the_next_recovers(later: Run) -> None:
    later.start_and_await()
    created = later.call(
        "create-user",
        "--email",
        "kept@example.com",
        "--name",
        "K",
        "--role",
        "viewer",
        "--password-stdin",
        stdin=PASSWORD,
    )
    assert created.returncode == 0
    family = later.family()
    later.stop(signal.SIGKILL)
    later.start_and_await()
    await_true(lambda: not any(map(is_alive, family)), "the orphans to end")
    token = later.call("token", "--role", "admin").stdout.strip()
    emails = [user["email"] for user in later.get("/api/v1/users", token).json()["data"]]
    assert "kept@example.com" in emails


def test_everything_killed_at_once_recovers(later: Run) -> None:
    later.start_and_await()
    family = later.family()
    for process in family:
        # Some end with their parent, or because their work is done, before their turn comes.
        with suppress(psutil.NoSuchProcess):
            process.kill()
    later.stop(signal.SIGKILL)
    await_true(lambda: not any(map(is_alive, family)), "the end of all")
    assert (later.data_folder / "postgres" / "postmaster.pid").exists()
    later.start_and_await()
    assert later.answers("/health")


@pytest.mark.parametrize("delay_seconds", [0.0, 0.7])
def test_start_can_be_cut_short(own: Run, delay_seconds: float) -> None:
    own.start()
    await_true(own.data_folder.exists, "the start")
    time.sleep(delay_seconds)  # somewhere in the middle: which step does not matter
    family = own.family()
    assert own.stop() == 0
    assert not any(map(is_alive, family))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")
def test_run_can_end_with_its_parent(later: Run) -> None:
    # A shell that waits stands for make.
    later.start_and_await("run", "--end-with-parent", program=("sh", "-c", '"$@"; true', "sh", *COMMANDS))
    family = later.family()
    later.stop(signal.SIGKILL)
    await_true(lambda: not any(map(is_alive, family)), "the end of all")


def test_set_database_is_used_instead(own: Run, database_url: str) -> None:
    own.environment |= {"DATABASE_URL": database_url, "JWT_SECRET": "s" * 40}
    own.start_and_await()
    await_true(lambda: own.answers("/ready"), "a ready service")
    assert not any("postgres" in process.name() for process in own.family())
    assert own.stop() == 0
    assert not own.data_folder.exists()


def test_serve_and_worker_stand_alone(own: Run, database_url: str) -> None:
    own.environment |= {"DATABASE_URL": database_url, "JWT_SECRET": "s" * 40}
    own.start("serve")
    await_true(lambda: own.answers("/health"), "the web server")
    assert own.get("/metrics").status_code == 200
    assert own.get("/ready").status_code == 503
    family = own.family()
    own.start("worker")
    await_true(lambda: own.answers("/ready"), "the worker's beat")
    assert own.stop() == 0
    own.processes.reverse()
    assert own.stop() == 0
    assert not any(map(is_alive, family))


@pytest.mark.parametrize("word", ["serve", "worker"])
def test_parts_alone_need_a_database(own: Run, word: str) -> None:
    expect_one_line(own.call(word), "DATABASE_URL: ")


def expect_one_line(answer: subprocess.CompletedProcess[str], beginning: str) -> None:
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert re.fullmatch(rf"advanced-alerting: {re.escape(beginning)}.*\n", answer.stderr), answer.stderr


def test_taken_port_is_one_line_before_anything_starts(own: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", own.port))
        taken.listen()
        expect_one_line(own.call(), f"PORT: 127.0.0.1:{own.port} is taken")
        own.environment |= {"DATABASE_URL": "postgresql://127.0.0.1:1/x", "JWT_SECRET": "s" * 40}
        expect_one_line(own.call("serve"), f"PORT: 127.0.0.1:{own.port} is taken")
    assert not (own.data_folder / "postgres").exists()


def test_port_lost_later_ends_the_run(later: Run) -> None:
    later.start_and_await()
    family = later.family()
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        web = later.find("commands", "serve")
        assert web is not None
        web.kill()

        def is_stolen() -> bool:
            try:
                thief.bind(("127.0.0.1", later.port))
            except OSError:
                return False
            thief.listen()
            return True

        await_true(is_stolen, "the port to come free")
        assert later.process.wait(PATIENCE_SECONDS) == 1
    later_lines = [line for line in later.log.splitlines() if line.startswith("advanced-alerting: ")]
    assert later_lines == [f"advanced-alerting: PORT: 127.0.0.1:{later.port} is taken by another process"]
    assert not any(map(is_alive, family))


def test_unwritable_data_dir_is_one_line(own: Run) -> None:
    # A file where the folder should be stops root, too.
    own.data_folder.write_text("")
    expect_one_line(own.call(), f"DATA_DIR: {own.data_folder} cannot be written")
    own.environment["DATA_DIR"] = str(own.data_folder / "below")
    expect_one_line(own.call(), f"DATA_DIR: {own.data_folder}/below cannot be written")


def test_unreachable_database_is_one_line(own: Run) -> None:
    own.environment |= {"DATABASE_URL": f"postgresql://127.0.0.1:{own.port}/x", "JWT_SECRET": "s" * 40}
    expect_one_line(own.call(), "DATABASE_URL: the database cannot be reached")


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "http"), ("WEB_WORKERS", "0"), ("JWT_SECRET", "short"), ("LOG_FORMAT", "xml"), ("HOST", "192.0.2.1")],
)
def test_wrong_setting_is_one_line_that_names_it(own: Run, name: str, value: str) -> None:
    own.environment[name] = value
    expect_one_line(own.call(), f"{name}: ")


def test_unknown_command_lists_the_known_ones(own: Run) -> None:
    answer = own.call("launch")
    assert answer.returncode == 2
    assert "create-user" in answer.stderr
    assert "create-user" in own.call("--help").stdout
