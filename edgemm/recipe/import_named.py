"""Import named: what the lines of the tables name as ``"module:name"``, imported when it is needed.

Why by name: transformers takes seconds to import and torch one, and most commands need neither.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from typing import Any

from edgemm.runtime.errors import EdgemmError, ModelError
from edgemm.runtime.fields import one_line


def resolve(path: str, *, what: str) -> Callable[..., Any]:
    """Return what ``"module:name"`` stands for; ``what`` says in an error whose line it is.

    Raises:
        ModelError: no such module or name, a module that fails, or what can't be called.
    """
    try:
        made = pkgutil.resolve_name(path)
    except EdgemmError:
        raise
    except Exception as error:  # a module of the user's may raise anything
        if path.startswith("edgemm.") and isinstance(error, ModuleNotFoundError):
            raise  # a library that isn't installed: the command line names the extra
        raise ModelError(
            f"{what}: can't import '{path}' ({one_line(error)}); expected module:name, its folder on PYTHONPATH"
        ) from error
    if not callable(made):
        raise ModelError(f"{what}: '{path}' is {type(made).__name__}; expected a class or a function")
    found: Callable[..., Any] = made
    return found
