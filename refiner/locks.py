"""Exclusive use of networks and tokenizers, for callers in several threads."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

_LOCKS: weakref.WeakKeyDictionary[object, threading.RLock] = weakref.WeakKeyDictionary()
_LOCKING = threading.Lock()


@contextmanager
def exclusive(parts: Iterable[object]) -> Iterator[None]:
    """Wait until no other thread uses one of these parts, and let no other thread use one meanwhile.

    Two sets of parts wait for each other if they share one. The same thread may enter again.
    """
    known = {id(part): part for part in parts}
    with _LOCKING:
        locks = [_LOCKS.setdefault(known[key], threading.RLock()) for key in sorted(known)]
    with ExitStack() as stack:
        for lock in locks:
            stack.enter_context(lock)
        yield
