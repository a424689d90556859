"""The house has floors: imports point only downward, SQL stays in its files, Flask stays upstairs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the ground up. A name is a module at the top level or a package. Imports point to a room further down or
# stay in the room; a new module is placed here before it is used.
ROOMS: list[tuple[str, set[str]]] = [
    ("foundation", {"foundation"}),
    ("rules", {"account_rules", "escalation_rules", "ml", "on_call_rotation", "phone_numbers"}),
    (
        "features",
        {
            "accounts",
            "alert_grouping",
            "alert_state_machine",
            "alert_store",
            "escalation_log",
            "escalation_policies",
            "escalation_recipients",
            "housekeeping",
            "idempotency",
            "ml_model_manager",
            "notifications",
            "on_call_document",
            "on_call_manager",
            "readiness",
            "sla_tracker",
            "telemetry",
            "telemetry_upkeep",
            "twilio_notifier",
        },
    ),
    (
        "use cases",
        {
            "alert_intake",
            "alert_lifecycle",
            "escalation_directory",
            "escalation_engine",
            "escalation_simulation",
            "ml_alert_integration",
            "sensor_silence",
        },
    ),
    ("wiring", {"wiring"}),
    ("HTTP", {"alert_api", "api", "ml_api"}),
    ("entry", {"app_advanced", "commands", "demo", "worker"}),
]
RANKS = {name: rank for rank, (_, names) in enumerate(ROOMS) for name in names}
HTTP_RANK = next(rank for rank, (room, _) in enumerate(ROOMS) if room == "HTTP")

# Beside the house: they may use all of it, and nothing of it uses them.
OUTBUILDINGS = {"benchmarks", "tests"}

# Features that only a use case brings together; the modules of one feature may use each other.
SEPARATE_FEATURES = {
    "alert_grouping": {"alert_grouping"},
    "alert_state_machine": {"alert_state_machine"},
    "alert_store": {"alert_store"},
    "on call": {name for name in RANKS if name.startswith("on_call_")},
    "sla_tracker": {"sla_tracker"},
}

WEB_LIBRARIES = {"flasgger", "flask", "flask_cors", "flask_limiter", "granian"}
DATABASE_LIBRARIES = {"aiosql", "psycopg", "psycopg2"}

SQL_WORDS = re.compile(
    r"\b(SELECT|INSERT INTO|UPDATE \w+|DELETE FROM|CREATE (OR REPLACE|TABLE|INDEX|DATABASE|FUNCTION|VIEW|TYPE)"
    r"|(ALTER|DROP|TRUNCATE) \w+|ORDER BY|GROUP BY|FOR UPDATE|RETURNING|LISTEN|NOTIFY|COMMIT|ROLLBACK"
    r"|SET (LOCAL|SESSION|TRANSACTION))\b"
    r"|(?i:\bselect\b.*\bfrom\b|\binsert into\b|\bdelete from\b)",
    re.DOTALL,
)


def find_sources() -> list[Path]:
    """Return the modules of the source tree, outbuildings left out."""
    found = [*ROOT.glob("*.py")]
    for folder in ROOT.iterdir():
        is_package = folder.is_dir() and not folder.name.startswith(".") and any(folder.glob("*.py"))
        if is_package and folder.name not in OUTBUILDINGS:
            found += folder.rglob("*.py")
    return sorted(found)


def house_name(path: Path) -> str:
    """Return the name under which a module stands in the table."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def list_imports(tree: ast.Module) -> Iterator[str]:
    """Return the dotted names of all that a module imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""


def list_strings(tree: ast.Module) -> Iterator[ast.Constant]:
    """Return the strings of a module that are no docstrings, parts of f-strings included."""
    prose = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node


def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse(path.read_text(encoding="utf-8"))


SOURCES = find_sources()
IMPORTS = {path: set(list_imports(parse(path))) for path in SOURCES}


def test_every_module_has_a_room() -> None:
    homeless = {house_name(path) for path in SOURCES} - RANKS.keys()
    assert not homeless, f"to be placed in ROOMS: {sorted(homeless)}"


def test_every_room_holds_what_is_there() -> None:
    gone = RANKS.keys() - {house_name(path) for path in SOURCES}
    assert not gone, f"no longer there, to be taken out of ROOMS: {sorted(gone)}"
    assert len(RANKS) == sum(len(names) for _, names in ROOMS), "a module has one room"


def test_imports_point_only_downward() -> None:
    upward = [
        f"{path.relative_to(ROOT)} -> {name}"
        for path, names in IMPORTS.items()
        for name in sorted(names)
        if RANKS.get(name.split(".")[0], -1) > RANKS.get(house_name(path), HTTP_RANK)
    ]
    assert upward == []


def test_the_house_uses_no_outbuilding() -> None:
    found = [
        f"{path.relative_to(ROOT)} -> {name}"
        for path, names in IMPORTS.items()
        for name in names
        if name.split(".")[0] in OUTBUILDINGS
    ]
    assert found == []


def test_separate_features_never_import_one_another() -> None:
    feature_of = {name: feature for feature, names in SEPARATE_FEATURES.items() for name in names}
    found = [
        f"{path.name} -> {name}"
        for path, names in IMPORTS.items()
        for name in names
        if feature_of.get(house_name(path)) is not None
        and feature_of.get(name) not in (None, feature_of[house_name(path)])
    ]
    assert found == []


def test_below_http_nothing_knows_the_web() -> None:
    found = [
        f"{path.relative_to(ROOT)} -> {name}"
        for path, names in IMPORTS.items()
        for name in names
        if RANKS.get(house_name(path), 0) < HTTP_RANK and name.split(".")[0] in WEB_LIBRARIES
    ]
    assert found == []


def test_only_the_foundation_knows_the_database_driver() -> None:
    found = [
        f"{path.relative_to(ROOT)} -> {name}"
        for path, names in IMPORTS.items()
        for name in names
        if house_name(path) != "foundation" and name.split(".")[0] in DATABASE_LIBRARIES
    ]
    assert found == []


def test_http_reaches_no_queries() -> None:
    found = [
        path.name
        for path, names in IMPORTS.items()
        if RANKS.get(house_name(path)) == HTTP_RANK and "foundation.queries" in names
    ]
    assert found == []


def test_python_holds_no_sql() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value!r}"
        for path in SOURCES
        for node in list_strings(parse(path))
        if SQL_WORDS.search(str(node.value))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('"""SELECT in a docstring."""', 0),
        ('def f() -> None:\n    "UPDATE alerts in prose"\n', 0),
        ('x = "SELECT 1"', 1),
        ('x = f"DELETE FROM {table}"', 1),
        ('x = "select id from alerts"', 1),
        ('run("UPDATE alerts SET state = 1")', 1),
        ('x = "an alert was selected from the list"', 0),
        ('x = "Select a schedule"', 0),
        ('x = "the users update nothing"', 0),
    ],
)
def test_sql_is_told_from_prose(source: str, count: int) -> None:
    assert sum(1 for node in list_strings(ast.parse(source)) if SQL_WORDS.search(str(node.value))) == count


@pytest.mark.parametrize("module", ["wiring", "worker", "alert_lifecycle"])
def test_importing_the_worker_and_the_domain_loads_neither_web_nor_training(module: str) -> None:
    program = f"import sys, {module}; print(sorted({{'flask', 'sklearn'}} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == "[]"
