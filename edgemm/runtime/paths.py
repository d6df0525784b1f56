"""Paths inside a bundle: relative, forward slashes, nothing that could climb out on any operating system."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from edgemm.runtime.errors import BundleCorrupt

MANIFEST = "manifest.json"


def check_path(path: str, where: str) -> str:
    """Return the path where it is safe.

    Args:
        path: a name such as ``graphs/float32/text.onnx``.
        where: for the message.

    Raises:
        BundleCorrupt: absolute, with ``..`` or an empty component, a backslash, a drive or stream colon, a control
            character, longer than 255 bytes a component, or ``manifest.json`` itself.
    """
    reason = _unsafe(path)
    if reason:
        raise BundleCorrupt(f"{where}: unsafe path {path[:80]!r}: {reason}; expected a relative path with '/'")
    return path


def check_names(paths: Iterable[str], where: str) -> None:
    """Raise BundleCorrupt where two paths are one on some file system, or one is a folder of the other."""
    seen: dict[str, str] = {}
    for path in paths:
        same = unicodedata.normalize("NFC", path).casefold()
        if same in seen:
            raise BundleCorrupt(f"{where}: {path[:80]!r} and {seen[same][:80]!r} are one file on some systems")
        seen[same] = path
    for same, path in seen.items():
        while cut := same.rpartition("/")[0]:
            if cut in seen:
                raise BundleCorrupt(f"{where}: {seen[cut][:80]!r} is a file, and a folder in {path[:80]!r}")
            same = cut


def _unsafe(path: str) -> str | None:
    if not path or path.startswith("/"):
        return "it is absolute or empty"
    if "\\" in path or ":" in path or not path.isprintable():
        return "it holds a backslash, a colon or a control character"
    for component in path.split("/"):
        if component in ("", ".", ".."):
            return f"it has the component {component!r}"
        if len(component.encode("utf-8", "surrogatepass")) > 255:
            return "a component is longer than 255 bytes"
    if path.lower() == MANIFEST:
        return "the manifest does not list itself"
    return None
