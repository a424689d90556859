"""The escalation blueprint: policies, and the escalations that they made."""

from __future__ import annotations

from typing import Any

from alert_api import acting, page_of, services
from api.alert_schemas import Alert
from api.auth import require_jwt, require_permission
from api.escalation_log_schemas import EscalateRequest, EscalationPage, EscalationQuery, EscalationWithSteps
from api.escalation_schemas import (
    PolicyBody,
    PolicyPage,
    PolicyQuery,
    ShownPolicy,
    SimulationAnswer,
    SimulationRequest,
)
from api.routing import Answer, ApiBlueprint, operation
from api.serialising import Row, show_alert, show_identifier, show_page, show_time
from escalation_policies import Policy, read_policy
from escalation_simulation import Simulation

escalation_bp = ApiBlueprint("escalation_api", __name__, url_prefix="/api/v1")


@escalation_bp.get("/escalation-policies")
@require_jwt
@require_permission("escalation:read")
@operation("List escalation policies", tag="Escalation", query=PolicyQuery, answers={200: PolicyPage})
def list_policies(query: PolicyQuery) -> Answer:
    """List policies."""
    page = services().policies.list_policies(query.enabled, query.severity_match, page_of(query))
    return show_page(page, lambda row: show_policy(read_policy(row))), 200


@escalation_bp.post("/escalation-policies")
@require_jwt
@require_permission("escalation:write")
@operation("Create an escalation policy", tag="Escalation", body=PolicyBody, answers={201: ShownPolicy}, errors=(409,))
def create_policy(body: PolicyBody) -> Answer:
    """Create a policy."""
    return show_policy(services().policies.create_policy(body.to_draft())), 201


@escalation_bp.get("/escalation-policies/<policy_id>")
@require_jwt
@require_permission("escalation:read")
@operation("Read an escalation policy", tag="Escalation", answers={200: ShownPolicy})
def get_policy(policy_id: int) -> Answer:
    """Read one policy."""
    return show_policy(services().policies.get_policy(policy_id)), 200


@escalation_bp.put("/escalation-policies/<policy_id>")
@require_jwt
@require_permission("escalation:write")
@operation("Replace an escalation policy", tag="Escalation", body=PolicyBody, answers={200: ShownPolicy}, errors=(409,))
def replace_policy(policy_id: int, body: PolicyBody) -> Answer:
    """Replace a policy."""
    return show_policy(services().policies.replace_policy(policy_id, body.to_draft())), 200


@escalation_bp.delete("/escalation-policies/<policy_id>")
@require_jwt
@require_permission("escalation:write")
@operation(
    "Delete an escalation policy",
    tag="Escalation",
    description="Answers the policy as it was.",
    answers={200: ShownPolicy},
)
def delete_policy(policy_id: int) -> Answer:
    """Delete a policy."""
    return show_policy(services().policies.delete_policy(policy_id)), 200


@escalation_bp.post("/escalation-policies/<policy_id>/simulate")
@require_jwt
@require_permission("escalation:read")
@operation(
    "Play a policy through without sending anything",
    tag="Escalation",
    description="Who is on call is resolved for the instants of the tiers.",
    body=SimulationRequest,
    answers={200: SimulationAnswer},
)
def simulate_policy(policy_id: int, body: SimulationRequest) -> Answer:
    """Play a policy through."""
    played = services().simulator.simulate(policy_id, body.severity, body.at, body.acknowledge_after_minutes)
    return {"policy_id": str(policy_id), "severity": body.severity, **show_simulation(played)}, 200


@escalation_bp.get("/escalations")
@require_jwt
@require_permission("escalation:read")
@operation("List escalations, newest first", tag="Escalation", query=EscalationQuery, answers={200: EscalationPage})
def list_escalations(query: EscalationQuery) -> Answer:
    """List escalations."""
    page = services().escalation_log.list_escalations(query.to_filter(), page_of(query))
    return show_page(page, show_escalation), 200


@escalation_bp.get("/escalations/<escalation_id>")
@require_jwt
@require_permission("escalation:read")
@operation("Read an escalation with the steps it has taken", tag="Escalation", answers={200: EscalationWithSteps})
def get_escalation(escalation_id: int) -> Answer:
    """Read one escalation."""
    return show_escalation(services().escalation_log.get_escalation(escalation_id)), 200


@escalation_bp.post("/alerts/<alert_id>/escalate")
@require_jwt
@require_permission("alerts:escalate")
@operation(
    "Page the next tier now",
    tag="Escalation",
    description="Where no escalation runs, one begins. A note of who asked for it is kept with the alert.",
    body=EscalateRequest,
    body_is_optional=True,
    answers={200: Alert},
    errors=(409,),
)
def escalate_alert(alert_id: int, body: EscalateRequest) -> Answer:
    """Page the next tier of one alert."""
    return show_alert(services().lifecycle.escalate(alert_id, body.notes, acting())), 200


def show_escalation(row: Row) -> dict[str, Any]:
    """Return an escalation, with its steps where they are known."""
    identifiers = {name: str(row[name]) for name in ("escalation_id", "alert_id", "group_id", "policy_id")}
    return {**row, **identifiers, "ended_unheard": row["status"] == "completed"}


def show_policy(policy: Policy) -> dict[str, Any]:
    """Return a policy as the API shows it."""
    draft = policy.draft
    return {
        "policy_id": str(policy.policy_id),
        "name": draft.name,
        "description": draft.description,
        "enabled": draft.enabled,
        "priority": draft.priority,
        "rules": draft.rules.to_document(),
        "created_at": show_time(policy.created_at),
        "updated_at": show_time(policy.updated_at),
    }


def show_simulation(played: Simulation) -> dict[str, Any]:
    """Return the timeline of a policy that was played through."""
    return {
        "matches": played.matches,
        "started_at": show_time(played.started_at),
        "acknowledged_at": show_time(played.acknowledged_at),
        "timeline": [
            {
                "at": show_time(page.at),
                "minutes": (page.at - played.started_at).total_seconds() / 60,
                "pass": page.step.number,
                "tier": page.step.tier,
                "targets": [
                    {**vars(target), "user_id": show_identifier(target.user_id)} for target in page.resolved.targets
                ],
                "unreachable": [vars(fault) for fault in page.resolved.unreachable],
            }
            for page in played.pages
        ],
    }
