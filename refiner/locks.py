"""Exclusive use of networks, for callers in several threads."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

_LOCKS: weakref.WeakKeyDictionary[object, threading.RLock] = weakref.WeakKeyDictionary()
_LOCKING = threading.Lock()


@contextmanager
def exclusive(networks: Iterable[object]) -> Iterator[None]:
    """Wait until no other thread uses one of these networks, and let no other thread use one meanwhile.

    Two sets of networks wait for each other if they share one. The same thread may enter again.
    """
    known = {id(network): network for network in networks}
    with _LOCKING:
        locks = [_LOCKS.setdefault(known[key], threading.RLock()) for key in sorted(known)]
    with ExitStack() as stack:
        for lock in locks:
            stack.enter_context(lock)
        yield
