"""Chain: how values flow between parts, by name. Every walk over a chain is one of these functions.

A part runs as soon as the values that it names as inputs are known, and makes the values that it names as outputs. The
parts may be those of a model, of an open bundle or of a manifest: a chain asks them for names alone. Parts come in an
order in which every input is given or made by an earlier part.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar


class Link(Protocol):
    """What a chain asks of a part."""

    @property
    def name(self) -> str:
        """Of the part; no two of a chain share one."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the values that it takes."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the values that it makes."""


L = TypeVar("L", bound=Link)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Placeholders(Generic[V]):
    """What takes the place of values that nothing makes.

    Args:
        names: of the values that have a placeholder.
        repeated: (name, samples) -> the placeholder for as many samples, (samples, ...).
    """

    names: Collection[str]
    repeated: Callable[[str, int], V]


class BrokenChain(Exception):
    """A chain whose values do not fit together; ``part`` is the number of the part where that shows."""

    def __init__(self, part: int, problem: str) -> None:
        super().__init__(problem)
        self.part = part


def runnable(parts: Iterable[L], given: Iterable[str]) -> tuple[L, ...]:
    """Return the parts, in order, that can run from the values named in ``given``.

    A value with a placeholder counts as given where the caller names it.
    """
    known = set(given)
    found = []
    for part in parts:
        if known.issuperset(part.input_names):
            known.update(part.output_names)
            found.append(part)
    return tuple(found)


def reachable(parts: Iterable[Link], given: Iterable[str]) -> frozenset[str]:
    """Return the names of all values that are known in the end: the given ones, and those that parts make of them."""
    names = frozenset(given)
    return names.union(*(part.output_names for part in runnable(parts, names)))


def needed_for(parts: Sequence[L], outputs: Iterable[str]) -> tuple[L, ...]:
    """Return the parts, in order, that the values named in ``outputs`` depend on."""
    wanted, found = set(outputs), []
    for part in reversed(parts):
        if wanted.intersection(part.output_names):
            wanted.update(part.input_names)
            found.append(part)
    return tuple(reversed(found))


def sources_of(parts: Sequence[Link], outputs: Iterable[str]) -> frozenset[str]:
    """Return the names of the values that ``outputs`` depend on and that no part makes: those of raw inputs."""
    names = frozenset(outputs)
    needed = needed_for(parts, names)
    return names.union(*(part.input_names for part in needed)).difference(*(part.output_names for part in needed))


def origins(parts: Iterable[Link], sources: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """Return what each value is made from.

    Args:
        sources: name of a raw value -> what it comes from, such as its modality.

    Returns:
        Name of a value -> those of ``sources`` that lead to it; none for what other values lead to.
    """
    found = {name: frozenset({source}) for name, source in sources.items()}
    for part in parts:
        made_from = frozenset[str]().union(*(found.get(name, ()) for name in part.input_names))
        found |= dict.fromkeys(part.output_names, made_from)
    return found


def handed_over(parts: Collection[Link], chain: Iterable[Link], *, outputs: Iterable[str] = ()) -> frozenset[str]:
    """Return the names of the values that the other parts of ``chain`` take, or that are among ``outputs``.

    Args:
        parts: some parts of ``chain``.
    """
    own = {part.name for part in parts}
    return frozenset(outputs).union(*(part.input_names for part in chain if part.name not in own))


def makers(parts: Iterable[Link], given: Mapping[str, str]) -> dict[str, str]:
    """Return what makes each value of a chain, and check that the chain is whole.

    Args:
        given: name of a raw value -> what gives it, for messages.

    Returns:
        Name of a value -> ``"part 'fusion'"``, or what ``given`` says.

    Raises:
        BrokenChain: an input that nothing before its part makes, or a value that is made twice.
    """
    found = dict(given)
    for number, part in enumerate(parts):
        if missing := [name for name in part.input_names if name not in found]:
            raise BrokenChain(
                number, f"nothing before it makes its input '{missing[0]}'; values known there: {sorted(found)}"
            )
        for name in part.output_names:
            if name in found:
                raise BrokenChain(number, f"value '{name}' is already made by {found[name]}")
            found[name] = f"part '{part.name}'"
    return found


def trace(
    parts: Iterable[L],
    values: Mapping[str, V],
    run: Callable[[L, Mapping[str, V]], Mapping[str, V]],
    *,
    placeholders: Placeholders[V] | None = None,
) -> Iterator[tuple[L, Mapping[str, V], Mapping[str, V]]]:
    """Run every part that can run, and yield each with what it was fed and what it made.

    A part whose outputs are all known already (cached features of a frozen tower) is not run again.

    Args:
        values: what is known from the start; each has its samples as first axis.
        run: (part, feeds) -> made; runs one part on exactly its inputs, by name, in the part's order.
        placeholders: take the place of inputs that nothing made, for as many samples as there are; without them a part
            that lacks an input is left out.

    Yields:
        (part, feeds, made) each time a part has run.
    """
    return _trace_(dict(values), parts, run, placeholders)


def run_all(
    parts: Iterable[L],
    values: Mapping[str, V],
    run: Callable[[L, Mapping[str, V]], Mapping[str, V]],
    *,
    placeholders: Placeholders[V] | None = None,
) -> dict[str, V]:
    """Return the given values and all that the parts made; see ``trace``."""
    known = dict(values)
    for _ in _trace_(known, parts, run, placeholders):
        pass
    return known


def _trace_(
    known: dict[str, V],
    parts: Iterable[L],
    run: Callable[[L, Mapping[str, V]], Mapping[str, V]],
    placeholders: Placeholders[V] | None,
) -> Iterator[tuple[L, Mapping[str, V], Mapping[str, V]]]:
    """``trace``, adding all that comes to be known to ``known``. Plain loops: a bundle's every answer runs them."""
    for part in parts:
        feeds = {}
        for name in part.input_names:
            if name in known:
                feeds[name] = known[name]
            elif placeholders is not None and name in placeholders.names:
                feeds[name] = known[name] = placeholders.repeated(name, _samples(known))
            else:
                break
        else:
            for name in part.output_names:
                if name not in known:
                    made = run(part, feeds)
                    known.update(made)
                    yield part, feeds, made
                    break


def _samples(values: Mapping[str, Any]) -> int:
    """Return how many samples there are: as many as the longest value has."""
    return max(map(len, values.values()), default=1)
