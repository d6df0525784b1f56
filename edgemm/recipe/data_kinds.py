"""Data kinds: the table of what ``data.kind`` may be, beside a function of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticKnownError

OWN = "python:"
"""What a kind begins with that names a function of the user's own."""
OWN_SHAPE = f"{OWN}module:function"


@dataclass(frozen=True, slots=True)
class Reader:
    """What opens data of a kind.

    Args:
        read_by: ``"module:function"``; see ``edgemm.data.call_reader`` for what it is given.
        about: what the data is, for the reference.
        root: what ``data.root`` has to be; None: the reader can do without.
        takes_pairs: whether its samples are files that ``data.pairs`` can name.
    """

    read_by: str
    about: str
    root: str | None = None
    takes_pairs: bool = False


READERS: Mapping[str, Reader] = {
    "table": Reader(
        "edgemm.data.table:table", "a file with a row for each sample",
        root="the path of a .csv, .jsonl or .parquet file", takes_pairs=True,
    ),
    "folder": Reader(
        "edgemm.data.folder:folder", "pictures and sounds in a folder per class",
        root="a folder with a folder per class", takes_pairs=True,
    ),
    "datasets": Reader("edgemm.data.huggingface:huggingface", "Hugging Face datasets"),
}  # fmt: skip


def reader_of(kind: str) -> Reader:
    """Return the line of a kind; of ``python:module:function`` one made for it."""
    return READERS[kind] if kind in READERS else Reader(kind.removeprefix(OWN), "a reader of your own")


def known_kind(kind: str) -> str:
    """Return ``kind`` as it is.

    Raises:
        ValueError: neither a line of the table nor ``python:module:function``.
    """
    if kind.startswith(OWN):
        module, colon, function = kind.removeprefix(OWN).partition(":")
        if not colon or not all(name.isidentifier() for name in (*module.split("."), *function.split("."))):
            raise ValueError(f"expected {OWN_SHAPE}")
    elif kind not in READERS:
        raise PydanticKnownError("literal_error", {"expected": ", ".join(map(repr, (*READERS, OWN_SHAPE)))})
    return kind


def kinds_listed_(schema: dict[str, Any]) -> None:
    """Write the kinds as they are when asked into a JSON schema: for editors and the reference."""
    schema.pop("type", None)
    schema["anyOf"] = [{"enum": list(READERS)}, {"type": "string", "pattern": f"^{OWN}"}]
    lines = {**{kind: line.about for kind, line in READERS.items()}, OWN_SHAPE: "a function of your own"}
    schema["description"] = "; ".join(f"{kind}: {about}" for kind, about in lines.items())
