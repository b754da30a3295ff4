"""Notifies listeners of the tenants whose chains have grown, once per committed batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from clasper.core.db import Batch

Listener = Callable[[frozenset[str]], None]
"""Takes the tenants with new entries; called in the thread that committed, so it must be quick and not raise."""

_listeners: tuple[Listener, ...] = ()


def subscribe(listener: Listener) -> Callable[[], None]:
    """Notifies `listener` from now on, until the returned function is called."""
    global _listeners
    _listeners = (*_listeners, listener)

    def unsubscribe() -> None:
        global _listeners
        _listeners = tuple(other for other in _listeners if other is not listener)

    return unsubscribe


def announce(batch: Batch, tenants: Iterable[str]) -> None:
    """Notifies the listeners, if there are any, when the batch is committed."""
    if _listeners:
        batch.after_commit(partial(_notify, frozenset(tenants)))


def _notify(tenants: frozenset[str]) -> None:
    for listener in _listeners:
        listener(tenants)
