"""When somebody would be done who comes now: what goes before him, at the costs that were learnt.

    more urgent classes ─────────────────┐
    his class, due no later ─────────────┼─→ ahead, in seconds ─┬─→ / devices / what those who overtake him leave
    less urgent classes, a tenth ────────┘                      └─→ + a margin ─→ past his deadline?

First everything of his class is counted, which is kept and costs nothing to ask. Only where that is too much for him
those who are due later are left out, whom he would overtake. So nobody is refused for what would not be in his way:
beside a queue of 30 s of another model, callers with a deadline of 1 s are let in as if it were not there.

And where what is more urgent is too much for the least urgent class, it still has its turns, see `turns.py`, for as
many as ride in those. The others are told of these: they come by the time that the others take, with those who
overtake, and one batch is allowed for what nobody can know exactly.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Final

from regard_server.backlog import Backlog
from regard_server.cost import CostModel
from regard_server.overtaking import Overtaking
from regard_server.turns import FAIR_SHARE, Turns
from regard_server.waiting import Entry

# This share of a batch's cost is kept free, so that what was admitted need not be cut short at the edge.
_MARGIN: Final = 0.75
# And of the time that is given this share, so that a queue of those who give much is not all due in the next moment:
# whoever gives a tenth of theirs finds them due behind him, not before him.
_MARGIN_GIVEN: Final = 0.1
# Of more kinds than so many nothing is foreseen: it is asked for every call.
_MOST_FORESEEN: Final = 8


class Forecast:
    """The work ahead, by class, and when it will be done. Seconds on the scheduler's clock; not thread-safe.

    Args:
        max_batch: the largest batch of a key.
        costs: l(b).
        devices: how many devices share the work.
        turns: of the least urgent class.
    """

    def __init__(
        self, max_batch: Callable[[Hashable], int], costs: CostModel, devices: int, turns: Turns
    ) -> None:
        self._max_batch = max_batch
        self._costs = costs
        self._devices = devices
        self._turns = turns
        self._backlogs: dict[int, Backlog] = {}  # by class: who waits, and who was promised room
        self._overtaking = Overtaking()

    def __bool__(self) -> bool:
        return any(self._backlogs.values())

    def change(self, key: Hashable, deadline: float, priority: int, by: int) -> None:
        """Take note that there are more images of a kind, a deadline and a class, or fewer."""
        backlog = self._backlogs.get(priority)
        if backlog is None:
            backlog = self._backlogs[priority] = Backlog(self._max_batch, self._costs)
        backlog.change(key, deadline, by)

    def forget(self, key: Hashable) -> None:
        """Take note that a kind's costs are no longer what they were."""
        for backlog in self._backlogs.values():
            backlog.forget(key)

    def served(self, entries: Sequence[Entry], seconds: float, now: float) -> None:
        """Take note of whom a device was busy for, and for how long."""
        self._overtaking.served(entries, seconds / self._devices, now)

    def late(
        self,
        key: Hashable,
        count: int,
        *,
        ready: float,
        deadline: float,
        priority: int,
        now: float,
        free: float,
    ) -> float:
        """Return how many seconds past their deadline so many more images of a kind would finish.

        Args:
            key: the kind of batch they would ride in.
            count: how many.
            ready: when they can be added at the earliest.
            deadline: theirs.
            priority: their class.
            now: the time.
            free: when a device is free.
        """
        own = self._backlogs.get(priority)
        urgent, urgent_s, lesser_s, turn_s = 0, 0.0, 0.0, 0.0
        if own is None or len(self._backlogs) > 1:
            urgent, urgent_s, lesser_s, turn_s = self._beside(key, priority)
        turns = self._turns
        if turns.taken_s and turns.priority > priority:  # who comes for turn after turn may just be away
            lesser_s, turn_s = max(lesser_s, turns.taken_s), max(turn_s, turns.interval_s)
        given_s = deadline - now
        left = 1.0
        overtaking = self._overtaking
        if priority > overtaking.first or given_s >= overtaking.first_s:
            left -= overtaking.share(priority, given_s, now)

        most = self._max_batch(key)
        of_kind, beside_s = urgent + count, urgent_s
        if own is not None:
            of_kind += own.count(key)
            beside_s += own.seconds_beside(key)
        while True:
            own_s = self._costs.seconds(key, min(of_kind, most))
            ahead_s = beside_s + (own_s if of_kind <= most else self._costs.backlog(key, of_kind, most))
            if lesser_s and own_s:
                turn_s = max(turn_s, (FAIR_SHARE - 1) * own_s)
                before_s = min(turns.passed_s, turn_s) + ahead_s / left + own_s
                ahead_s += lesser_s * int(before_s / turn_s)
            done = max(free + ahead_s / self._devices / left, ready + own_s)
            late_s = done + _margin(own_s, given_s) - deadline
            if late_s <= 0 or own is None or (due := own.due_by(deadline)) is None:
                break
            own = None  # this once
            of_kind = urgent + count + due.get(key, 0)
            beside_s = urgent_s + self._seconds(due, key)
        if late_s > 0 and priority:
            late_s = min(
                late_s,
                self._late_by_turns(
                    key,
                    count,
                    begin=max(free, ready),
                    deadline=deadline,
                    priority=priority,
                    given_s=given_s,
                ),
            )
        return late_s

    def foresee(self, deadline: float, now: float, *, free: float) -> float:
        """Return how late one more image would be at least, of whichever kind that others wait in; 0 if in time.

        It may be one of the most urgent class. Arguments as of `late`.
        """
        kinds = {key for backlog in self._backlogs.values() for key in backlog.kinds()}
        if not kinds or len(kinds) > _MOST_FORESEEN:
            return 0.0
        least_s = min(
            [self.late(key, 1, ready=now, deadline=deadline, priority=0, now=now, free=free) for key in kinds]
        )
        return max(0.0, least_s)

    def _late_by_turns(
        self,
        key: Hashable,
        count: int,
        *,
        begin: float,
        deadline: float,
        priority: int,
        given_s: float,
    ) -> float:
        """Return what `late` does where they have no batches but the turns of the least urgent class."""
        others = {each: backlog for each, backlog in self._backlogs.items() if backlog and each != priority}
        if not others or max(others) > priority:
            return math.inf  # nobody's turn, or somebody else's
        urgent, between_s = 0, (FAIR_SHARE - 1) * self._costs.seconds(key, self._max_batch(key))
        for backlog in others.values():
            urgent += backlog.count(key)
            for kind in backlog.kinds():  # full ones, as they will be when so many have come
                full_s = self._costs.seconds(kind, self._max_batch(kind))
                between_s = max(between_s, (FAIR_SHARE - 1) * full_s)
        ahead: Mapping[Hashable, int] = {}
        if (own := self._backlogs.get(priority)) is not None:
            ahead = own.due_by(deadline) or own.counts()
        most = self._max_batch(key)
        of_kind = ahead.get(key, 0) + count
        # Its batches are filled up with those of the others.
        own_s = self._costs.seconds(key, most if urgent else min(of_kind, most))
        turns = -(-of_kind // most)
        ahead_s = turns * (between_s + own_s)
        # The first turn is the sooner, the longer they were passed over, but comes after a whole batch.
        ahead_s += between_s / (FAIR_SHARE - 1) - min(self._turns.passed_s, between_s)
        for kind in [kind for kind in ahead if kind != key]:
            size = self._max_batch(kind)
            ahead_s += -(-ahead[kind] // size) * (between_s + self._costs.seconds(kind, size))
        done = begin + ahead_s / self._devices
        return done + _margin(own_s, given_s) - deadline

    def _beside(self, key: Hashable, priority: int) -> tuple[int, float, float, float]:
        """Return what there is of other classes.

        How many images of a kind more urgent ones have, what their others cost, what a batch of a less urgent one
        costs at most, and for how long such are passed over.
        """
        urgent, urgent_s, lesser_s, full_s = 0, 0.0, 0.0, 0.0
        for each, backlog in self._backlogs.items():
            if each < priority:
                urgent += backlog.count(key)
                urgent_s += backlog.seconds_beside(key)
            elif each > priority:
                for kind in backlog.kinds():
                    count, most = backlog.count(kind), self._max_batch(kind)
                    of_kind_s = self._costs.seconds(kind, most)
                    full_s = max(full_s, of_kind_s)
                    lesser_s = max(lesser_s, of_kind_s if count >= most else self._costs.seconds(kind, count))
        return urgent, urgent_s, lesser_s, (FAIR_SHARE - 1) * full_s

    def _seconds(self, counts: Mapping[Hashable, int], but: Hashable) -> float:
        """Return what so many images of each kind cost, without those of one."""
        kinds = [kind for kind in counts if kind != but]
        return sum([self._costs.backlog(kind, counts[kind], self._max_batch(kind)) for kind in kinds])


def _margin(batch_s: float, given_s: float) -> float:
    return max(_MARGIN * batch_s, _MARGIN_GIVEN * given_s)
