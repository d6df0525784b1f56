"""Quiet: hides what a library says of itself while any thread is in it, and puts back what was there when none is.

Why: ``catch_warnings``, ``redirect_stdout`` and a logger's level belong to the whole process. Where two threads
save and restore them, one puts back, in the other's name, what the first had changed, for ever. So the first one in
changes them and the last one out changes them back, and only for the library's own modules.
"""

from __future__ import annotations

import logging
import threading
import warnings
from contextlib import suppress
from typing import Any


class Quiet:
    """A context that any number of threads may be in at once.

    Args:
        modules: a regular expression; warnings that name a module which it matches from the start are hidden.
        loggers: names of loggers of which only what is at least ``level`` is shown.
    """

    def __init__(self, modules: str = "", *, loggers: tuple[str, ...] = (), level: int = logging.CRITICAL) -> None:
        self._modules, self._loggers, self._level = modules, loggers, level
        self._lock, self._inside = threading.Lock(), 0
        self._filter: Any = None
        self._levels: dict[str, int] = {}

    def __enter__(self) -> None:
        with self._lock:
            if self._modules and (self._inside == 0 or self._filter not in warnings.filters):
                warnings.filterwarnings("ignore", module=self._modules)
                self._filter = warnings.filters[0]
            if self._inside == 0:
                self._levels = {name: logging.getLogger(name).level for name in self._loggers}
                for name in self._loggers:
                    logging.getLogger(name).setLevel(self._level)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside:
                return
            with suppress(ValueError):  # somebody has put back older filters meanwhile
                warnings.filters.remove(self._filter)  # type: ignore[attr-defined]
            for name, level in self._levels.items():
                logging.getLogger(name).setLevel(level)
