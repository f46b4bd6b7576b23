"""Decisions: a pure function of rows and clock."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steadymr.delivery.outbox import (
    Ask,
    GiveUp,
    Instance,
    Outcome,
    Peer,
    Policy,
    Row,
    Send,
    after,
    after_contact,
    again,
    backoff_s,
    decide,
    give_up,
    wait_s,
)

NOW = 1.7e9
POLICY = Policy(refusal_limit=3, silence_limit=4, denial_limit=2, question_limit=2, batch=5)
PEER = Peer("pacs", policy=POLICY)
VERDICTS = ["delivered", "busy", "refused", "no answer", "damaged", "confirmed", "denied", "asked", "unconfirmed"]


def row(number: int = 1, **changes: object) -> Row:
    instance = Instance(f"1.2.{number}", "1.2", "1.2.840.10008.1.2.1", "1.3", "1.4", f"{number}.dcm", "aa", "bb", 100)
    return replace(Row(number, 0, instance, "pacs", "queued", NOW, NOW, NOW), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "verdict", "confirm", "then", "settled"),
    [
        ("queued", "delivered", "none", "stored", True),
        ("queued", "delivered", "commitment", "stored", False),
        ("queued", "delivered", "query", "stored", False),
        ("queued", "busy", "none", "queued", False),
        ("queued", "refused", "none", "queued", False),
        ("queued", "no answer", "none", "queued", False),
        ("queued", "damaged", "none", "failed", True),
        ("stored", "asked", "commitment", "stored", False),
        ("stored", "confirmed", "commitment", "committed", True),
        ("stored", "denied", "commitment", "queued", False),
        ("stored", "unconfirmed", "commitment", "stored", False),
    ],
)
def test_each_outcome_leads_to_its_state(state, verdict, confirm, then, settled):
    result = after(row(state=state), Outcome(verdict), replace(PEER, confirm=confirm), NOW, 0.5)
    assert (result.state, result.settled) == (then, settled)


@pytest.mark.parametrize(("verdict", "limit"), [("refused", 3), ("no answer", 4), ("denied", 2)])
def test_an_instance_is_quarantined_with_its_reason_exactly_at_the_limit(verdict, limit):
    current, states = row(), []
    for _ in range(limit):
        current = after(current, Outcome(verdict, "because"), PEER, NOW, 0.5)
        states.append(current.state)
    assert states == ["queued"] * (limit - 1) + ["failed"]
    assert current.settled
    assert current.reason == "because"


def test_a_pacs_that_is_out_of_resources_is_tried_for_ever():
    current = row()
    for _ in range(200):
        current = after(current, Outcome("busy"), PEER, NOW, 0.99)
    assert current.state == "queued"
    assert 0 < current.next_try_s - NOW <= POLICY.longest_wait_s


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 10_000), draw=st.floats(0, 1, exclude_max=True))
def test_a_wait_is_between_half_and_all_of_the_doubled_time_and_never_too_long(n, draw):
    full = min(POLICY.first_wait_s * 2.0 ** min(n - 1, 40), POLICY.longest_wait_s)
    assert full / 2 <= backoff_s(n, draw, POLICY) <= full


@settings(max_examples=50, deadline=None)
@given(verdicts=st.lists(st.sampled_from(VERDICTS), max_size=40), draw=st.floats(0, 1, exclude_max=True))
def test_only_the_pacs_makes_a_row_stored_and_only_a_confirmation_makes_it_committed(verdicts, draw):
    current = row()
    for verdict in verdicts:
        if current.settled:
            break
        current = after(current, Outcome(verdict), replace(PEER, confirm="query"), NOW, draw)
        assert current.state != "stored" or "delivered" in verdicts
        assert current.state != "committed" or "confirmed" in verdicts
        assert current.state == "failed" or not current.settled or current.state == "committed"


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(
        st.builds(
            row,
            number=st.integers(1, 1000),
            state=st.sampled_from(["queued", "stored", "committed", "failed"]),
            next_try_s=st.none() | st.floats(NOW - 1e9, NOW + 1e9),
            silences=st.integers(0, 5),
            questions=st.integers(0, 5),
        ),
        max_size=30,
    )
)
def test_what_is_settled_is_never_touched_and_what_is_sent_is_queued(rows):
    for action in decide(rows, [PEER], NOW):
        assert not any(r.settled for r in action.rows)
        if isinstance(action, Send):
            assert {r.state for r in action.rows} == {"queued"}
            assert len(action.rows) <= POLICY.batch
        else:
            assert {r.state for r in action.rows} == {"stored"}


def test_nothing_is_sent_before_its_time_and_it_is_sent_then():
    waiting = row(next_try_s=NOW + 10)
    assert decide([waiting], [PEER], NOW) == []
    assert decide([waiting], [PEER], NOW + 10) == [Send(PEER, (waiting,))]


def test_a_destination_that_failed_gets_nothing_before_its_time():
    failed = after_contact(PEER, NOW, 0.0, reason="connection refused")
    assert decide([row()], [failed], NOW) == []
    assert decide([row()], [failed], failed.next_try_s) == [Send(failed, (row(),))]


@pytest.mark.parametrize("step_s", [-3600.0, -3e7])
def test_a_clock_stepped_back_makes_due_what_another_clock_put_far_ahead(step_s):
    later = after(row(), Outcome("busy"), PEER, NOW, 0.0)
    failed = after_contact(PEER, NOW, 0.0, reason="connection refused")
    assert decide([later], [PEER], NOW + step_s) == [Send(PEER, (later,))]
    assert decide([row(next_try_s=NOW)], [failed], NOW + step_s) != []


def test_an_instance_in_trouble_stands_behind_all_others():
    poison, *others = [row(1, silences=2), *(row(n) for n in range(2, 6))]
    (action,) = decide([poison, *others], [PEER], NOW)
    assert action.rows == (*others, poison)


def test_a_stored_instance_is_asked_for_and_left_unconfirmed_after_enough_questions():
    peer = replace(PEER, confirm="commitment")
    fresh, asked_often = row(1, state="stored"), row(2, state="stored", questions=2)
    ask, give = decide([fresh, asked_often], [peer], NOW)
    assert isinstance(ask, Ask)
    assert ask.rows == (fresh,)
    assert isinstance(give, GiveUp)
    left = give_up(give.rows[0], give.reason, NOW)
    assert (left.state, left.settled, left.is_safe) == ("stored", True, False)


def test_a_destination_that_refuses_us_for_good_ends_in_quarantine_with_its_words():
    peer = PEER
    for _ in range(POLICY.refusal_limit):
        peer = after_contact(peer, NOW, 0.5, reason="calling AE title not recognised", refused=True)
    (action,) = decide([row()], [peer], NOW)
    assert isinstance(action, GiveUp)
    assert give_up(action.rows[0], action.reason, NOW).reason == "calling AE title not recognised"


def test_refusals_in_between_other_failures_do_not_add_up():
    peer = PEER
    for refused in [True, False] * 10:
        peer = after_contact(peer, NOW, 0.5, reason="no", refused=refused)
    assert not any(isinstance(action, GiveUp) for action in decide([row()], [peer], NOW))


def test_asking_to_try_again_forgets_all_counts():
    tried = row(state="failed", next_try_s=None, refusals=3, silences=2, denials=1, busy=4)
    fresh = again(tried, NOW)
    assert (fresh.state, fresh.next_try_s) == ("queued", NOW)
    assert fresh.refusals == fresh.silences == fresh.denials == fresh.busy == 0


@settings(max_examples=50, deadline=None)
@given(next_try_s=st.floats(NOW - 100, NOW + 1e9), peer_s=st.floats(0, NOW + 1e9))
def test_the_wait_ends_when_something_is_due_and_never_later_than_two_seconds(next_try_s, peer_s):
    wait = wait_s([row(next_try_s=next_try_s)], [replace(PEER, next_try_s=peer_s)], NOW)
    assert 0 <= wait <= 2.0
    assert wait == 2.0 or NOW + wait >= max(next_try_s, peer_s) - 1e-3
