"""Fields: reads JSON objects strictly, because a manifest comes from outside and is trusted by nobody.

Every mistake (wrong type, missing key, unknown key, a value out of range) is one BundleError line that
names the file, the key, what stood there and what was expected. Standard library only: the device has no pydantic.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from edgemm.runtime.errors import BundleError

T = TypeVar("T")

DEEPEST = 64  # a manifest has 8 levels and what its provenance holds, a tokenizer.json some 10
DEEPEST_DATA = 256  # a row of data may hold a parsed sentence or a thread of answers

STEERS = (
    "[\x00-\x1f\x7f-\x9f"  # control characters
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that turn the direction of a text
    "\u2028\u2029\ud800-\udfff]"  # line and paragraph ends; halves of a letter, which no encoding has
)
"""What a terminal or a browser obeys instead of showing it; joiners inside emoji are none."""

_MISSING = object()


def parse_json(data: bytes, *, file: str) -> object:
    """Parse UTF-8 JSON, refusing what JSON does not define (NaN, Infinity, a number beyond float64, a key given twice).

    Arrays and objects lie in each other at most ``DEEPEST`` deep, so that whatever was read can be walked and written.

    Raises:
        BundleError: naming ``file`` and the place.
    """
    try:
        value: object = json_value(
            data.decode("utf-8"),
            deepest=DEEPEST,
            parse_float=_finite,
            parse_constant=_no_constant,
            object_pairs_hook=_unique,
        )
    except ValueError as error:
        raise BundleError(f"{file}: not valid JSON: {one_line(error)}") from error
    return value


def json_value(data: str | bytes, *, deepest: int = DEEPEST_DATA, **hooks: Any) -> Any:
    """Parse JSON that another process, or another person, wrote; the one place in edgemm that calls ``json.loads``.

    Args:
        data: text, or bytes of UTF-8, -16 or -32.
        deepest: levels that arrays and objects may lie in each other, so that what is read can be walked and shown.
        hooks: ``parse_float`` and the like, of ``json.loads``.

    Raises:
        ValueError: for whatever is wrong with it: no JSON, no text, an integer of thousands of digits, too deep.
    """
    try:
        value = json.loads(data, **hooks)
    except RecursionError as error:
        raise ValueError(f"nested deeper than {deepest} levels") from error
    _check_depth(value, deepest)
    return value


def one_line(error: BaseException) -> str:
    """Return the first line of an exception's message (its type's name where it has none), at most 300 characters."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def printable(text: str) -> str:
    """A text from outside as part of a line: what steers a terminal, line ends and what no encoding has are escaped."""
    return re.sub(STEERS, lambda m: m[0].encode("unicode_escape").decode(), text)


def show(value: object) -> str:
    """Return a value as an error message shows it: type and at most 60 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, deep nesting
        text = "..."
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


class Fields:
    """One JSON object whose keys are taken one by one; ``done`` then refuses what is left.

    Args:
        value: what the JSON held; anything but an object is refused.
        where: file and key path for messages (``"manifest.json: parts[0]"``).

    Raises:
        BundleError: from every method, on anything unexpected.
    """

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise BundleError(f"{where}: got {show(value)}, expected an object")
        self.where = where
        self._left: dict[str, object] = dict(value)
        self._known: list[str] = []

    def path(self, key: str) -> str:
        """File and key path of one key."""
        return f"{self.where}.{key}" if ": " in self.where else f"{self.where}: {key}"

    def take(self, key: str, default: object = _MISSING) -> object:
        """Return the raw value of a key, or ``default``; without a default the key has to be there."""
        self._known.append(key)
        value = self._left.pop(key, default)
        if value is _MISSING:
            raise BundleError(f"{self.path(key)}: missing; expected the keys {self._known} among others")
        return value

    def has(self, key: str) -> bool:
        """Return whether the key is there and not null."""
        return self._left.get(key) is not None

    def string(self, key: str, default: object = _MISSING) -> str:
        """Return a non-empty string."""
        return check_string(self.take(key, default), self.path(key))

    def optional_string(self, key: str) -> str | None:
        """Return a non-empty string, or None where the key is null or absent."""
        value = self.take(key, None)
        return None if value is None else check_string(value, self.path(key))

    def integer(self, key: str, default: object = _MISSING, *, minimum: int = 0, maximum: int = 2**63 - 1) -> int:
        """Return an integer between ``minimum`` and ``maximum``."""
        return check_integer(self.take(key, default), self.path(key), minimum=minimum, maximum=maximum)

    def number(self, key: str, default: object = _MISSING) -> float:
        """Return a finite number of any sign, as float."""
        value = self.take(key, default)
        if type(value) not in (int, float) or not -1e300 < value < 1e300:  # type: ignore[operator]
            raise BundleError(f"{self.path(key)}: got {show(value)}, expected a finite number")
        return float(value)  # type: ignore[arg-type]

    def boolean(self, key: str, default: object = _MISSING) -> bool:
        """True or false."""
        value = self.take(key, default)
        if not isinstance(value, bool):
            raise BundleError(f"{self.path(key)}: got {show(value)}, expected true or false")
        return value

    def choice(self, key: str, options: Sequence[T], default: object = _MISSING) -> T:
        """Return one of a few values."""
        value = self.take(key, default)
        for option in options:
            if type(value) is type(option) and value == option:
                return option
        raise BundleError(f"{self.path(key)}: got {show(value)}, expected one of {list(options)}")

    def items(self, key: str, default: object = _MISSING) -> list[tuple[object, str]]:
        """Return the elements of an array, each with its path."""
        value = self.take(key, default)
        if not isinstance(value, (list, tuple)):
            raise BundleError(f"{self.path(key)}: got {show(value)}, expected an array")
        return [(item, f"{self.path(key)}[{i}]") for i, item in enumerate(value)]

    def objects(self, key: str, default: object = _MISSING) -> Iterator[Fields]:
        """Return the elements of an array of objects."""
        return (Fields(item, where) for item, where in self.items(key, default))

    def strings(self, key: str, default: object = _MISSING) -> tuple[str, ...]:
        """Return an array of non-empty strings."""
        return tuple(check_string(item, where) for item, where in self.items(key, default))

    def mapping(self, key: str, default: object = _MISSING) -> list[tuple[str, object, str]]:
        """Return the (key, value, path) entries of an object with free keys."""
        value = self.take(key, default)
        if not isinstance(value, dict):
            raise BundleError(f"{self.path(key)}: got {show(value)}, expected an object")
        for name in value:
            check_string(name, f"{self.path(key)}: a key")
        return [(name, item, f"{self.path(key)}.{name}") for name, item in value.items()]

    def string_map(self, key: str, default: object = _MISSING) -> dict[str, str]:
        """Return an object whose values are non-empty strings."""
        return {name: check_string(value, where) for name, value, where in self.mapping(key, default)}

    def done(self) -> None:
        """Refuse the keys that nobody took, naming the nearest known one."""
        if not self._left:
            return
        import difflib

        key = next(iter(self._left))
        near = difflib.get_close_matches(key, self._known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; expected {sorted(self._known)}"
        raise BundleError(f"{self.path(key[:60])}: unknown key{hint}")


def check_string(value: object, where: str) -> str:
    """Return the value where it is a non-empty string without control characters."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise BundleError(f"{where}: got {show(value)}, expected a non-empty printable string")
    return value


def check_integer(value: object, where: str, *, minimum: int = 0, maximum: int = 2**63 - 1) -> int:
    """Return the value where it is an integer (not a bool) between ``minimum`` and ``maximum``."""
    if type(value) is not int or not minimum <= value <= maximum:
        wanted = f"of at least {minimum}" if maximum >= 2**63 - 1 else f"from {minimum} to {maximum}"
        raise BundleError(f"{where}: got {show(value)}, expected an integer {wanted}")
    return value


def check_number(value: object, where: str) -> float:
    """Return the value as float where it is a finite number of at least 0."""
    if type(value) not in (int, float) or not 0 <= value < 1e300:  # type: ignore[operator]
        raise BundleError(f"{where}: got {show(value)}, expected a finite number of at least 0")
    return float(value)  # type: ignore[arg-type]


def _finite(text: str) -> float:
    number = float(text)
    if not -math.inf < number < math.inf:
        raise ValueError(f"{text[:40]} is beyond the range of float64")
    return number


def _check_depth(value: object, deepest: int) -> None:
    """Raise ValueError where arrays and objects lie deeper in each other than ``deepest``."""
    level = [value]
    for _ in range(deepest):
        if not level:
            return
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner += [one for one in item.values() if isinstance(one, (dict, list))]
            elif isinstance(item, list):
                inner += [one for one in item if isinstance(one, (dict, list))]
        level = inner
    if level:
        raise ValueError(f"nested deeper than {deepest} levels")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice[:80]!r} is given twice")
    return found
