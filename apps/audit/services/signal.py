"""Who wants to know at once that a chain has grown: told which tenants, once for each committed batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from clasper.core.db import Batch

Listener = Callable[[frozenset[str]], None]
"""Takes the tenants with new entries; called in the thread that committed, so it must be quick and not raise."""

_listeners: tuple[Listener, ...] = ()


def subscribe(listener: Listener) -> Callable[[], None]:
    """Tells `listener` from now on, until the function that is given back is called."""
    global _listeners
    _listeners = (*_listeners, listener)

    def unsubscribe() -> None:
        global _listeners
        _listeners = tuple(each for each in _listeners if each is not listener)

    return unsubscribe


def announce(batch: Batch, tenants: Iterable[str]) -> None:
    """Tells the listeners, if there are any, when the batch is committed."""
    if _listeners:
        batch.after_commit(partial(_tell, frozenset(tenants)))


def _tell(tenants: frozenset[str]) -> None:
    for listener in _listeners:
        listener(tenants)
