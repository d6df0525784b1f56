"""Arithmetic: what a part of an int8 target is really computed in, and what it cost, as its manifest says it.

Counted by the workbench in the very file that ships. Reports, tables and ``inspect`` take their words from here, so
that nothing is called int8 which is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edgemm.runtime.errors import BundleError
from edgemm.runtime.fields import Fields

WHOLE = 0.9
"""An int8 target of which at least this share of weights and of multiply-accumulates is int8 is called so plainly."""


@dataclass(frozen=True, slots=True)
class FloatLayers:
    """Layers of one operator that stay in float for one reason.

    Args:
        operator: as ONNX names it.
        why: one phrase.
        layers: what their owner calls them: the names of their weights, or of their first outputs where none is told.
        weights: numbers that they hold.
        macs: multiply-accumulates of one run; see ``Arithmetic``.
    """

    operator: str
    why: str
    layers: tuple[str, ...]
    weights: int
    macs: int


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What one part's file holds and computes.

    Args:
        float32_bytes: of the file that it was made from.
        weights: numbers that its layers multiply by, look up or scale with; biases are not among them.
        int8_weights: those of ``weights`` that its file stores in 8 bits.
        macs: multiply-accumulates of one run on a calibration sample; those in the body of an If, Loop or Scan aren't
            known and not counted.
        int8_macs: those of ``macs`` whose factors are both 8-bit integers.
        in_float: the layers that are computed in float, by operator and reason.
        rolled_back: why int8 arithmetic was taken back, or None.
    """

    float32_bytes: int
    weights: int
    int8_weights: int
    macs: int
    int8_macs: int
    in_float: tuple[FloatLayers, ...] = ()
    rolled_back: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values. Law: ``arithmetic_from_json(a.to_json()) == a``."""
        return {
            "float32_bytes": self.float32_bytes,
            "weights": self.weights,
            "int8_weights": self.int8_weights,
            "macs": self.macs,
            "int8_macs": self.int8_macs,
            "in_float": [
                {
                    "operator": group.operator,
                    "why": group.why,
                    "layers": list(group.layers),
                    "weights": group.weights,
                    "macs": group.macs,
                }
                for group in self.in_float
            ],
            "rolled_back": self.rolled_back,
        }


def arithmetic_from_json(value: object, *, where: str) -> Arithmetic:
    """Read one part's entry. Raises BundleError naming ``where`` and the key, also where a share is more than all."""
    fields = Fields(value, where)
    found = Arithmetic(
        float32_bytes=fields.integer("float32_bytes"),
        weights=fields.integer("weights"),
        int8_weights=fields.integer("int8_weights"),
        macs=fields.integer("macs"),
        int8_macs=fields.integer("int8_macs"),
        in_float=tuple(_float_layers(group) for group in fields.objects("in_float", [])),
        rolled_back=fields.optional_string("rolled_back"),
    )
    fields.done()
    for key, part, whole in (
        ("int8_weights", found.int8_weights, found.weights),
        ("int8_macs", found.int8_macs, found.macs),
    ):
        if part > whole:
            raise BundleError(f"{fields.path(key)}: got {part}, expected at most {whole}, which is all there are")
    return found


def _float_layers(fields: Fields) -> FloatLayers:
    group = FloatLayers(
        operator=fields.string("operator"),
        why=fields.string("why"),
        layers=fields.strings("layers"),
        weights=fields.integer("weights"),
        macs=fields.integer("macs"),
    )
    fields.done()
    return group


# --- in words --------------------------------------------------------------------------------------------------------


def precision_label(precision: str, parts: Iterable[Arithmetic]) -> str:
    """Return what a target is, in words for tables.

    ``"int8"`` where nearly all is; ``"int8 in 38 % of weights and 12 % of multiply-accumulates"`` where some is;
    ``"float32, int8 rolled back"`` or ``"float32, no layer is int8"`` where nothing is; ``precision`` as it stands
    where no part says anything (other precisions, bundles from before). Without brackets, in which others set it.
    """
    known = list(parts)
    if not known:
        return precision
    if not sum(part.int8_macs for part in known):
        rolled_back = any(part.rolled_back for part in known)
        return f"float32, {'int8 rolled back' if rolled_back else 'no layer is int8'}"
    weights = _share(sum(p.int8_weights for p in known), sum(p.weights for p in known))
    macs = _share(sum(p.int8_macs for p in known), sum(p.macs for p in known))
    if min(weights, macs) >= WHOLE:
        return "int8"
    return f"int8 in {percent(weights)} of weights and {percent(macs)} of multiply-accumulates"


def part_line(arithmetic: Arithmetic, size_bytes: int) -> str:
    """Return one part's facts: bytes before and after, and the shares of weights and multiply-accumulates in int8."""
    factor = f" (÷ {arithmetic.float32_bytes / size_bytes:.2f})" if size_bytes else ""
    weights = _share(arithmetic.int8_weights, arithmetic.weights)
    macs = _share(arithmetic.int8_macs, arithmetic.macs)
    back = f"; int8 rolled back: {arithmetic.rolled_back}" if arithmetic.rolled_back else ""
    return (
        f"{arithmetic.float32_bytes:,} → {size_bytes:,} bytes{factor}; int8: {percent(weights)} of weights, "
        f"{percent(macs)} of multiply-accumulates{back}"
    )


def float_lines(arithmetic: Arithmetic) -> list[str]:
    """Return a line for each group of layers left in float: operator, how many, their share of the work, and why."""
    lines = []
    for group in arithmetic.in_float:
        macs = _share(group.macs, arithmetic.macs)
        share = f", {percent(macs)} of multiply-accumulates" if group.macs else ""
        lines.append(f"in float: {group.operator} × {len(group.layers)}{share}: {group.why}")
    return lines


def percent(share: float) -> str:
    """Return a share in whole per cent, never 0 or 100 where it is neither."""
    if 0 < share < 0.01:
        return "< 1 %"
    if 0.99 < share < 1:
        return "> 99 %"
    return f"{share * 100:.0f} %"


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
