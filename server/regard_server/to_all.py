"""Tell many: a bug that one of them meets does not keep it from the others."""

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def to_all(items: Iterable[T], tell: Callable[[T], object]) -> None:
    """Call a function with every item.

    Raises:
        ExceptionGroup: what some of the calls raised, after the last one. Raised in a callback of the event loop, it is
            logged there.
    """
    failures: list[Exception] = []
    for item in items:
        try:
            tell(item)
        except Exception as error:  # noqa: BLE001 - raised below
            failures.append(error)
    if failures:
        raise ExceptionGroup("not everybody could be told", failures)
