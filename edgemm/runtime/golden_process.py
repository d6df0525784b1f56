"""Golden process: what ``isolated`` starts: a bundle's golden samples, run under limits of memory and CPU time."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from edgemm.runtime.errors import EdgemmError
from edgemm.runtime.fields import json_value


def main(arguments: Sequence[str]) -> int:
    """Return the other process: set its limits, run the golden samples, write what came out as one line of JSON."""
    asked: dict[str, Any] = json_value(arguments[0])
    out = os.dup(1)
    os.dup2(2, 1)  # what an engine prints is no answer
    with suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (asked["memory"], asked["memory"]))
        resource.setrlimit(resource.RLIMIT_CPU, (asked["cpu"], asked["cpu"] + 1))
    from edgemm.runtime.bundle import Bundle  # within the limits

    answer: dict[str, Any] = {"samples": 0, "errors": {}, "problems": [], "error": None}
    try:
        bundle = Bundle.open(asked["path"], target=asked["target"], threads=asked["threads"])
        answer["samples"], errors, answer["problems"] = bundle.compare_golden()
        answer["errors"] = {name: error if math.isfinite(error) else str(error) for name, error in errors.items()}
    except EdgemmError as error:
        answer["error"] = str(error)
    except MemoryError:
        answer["error"] = f"they need more than {asked['memory'] >> 20} MiB of memory"
    os.write(out, json.dumps(answer).encode("utf-8", "backslashreplace"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
