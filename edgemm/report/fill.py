"""Fill: a template of this folder becomes a page, and a page becomes a file.

Everything that comes from data (labels, names, environment) passes through jinja2's autoescape; only the SVG drawn here
is inserted as it is, and its text was escaped by matplotlib. The page's own policy forbids any request, and every
script but the one that sorts tables, which it names by its sha256.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgemm.runtime.disk import replacing


def fill(template: str, **given: Any) -> str:
    """Return one of the templates beside this file, filled; what comes from data is escaped."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_read),
    )
    script = _read("sort.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(script=script, script_digest=digest, **given)


def _read(name: str) -> str:
    return files("edgemm.report").joinpath(name).read_text(encoding="utf-8")


def write_page(out: Path, html: str) -> None:
    """Write a page, whole or not at all: what was at ``out`` before stays until the new one is complete."""
    with replacing(out) as partial:
        partial.write_text(html, encoding="utf-8")
