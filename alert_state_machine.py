"""The life of an alert: new, acknowledged, investigating, resolved.

People go one step at a time; a system actor (a source that has recovered) may resolve from any open state;
resolved is final. ``plan_steps`` decides purely, ``AlertStateMachine`` records. The database checks every step
again, whoever takes it (``migrations/0005``), so of two people acting at once exactly one wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from foundation.database import Connection
from foundation.errors import IllegalTransition, NotFound
from foundation.queries import load_queries

STATES = ("new", "acknowledged", "investigating", "resolved")
OPEN_STATES = STATES[:-1]
RESOLUTIONS = ("fixed", "no_action", "false_positive", "duplicate")

ActorKind = Literal["user", "system"]

ALLOWED_STATES: dict[ActorKind, dict[str, tuple[str, ...]]] = {
    "user": {
        "new": ("acknowledged",),
        "acknowledged": ("investigating",),
        "investigating": ("resolved",),
        "resolved": (),
    },
    "system": {
        "new": ("acknowledged", "resolved"),
        "acknowledged": ("investigating", "resolved"),
        "investigating": ("resolved",),
        "resolved": (),
    },
}


@dataclass(frozen=True)
class Actor:
    """Who takes a step: the subject of a token, or a part of the system."""

    name: str
    kind: ActorKind = "user"


@dataclass(frozen=True)
class Step:
    """One state to enter; an implied step is taken along by a later one and acknowledges nothing in person."""

    state: str
    implied: bool = False


@dataclass(frozen=True)
class Transition:
    """What a change of state is to record beside the state itself."""

    target: str
    notes: str | None = None
    resolution: str | None = None
    assign_to_user_id: int | None = None
    advance: bool = False


def plan_steps(current: str, target: str, actor_kind: ActorKind = "user", *, advance: bool = False) -> tuple[Step, ...]:
    """Return the steps from ``current`` to ``target``, the last of which is ``target``.

    With ``advance`` the missing steps in between are walked, each marked as implied.

    Raises:
        IllegalTransition: there is no way, or it needs ``advance``.
    """
    allowed = ALLOWED_STATES[actor_kind][current]
    if target in allowed:
        return (Step(target),)
    if advance and STATES.index(current) < STATES.index(target):
        between = STATES[STATES.index(current) + 1 : STATES.index(target)]
        return (*(Step(state, implied=True) for state in between), Step(target))
    raise IllegalTransition(current, target, allowed)


class AlertStateMachine:
    """Records transitions; duplicates, SLA clocks and groups follow by trigger in the same transaction."""

    def __init__(self) -> None:
        self._queries = load_queries("alert_state_machine")

    def transition_state(self, connection: Connection, alert_id: int, transition: Transition, actor: Actor) -> None:
        """Take one alert to a state. A step of a duplicate is a step of its original.

        Raises:
            NotFound: there is no such alert.
            IllegalTransition: the alert is not in a state for this, or somebody else was quicker.
        """
        current = self._queries.get_state(connection, alert_id=alert_id)
        if current is None:
            raise NotFound("alert", alert_id)
        for step in plan_steps(current, transition.target, actor.kind, advance=transition.advance):
            self._record(connection, [alert_id], step, transition, actor)

    def transition_group(
        self, connection: Connection, group_id: int, transition: Transition, actor: Actor
    ) -> dict[int, IllegalTransition]:
        """Take all open alerts of a group that can take the step; return those that cannot, and why.

        The caller holds the group's lock, so that nothing joins or moves meanwhile.
        """
        refused: dict[int, IllegalTransition] = {}
        alerts_by_step: dict[Step, list[int]] = {}
        for alert_id, state in self._queries.list_open_originals(connection, group_id=group_id):
            try:
                steps = plan_steps(state, transition.target, actor.kind, advance=transition.advance)
            except IllegalTransition as error:
                refused[alert_id] = error
            else:
                for step in steps:
                    alerts_by_step.setdefault(step, []).append(alert_id)
        # State by state: were the first alert resolved while the second is still new, that one would be paged for.
        for step in sorted(alerts_by_step, key=lambda step: STATES.index(step.state)):
            self._record(connection, alerts_by_step[step], step, transition, actor)
        return refused

    def _record(
        self,
        connection: Connection,
        alert_ids: Sequence[int],
        step: Step,
        transition: Transition,
        actor: Actor,
    ) -> None:
        is_last = step.state == transition.target
        self._queries.insert_states(
            connection,
            alert_ids=list(alert_ids),
            state=step.state,
            implied=step.implied,
            changed_by=actor.name,
            actor_kind=actor.kind,
            notes=transition.notes if is_last else None,
            resolution=transition.resolution if is_last else None,
            assigned_to_user_id=transition.assign_to_user_id if is_last else None,
        )
