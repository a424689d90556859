"""Escalation policies: who is paged for which severities, and in which order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from accounts import user_exists
from escalation_rules import Rules, parse_recipient
from foundation.database import Connection, Database
from foundation.errors import Fault, NotFound, ValidationFailed
from foundation.paging import Page, PageRequest, build_page
from foundation.queries import load_queries


@dataclass(frozen=True)
class PolicyDraft:
    """A policy as somebody writes it; its rules are checked already, but for the users and schedules they name."""

    name: str
    rules: Rules
    description: str = ""
    enabled: bool = True
    priority: int = 0


@dataclass(frozen=True)
class Policy:
    """A policy as kept."""

    policy_id: int
    draft: PolicyDraft
    created_at: datetime
    updated_at: datetime

    @property
    def rules(self) -> Rules:
        """What it does."""
        return self.draft.rules


class EscalationPolicies:
    """Reads and writes policies."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = load_queries("escalation_policies")

    def list_policies(self, enabled: bool | None, severity_match: str | None, page: PageRequest) -> Page:
        """Return a page of policies, newest first."""
        wanted = {"enabled": enabled, "severity": severity_match}
        with self._database.autocommit() as connection:
            rows = list(self._queries.list_policies(connection, **wanted, **page.parameters()))
            total = int(self._queries.count_policies(connection, **wanted))
        return build_page(rows, page, total, "created_at", "policy_id", is_estimate=False)

    def get_policy(self, policy_id: int) -> Policy:
        """Return one policy.

        Raises:
            NotFound: there is no such policy.
        """
        with self._database.autocommit() as connection:
            return _require(self._queries.get_policy(connection, policy_id=policy_id), policy_id)

    def create_policy(self, draft: PolicyDraft) -> Policy:
        """Keep a new policy.

        Raises:
            ValidationFailed: it names users or schedules that do not exist, each fault by its place.
            Conflict: the name is taken.
        """

        def insert(connection: Connection) -> Policy:
            self._check_references(connection, draft.rules)
            return read_policy(self._queries.insert_policy(connection, **_columns(draft)))

        return self._database.run(insert)

    def replace_policy(self, policy_id: int, draft: PolicyDraft) -> Policy:
        """Put another policy in the place of one; an escalation that runs keeps the rules it began with."""

        def update(connection: Connection) -> Policy:
            self._check_references(connection, draft.rules)
            return _require(self._queries.update_policy(connection, policy_id=policy_id, **_columns(draft)), policy_id)

        return self._database.run(update)

    def delete_policy(self, policy_id: int) -> Policy:
        """Forget a policy and return it as it was."""
        with self._database.autocommit() as connection:
            return _require(self._queries.delete_policy(connection, policy_id=policy_id), policy_id)

    def _check_references(self, connection: Connection, rules: Rules) -> None:
        faults = list(self._find_dangling(connection, rules))
        if faults:
            raise ValidationFailed(faults)

    def _find_dangling(self, connection: Connection, rules: Rules) -> Iterator[Fault]:
        for tier_number, tier in enumerate(rules.tiers):
            for number, text in enumerate(tier.recipients):
                place = f"rules.tiers[{tier_number}].recipients[{number}]"
                recipient = parse_recipient(text)
                if recipient is None:
                    continue
                if recipient.kind == "user" and not user_exists(connection, recipient.identifier):
                    yield Fault(place, "names no user")
                if recipient.kind == "oncall" and not self._queries.has_schedule(
                    connection, schedule_id=recipient.identifier
                ):
                    yield Fault(place, "names no on-call schedule")


def read_policy(row: Mapping[str, Any]) -> Policy:
    """Return the policy that a row holds."""
    rules = Rules.from_document(row["rules"])
    draft = PolicyDraft(row["name"], rules, row["description"], row["enabled"], row["priority"])
    return Policy(row["policy_id"], draft, row["created_at"], row["updated_at"])


def _require(row: Mapping[str, Any] | None, policy_id: int) -> Policy:
    if row is None:
        raise NotFound("policy", policy_id)
    return read_policy(row)


def _columns(draft: PolicyDraft) -> dict[str, Any]:
    return {
        "name": draft.name,
        "description": draft.description,
        "enabled": draft.enabled,
        "priority": draft.priority,
        "rules": json.dumps(draft.rules.to_document()),
    }
