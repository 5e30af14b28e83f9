"""Calls that are not even sent, because the server has been refusing most of their like.

A refusal costs a server, and the machine between, a large part of what a small network costs: the message comes
before it can be refused. Callers who ask for several times what a server can do would spend that on being refused.
So of calls of a kind, no more are sent than `ratio` times those that were accepted lately; which ones, chance decides:

    chance of being refused here  =  (asked - ratio * accepted - few) / (asked + 1)

At a ratio of 2 nothing is held back while no more than half of the calls are refused. A message of many that is refused
among many that were accepted changes nothing: a kind begins with what was accepted of all kinds in the last second. A
server that has room again is noticed within a second: more is always sent than it accepted, and nothing is held back
when it has refused nothing for so long. This is adaptive throttling as in Site Reliability Engineering, chapter 21:
https://sre.google/sre-book/handling-overload/ . The counts fade with a half-life instead of ending with a window, and
a call is counted when its fate is known, since answers may take seconds and refusals do not.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from regard_client.errors import OverloadedError
from regard_client.query import Query

# Long beside any useful deadline, so that answers and refusals of the same time meet; short beside an outage.
_HALF_LIFE_S: Final = 5.0
# So many refusals say nothing yet: a caller who tries again as he was told to is never held back.
_FEW: Final = 10.0
# A server that has refused nothing for so long has room, whatever was before: a burst is over quickly.
_RECENT_S: Final = 1.0
# Before its first refusal a kind has no counts, so that whoever is never refused pays for none; what was accepted of
# all kinds stands for it. It fades sooner than counts do, and so weighs little against an overload that lasts.
_LATELY_S: Final = 1.0
# How often it fades: a power for every call would be felt.
_FADES_S: Final = 0.1
_MOST_KINDS: Final = 256

_Kind = tuple[Query, int]


@dataclass(slots=True)
class _Counts:
    asked: float = 0.0
    accepted: float = 0.0
    counted_s: float = 0.0
    refused_s: float = 0.0
    retry_after_s: float | None = None


class Throttle:
    """Counts by kind of call: what is asked, and how long there is for it, to a factor of two.

    Whoever has longer is accepted where others are not, and must not be held back with them. Threads may share one;
    a count that is lost between two of them does not matter.

    Args:
        ratio: calls that are sent for every one accepted, 1 at least; infinity to hold none back.
        target: the server's address, for messages.
        chance: returns numbers from 0 to 1.
    """

    def __init__(self, ratio: float, target: str, chance: Callable[[], float] = random.random) -> None:
        self._ratio = ratio
        self._target = target
        self._chance = chance
        self._counts: dict[_Kind, _Counts] = {}
        self._lately = 0.0
        self._faded_s = 0.0

    def check(self, query: Query, timeout_s: float, now_s: float) -> None:
        """Let a call go on.

        Raises:
            OverloadedError: it is one of those that are not sent.
        """
        if not self._counts:  # as nearly always; asked here, because a call to find nothing would be felt
            return
        counts = self._find(query, timeout_s, now_s)
        if counts is None:
            return
        if now_s - counts.refused_s > _RECENT_S:
            self._counts.pop(_kind(query, timeout_s), None)
            return
        excess = counts.asked - self._ratio * counts.accepted - _FEW
        if excess > 0 and self._chance() < excess / (counts.asked + 1.0):
            counts.asked += 1.0
            raise OverloadedError(
                f"not sent: {self._target} has refused most calls of this kind of late; wait, add replicas, or raise "
                "Transport.sent_per_accepted",
                retry_after_s=counts.retry_after_s,
            )

    def accepted(self, query: Query, timeout_s: float, now_s: float) -> None:
        """Take note of a call that the server had room for, whatever the answer."""
        if now_s - self._faded_s > _FADES_S:
            self._fade(now_s)
        self._lately += 1.0
        if not self._counts:
            return
        counts = self._find(query, timeout_s, now_s)
        if counts is not None:
            counts.asked += 1.0
            counts.accepted += 1.0

    def refused(self, query: Query, timeout_s: float, now_s: float, retry_after_s: float | None) -> None:
        """Take note of a call that the server had no room for."""
        counts = self._find(query, timeout_s, now_s)
        if counts is None:
            if not self._has_room(now_s):
                return  # those that are counted are held back still; to forget the oldest would let kinds in turn pass
            lately = self._fade(now_s)
            counts = self._counts[_kind(query, timeout_s)] = _Counts(lately, lately, counted_s=now_s)
        counts.asked += 1.0
        counts.refused_s = now_s
        counts.retry_after_s = retry_after_s

    def _has_room(self, now_s: float) -> bool:
        """Forget kinds of which nothing was refused lately, if there are many; tell whether one more can be counted."""
        if len(self._counts) >= _MOST_KINDS:
            for kind, counts in list(self._counts.items()):  # of one moment, whatever other threads do
                if now_s - counts.refused_s > _RECENT_S:
                    self._counts.pop(kind, None)
        return len(self._counts) < _MOST_KINDS

    def _fade(self, now_s: float) -> float:
        """Return how many calls of all kinds were accepted lately."""
        if now_s - self._faded_s > _FADES_S:
            self._lately *= 0.5 ** ((now_s - self._faded_s) / _LATELY_S)
            self._faded_s = now_s
        return self._lately

    def _find(self, query: Query, timeout_s: float, now_s: float) -> _Counts | None:
        """Return the counts of a kind as they have faded by now; None if no such call was refused lately."""
        counts = self._counts.get(_kind(query, timeout_s))
        if counts is not None:
            share = 0.5 ** ((now_s - counts.counted_s) / _HALF_LIFE_S)
            counts.asked *= share
            counts.accepted *= share
            counts.counted_s = now_s
        return counts


def _kind(query: Query, timeout_s: float) -> _Kind:
    return query, math.frexp(timeout_s)[1]
