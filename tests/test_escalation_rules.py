"""The timeline that follows from a policy, and the pauses between the attempts of a page: pure planning."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalation_rules import (
    LONGEST_DELAY_MINUTES,
    MOST_REPEATS,
    MOST_TIERS,
    Rules,
    Step,
    Tier,
    ends_unheard_at,
    pass_length,
    plan_steps,
    step_after,
    step_to_take,
)
from notifications.channel import SEND_TIMEOUT_SECONDS
from notifications.retries import GIVE_UP_SECONDS, MOST_ATTEMPTS, plan_retry

START = datetime(2026, 3, 2, 8, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
MICROSECOND = timedelta(microseconds=1)


def make_rules(*delays: int, repeat: int = 0) -> Rules:
    tiers = tuple(Tier(delay, ("email",), (f"tier{n}@example.com",)) for n, delay in enumerate(delays, start=1))
    return Rules(("critical",), tiers, repeat)


def show(steps: list[Step]) -> list[tuple[float, int, int]]:
    """Return (minute, pass, tier) of steps."""
    return [((step.due_at - START) / MINUTE, step.number, step.tier) for step in steps]


delay_lists = st.lists(st.integers(0, 120), min_size=1, max_size=MOST_TIERS).map(sorted)
rules_of_any_shape = st.builds(
    lambda delays, repeat: make_rules(*delays, repeat=repeat), delay_lists, st.integers(0, 4)
)
instants = st.integers(-10, 3000).map(lambda minutes: START + minutes * MINUTE)


# --- the steps


def test_tiers_come_at_their_minutes_pass_by_pass() -> None:
    assert show(list(plan_steps(make_rules(0, 5, 15, repeat=1), START))) == [
        (0, 1, 1), (5, 1, 2), (15, 1, 3), (30, 2, 1), (35, 2, 2), (45, 2, 3),
    ]  # fmt: skip


def test_first_tier_may_wait() -> None:
    assert show(list(plan_steps(make_rules(3, 4, repeat=1), START))) == [(3, 1, 1), (4, 1, 2), (11, 2, 1), (12, 2, 2)]


@pytest.mark.parametrize(("delays", "minutes"), [((0,), 1), ((1,), 2), ((0, 0), 1), ((0, 5, 15), 30), ((7,), 14)])
def test_a_pass_lasts_its_last_delay_and_as_long_again_but_at_least_a_minute(
    delays: tuple[int, ...], minutes: int
) -> None:
    assert pass_length(make_rules(*delays)) == minutes * MINUTE


@given(rules_of_any_shape)
def test_every_tier_of_every_pass_has_its_step_in_order(rules: Rules) -> None:
    steps = list(plan_steps(rules, START))
    assert [(s.number, s.tier) for s in steps] == [
        (number, tier) for number in range(1, rules.repeat + 2) for tier in range(1, len(rules.tiers) + 1)
    ]
    assert all(one.due_at <= two.due_at for one, two in pairwise(steps))
    last_delay = rules.tiers[-1].delay_minutes
    for step in steps:
        begins_at = START + (step.number - 1) * (last_delay + max(last_delay, 1)) * MINUTE
        assert step.due_at == begins_at + rules.tier_of(step).delay_minutes * MINUTE
    # Between the last tier of a pass and the next pass there is always time to answer.
    assert all(two.due_at - one.due_at >= MINUTE for one, two in pairwise(steps) if two.number > one.number)


@given(rules_of_any_shape)
def test_step_after_step_leads_through_all_of_them(rules: Rules) -> None:
    steps = list(plan_steps(rules, START))
    walked: list[Step] = []
    step: Step | None = steps[0]
    while step is not None:
        walked.append(step)
        step = step_after(rules, START, step)
    assert walked == steps


def test_longest_policy_has_its_end_within_years() -> None:
    rules = make_rules(*[LONGEST_DELAY_MINUTES] * MOST_TIERS, repeat=MOST_REPEATS)
    *_, last = plan_steps(rules, START)
    assert (last.number, last.tier) == (MOST_REPEATS + 1, MOST_TIERS)
    assert ends_unheard_at(rules, START, last.due_at) - START == (MOST_REPEATS + 1) * 2 * timedelta(days=7)


# --- which one is taken


@pytest.mark.parametrize(
    ("next_step", "minute", "taken"),
    [
        ((1, 1), 0, (1, 1)),
        ((1, 2), 5, (1, 2)),
        ((1, 2), 14, (1, 2)),
        ((1, 2), 15, (1, 3)),
        ((1, 2), 29, (1, 3)),
        ((1, 2), 30, (2, 1)),
        ((1, 1), 1000, (2, 3)),
        ((1, 2), 2, (1, 2)),  # brought forward
        ((2, 3), 15, (2, 3)),  # brought forward over the passes
    ],
)
def test_step_that_is_taken(next_step: tuple[int, int], minute: int, taken: tuple[int, int]) -> None:
    step = step_to_take(make_rules(0, 5, 15, repeat=1), START, *next_step, START + minute * MINUTE)
    assert (step.number, step.tier) == taken


def test_tiers_of_one_minute_are_all_taken() -> None:
    """Delays may be equal: none of the tiers of a minute stands in for the others."""
    rules = make_rules(0, 0, 5, 5)
    assert step_to_take(rules, START, 1, 1, START).tier == 1
    assert step_to_take(rules, START, 1, 2, START).tier == 2
    assert step_to_take(rules, START, 1, 3, START + 5 * MINUTE).tier == 3
    assert step_to_take(rules, START, 1, 4, START + 5 * MINUTE).tier == 4
    # Nor after an outage, when they are the ones that are current.
    assert step_to_take(rules, START, 1, 2, START + 60 * MINUTE).tier == 3


def take_all(rules: Rules, moments: list[datetime]) -> list[tuple[datetime, Step]]:
    """Return the steps that somebody takes who looks at these moments, everything due at once."""
    taken: list[tuple[datetime, Step]] = []
    coming: Step | None = next(plan_steps(rules, START))
    for now in moments:
        while coming is not None and coming.due_at <= now:
            step = step_to_take(rules, START, coming.number, coming.tier, now)
            taken.append((now, step))
            coming = step_after(rules, START, step)
    return taken


@given(rules_of_any_shape)
def test_who_looks_every_minute_takes_every_step_at_its_minute(rules: Rules) -> None:
    steps = list(plan_steps(rules, START))
    minutes = int((steps[-1].due_at - START) / MINUTE)
    taken = take_all(rules, [START + minute * MINUTE for minute in range(minutes + 1)])
    assert taken == [(step.due_at, step) for step in steps]


@given(rules_of_any_shape, st.lists(instants, max_size=8).map(sorted))
def test_who_looks_seldom_takes_only_the_current_steps(rules: Rules, moments: list[datetime]) -> None:
    taken = take_all(rules, moments)
    places = [(step.number, step.tier) for _, step in taken]
    assert places == sorted(set(places)), "each at most once, in order"
    for now in dict.fromkeys(moments):
        due = [step for step in plan_steps(rules, START) if step.due_at <= now]
        at_once = [step for at, step in taken if at == now]
        assert len({step.due_at for step in at_once}) <= 1, "no burst of missed ones"
        if due:
            assert due[-1] in [step for at, step in taken if at <= now], "the current one has always been taken"


@given(rules_of_any_shape, st.data())
def test_step_brought_forward_is_the_next_one(rules: Rules, data: st.DataObject) -> None:
    step = data.draw(st.sampled_from(list(plan_steps(rules, START))))
    now = data.draw(st.integers(0, 10_000).map(lambda n: step.due_at - MICROSECOND - n * MINUTE))
    assert step_to_take(rules, START, step.number, step.tier, now) == step


# --- the end


@pytest.mark.parametrize(
    ("delays", "repeat", "taken", "ends"),
    [
        ((0,), 0, 0, 1),
        ((0, 5, 15), 0, 15, 30),
        ((0, 5, 15), 2, 75, 90),
        ((0, 5, 15), 0, 29, 30),
        ((0, 5, 15), 0, 29.5, 30.5),
        ((0, 5, 15), 0, 1000, 1001),
        ((0, 5, 15), 0, 2, 30),
    ],
)
def test_end_leaves_time_to_answer_the_last_page(
    delays: tuple[int, ...], repeat: int, taken: float, ends: float
) -> None:
    assert ends_unheard_at(make_rules(*delays, repeat=repeat), START, START + taken * MINUTE) == START + ends * MINUTE


@given(rules_of_any_shape, instants)
def test_end_never_comes_within_a_minute_of_the_last_page_nor_before_the_last_pass_is_over(
    rules: Rules, taken_at: datetime
) -> None:
    ends_at = ends_unheard_at(rules, START, taken_at)
    *_, last = plan_steps(rules, START)
    assert ends_at >= taken_at + MINUTE
    assert ends_at >= last.due_at + max(rules.tiers[-1].delay_minutes, 1) * MINUTE
    assert ends_at in (taken_at + MINUTE, last.due_at + max(rules.tiers[-1].delay_minutes, 1) * MINUTE)


# --- attempts

attempts_made = st.integers(1, MOST_ATTEMPTS - 1)
jitters = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(("attempts", "pause"), [(1, 3), (2, 6), (3, 12), (4, 24), (5, None), (6, None)])
def test_pauses_double(attempts: int, pause: float | None) -> None:
    assert plan_retry(attempts, GIVE_UP_SECONDS) == pause


@given(attempts_made, jitters)
def test_jitter_spreads_pauses_around_the_plain_one(attempts: int, jitter: float) -> None:
    plain = plan_retry(attempts, GIVE_UP_SECONDS)
    assert plain is not None
    assert plan_retry(attempts, GIVE_UP_SECONDS, None, jitter) == pytest.approx(plain * (0.5 + jitter))


@given(st.lists(jitters, min_size=MOST_ATTEMPTS, max_size=MOST_ATTEMPTS))
def test_five_attempts_fit_into_two_minutes_however_slowly_they_fail(chances: list[float]) -> None:
    elapsed = 0.0
    attempts = 0
    pause: float | None = 0.0
    while pause is not None:
        elapsed += pause
        attempts += 1
        elapsed += SEND_TIMEOUT_SECONDS
        pause = plan_retry(attempts, GIVE_UP_SECONDS - elapsed, None, chances[attempts - 1])
    assert attempts == MOST_ATTEMPTS
    assert elapsed <= GIVE_UP_SECONDS


@given(attempts_made, jitters, st.floats(0, 119))
def test_pause_that_the_other_side_asks_for_is_kept(attempts: int, jitter: float, wished: float) -> None:
    pause = plan_retry(attempts, GIVE_UP_SECONDS, wished, jitter)
    assert pause is not None
    assert pause >= wished
    assert pause == max(wished, plan_retry(attempts, GIVE_UP_SECONDS, None, jitter) or 0.0)


@given(attempts_made, jitters, st.floats(-1000, 200), st.one_of(st.none(), st.floats(0, 100_000)))
def test_no_attempt_is_planned_beyond_the_two_minutes(
    attempts: int, jitter: float, seconds_left: float, wished: float | None
) -> None:
    pause = plan_retry(attempts, seconds_left, wished, jitter)
    assert pause is None or pause < seconds_left
