"""What to send, to ask after, to try again, to give up on: decisions as pure functions of rows and clock.

Nothing here knows of sockets or databases. A row is one instance on its way to one destination::

    queued ──delivered──▶ stored ──confirmed──▶ committed
      │  ▲                  │
      │  └────denied────────┘
      └──refused, unanswered or denied too often, damaged──▶ failed (quarantined, with its reason)

``next_try_s`` is None where nothing more will be done. A row that got no answer is unknown, not failed: the same
instance, with the same SOP Instance UID, is sent again, which a PACS takes as the same object.

Times are seconds since the epoch. The clock may be stepped: no wait is ever longer than ``Policy.longest_wait_s``, so a
time further ahead than that was written by another clock and counts as due.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

State: TypeAlias = Literal["queued", "stored", "committed", "failed"]
Confirm: TypeAlias = Literal["none", "commitment", "query"]
Verdict: TypeAlias = Literal[
    "delivered",  # the PACS says that it has it
    "busy",  # out of resources: nothing wrong with the instance
    "refused",  # the PACS answered, and will not have this instance
    "no answer",  # sent, outcome unknown
    "damaged",  # our own copy is gone or changed
    "confirmed",  # the PACS has taken responsibility, or was found to hold it
    "denied",  # asked later, the PACS does not have it
    "asked",  # asked, the answer comes another way
    "unconfirmed",  # the PACS does not answer such questions
]

PositiveSeconds: TypeAlias = Annotated[float, Field(gt=0)]
AtLeastOne: TypeAlias = Annotated[int, Field(ge=1)]


class Policy(BaseModel):
    """How patient to be with a destination. Waits double from the first to the longest, each with half of it jitter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first_wait_s: PositiveSeconds = 1.0
    longest_wait_s: PositiveSeconds = 300.0
    refusal_limit: AtLeastOne = 3  #: answers of refusal before an instance is quarantined
    silence_limit: AtLeastOne = 20  #: times an instance was sent and got no answer
    denial_limit: AtLeastOne = 5  #: times the PACS said stored and later denied it
    settle_s: PositiveSeconds = 2.0  #: for the PACS to index what it stored, before a query for it
    question_limit: AtLeastOne = 10  #: unanswered questions whether an instance is safe
    answer_wait_s: PositiveSeconds = 120.0  #: for the PACS's report on a storage commitment request
    batch: AtLeastOne = 500  #: instances per association


@dataclass(frozen=True, slots=True)
class Instance:
    """One DICOM object, as far as sending it needs to know."""

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    file: str  #: name of the outbox's own copy
    sha256: str  #: of that copy
    pixels_sha256: str  #: of its pixel data; empty for objects without
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Row:
    """One instance on its way to one destination, and what has been tried."""

    id: int
    version: int  #: grows with each change, so that a stale one is not written over a newer
    instance: Instance
    destination: str
    state: State
    next_try_s: float | None
    queued_s: float
    changed_s: float
    refusals: int = 0
    silences: int = 0
    denials: int = 0
    questions: int = 0
    busy: int = 0
    reason: str = ""

    @property
    def settled(self) -> bool:
        """Whether nothing more will be done about it."""
        return self.next_try_s is None

    @property
    def is_safe(self) -> bool:
        """Whether the PACS has it as surely as was asked for, so that our copy may go."""
        return self.state == "committed" or (self.state == "stored" and self.settled and self.questions == 0)


@dataclass(frozen=True, slots=True)
class Peer:
    """One destination, and how it behaved lately."""

    name: str
    confirm: Confirm = "none"
    policy: Policy = field(default_factory=Policy)
    failures: int = 0  #: contacts in a row that failed
    refusals: int = 0  #: of these, how many in a row were refusals of us as a whole
    next_try_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one try, and in words why."""

    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Send:
    """Send these now, in this order."""

    peer: Peer
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the destination whether these are safe with it."""

    peer: Peer
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Stop trying these, for this reason."""

    peer: Peer
    rows: tuple[Row, ...]
    reason: str


Action: TypeAlias = Send | Ask | GiveUp


def decide(rows: Sequence[Row], peers: Sequence[Peer], now_s: float) -> list[Action]:
    """What to do now about ``rows`` that are not settled; an empty list says wait."""
    actions: list[Action] = []
    for peer in peers:
        mine = [row for row in rows if row.destination == peer.name and not row.settled]
        actions += _for_peer(peer, mine, now_s)
    return actions


def _for_peer(peer: Peer, rows: Sequence[Row], now_s: float) -> list[Action]:
    if rows and peer.refusals >= peer.policy.refusal_limit:
        return [GiveUp(peer, tuple(rows), peer.reason)]
    if not is_due(peer.next_try_s, now_s, peer.policy):
        return []
    ready = [row for row in rows if is_due(row.next_try_s, now_s, peer.policy)]
    send = sorted((row for row in ready if row.state == "queued"), key=_patience)[: peer.policy.batch]
    stored = [row for row in ready if row.state == "stored"]
    ask = [row for row in stored if row.questions < peer.policy.question_limit][: peer.policy.batch]
    silent = [row for row in stored if row.questions >= peer.policy.question_limit]
    reason = f"stored, but {peer.policy.question_limit} questions whether it is safe there had no answer"
    actions: list[Action] = []
    if send:
        actions.append(Send(peer, tuple(send)))
    if ask:
        actions.append(Ask(peer, tuple(ask)))
    if silent:
        actions.append(GiveUp(peer, tuple(silent), reason))
    return actions


def _patience(row: Row) -> tuple[int, int]:
    """Trouble last: an instance that breaks the PACS must not stand in the way of the others."""
    return (row.silences + row.refusals + row.denials, row.id)


def is_due(next_try_s: float | None, now_s: float, policy: Policy) -> bool:
    """Whether the time has come; True too for a time that only a stepped clock explains."""
    return next_try_s is not None and (next_try_s <= now_s or next_try_s - now_s > _longest_s(policy))


def _longest_s(policy: Policy) -> float:
    return max(policy.longest_wait_s, policy.answer_wait_s)


def wait_s(rows: Sequence[Row], peers: Sequence[Peer], now_s: float, at_most_s: float = 2.0) -> float:
    """How long nothing will be due, in seconds; never more than ``at_most_s``, because clocks are stepped."""
    waits = [at_most_s]
    by_name = {peer.name: peer for peer in peers}
    for row in rows:
        peer = by_name.get(row.destination)
        if peer is not None and row.next_try_s is not None:
            waits.append(max(row.next_try_s, peer.next_try_s) - now_s)
    return max(0.0, min(waits))


def backoff_s(n_failures: int, draw: float, policy: Policy) -> float:
    """The wait after the n-th failure in a row (n >= 1), in seconds; ``draw`` in [0, 1) spreads the senders out."""
    doubled = policy.first_wait_s * 2.0 ** min(n_failures - 1, 30)
    return min(doubled, policy.longest_wait_s) * (0.5 + 0.5 * draw)


def after(row: Row, outcome: Outcome, peer: Peer, now_s: float, draw: float) -> Row:
    """The row after one try; ``draw`` in [0, 1) is the jitter."""
    row = replace(row, changed_s=now_s, reason=outcome.reason)
    policy = peer.policy
    match outcome.verdict:
        case "delivered":
            return replace(row, state="stored", next_try_s=_first_question_s(peer, now_s), questions=0)
        case "busy":
            row = replace(row, busy=row.busy + 1)
            return replace(row, next_try_s=now_s + backoff_s(row.busy, draw, policy))
        case "refused":
            row = replace(row, refusals=row.refusals + 1)
            return _again_or_fail(row, row.refusals, policy.refusal_limit, policy, now_s, draw)
        case "no answer":
            row = replace(row, silences=row.silences + 1)
            return _again_or_fail(row, row.silences, policy.silence_limit, policy, now_s, draw)
        case "denied":
            row = replace(row, denials=row.denials + 1, state="queued")
            return _again_or_fail(row, row.denials, policy.denial_limit, policy, now_s, draw)
        case "damaged":
            return replace(row, state="failed", next_try_s=None)
        case "confirmed":
            return replace(row, state="committed", next_try_s=None)
        case "asked":
            return replace(row, questions=row.questions + 1, next_try_s=now_s + policy.answer_wait_s)
        case "unconfirmed":
            row = replace(row, questions=row.questions + 1)
            return replace(row, next_try_s=now_s + backoff_s(row.questions, draw, policy))


def _first_question_s(peer: Peer, now_s: float) -> float | None:
    if peer.confirm == "none":
        return None
    return now_s + (peer.policy.settle_s if peer.confirm == "query" else 0.0)


def _again_or_fail(row: Row, count: int, limit: int, policy: Policy, now_s: float, draw: float) -> Row:
    if count >= limit:
        return replace(row, state="failed", next_try_s=None)
    return replace(row, next_try_s=now_s + backoff_s(count, draw, policy))


def give_up(row: Row, reason: str, now_s: float) -> Row:
    """The row once nobody tries any more: quarantined if it was never stored, else stored and unconfirmed."""
    state: State = "failed" if row.state == "queued" else row.state
    return replace(row, state=state, next_try_s=None, reason=reason, changed_s=now_s)


def again(row: Row, now_s: float) -> Row:
    """The row queued afresh, all counts forgotten, because somebody asked."""
    fresh = Row(row.id, row.version, row.instance, row.destination, "queued", now_s, row.queued_s, now_s)
    return replace(fresh, reason="queued again by request")


def ask_again(row: Row, now_s: float) -> Row:
    """A stored row whose question was given up, to be asked about afresh."""
    return replace(row, questions=0, next_try_s=now_s, changed_s=now_s, reason="asked again by request")


def after_contact(peer: Peer, now_s: float, draw: float, *, reason: str = "", refused: bool = False) -> Peer:
    """The destination after a contact that worked (no ``reason``), failed, or was ``refused`` for what we are."""
    if not reason:
        return replace(peer, failures=0, refusals=0, next_try_s=now_s, reason="")
    failures = peer.failures + 1
    wait = backoff_s(failures, draw, peer.policy)
    return replace(
        peer,
        failures=failures,
        refusals=peer.refusals + 1 if refused else 0,
        next_try_s=now_s + wait,
        reason=reason,
    )
