"""Model: an ordered chain of named parts, joined by value names.

A part is an ``nn.Module`` that takes its signature's inputs as positional tensors and returns its
outputs (one tensor, or a tuple in order). Values flow by name: a part runs as soon as the values it
names exist, so a dual encoder given text alone runs its text side alone. Teacher and student are
roles that a Model plays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from edgemm.runtime import chain
from edgemm.runtime.chain import BrokenChain, Placeholders
from edgemm.runtime.errors import ModelError
from edgemm.runtime.manifest import Role
from edgemm.runtime.outputs import Output, Values, recognised
from edgemm.runtime.readers import RawInput
from edgemm.runtime.signature import Signature


@dataclass(frozen=True)
class Part:
    """One separately compressed, separately exported piece of a model.

    Args:
        kind: key of the table in ``edgemm.models.part_kinds`` that rebuilds the module from ``config``.
        config: JSON-able keyword arguments of that kind.
    """

    name: str
    role: Role
    modality: str | None
    kind: str
    config: Mapping[str, object]
    signature: Signature
    module: nn.Module = field(compare=False)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the values that it takes, in the module's order."""
        return self.signature.input_names

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the values that it makes, in the module's order."""
        return self.signature.output_names

    def run(self, values: Mapping[str, Tensor], *, module: nn.Module | None = None) -> dict[str, Tensor]:
        """Return the outputs by name, from the values that the signature's inputs name.

        Args:
            values: at least every input.
            module: runs instead of the part's own (a copy prepared for inference).
        """
        made = (module or self.module)(*(values[name] for name in self.input_names))
        return dict(zip(self.output_names, made if isinstance(made, tuple) else (made,), strict=True))


def _recognised(parts: Iterable[Part], names: Iterable[str]) -> dict[str, Output]:
    """Return the kinds of outputs that nobody has typed; of a name that no part makes, values."""
    made = recognised(spec for part in parts for spec in part.signature.outputs)
    return {name: made.get(name, Values()) for name in names}


class Model(nn.Module):
    """Parts in chain order, the raw inputs they start from and the values they end in.

    Args:
        family: a name in ``edgemm.recipe.FAMILIES``, or another of one's own that is only exported.
        parts: in an order in which every input is a raw value or an earlier part's output.
        inputs: modality -> how its raw form becomes values.
        outputs: name of a value that the model is asked for -> what it means; or names alone, whose meanings are told
            by name and axes (``recognised``).
        placeholders: value -> (1, ...) that stands in for it where its modality is missing; learnt like a weight.

    Raises:
        ModelError: two parts of one name, a name that torch keeps for itself, or a part whose inputs nothing makes.
    """

    def __init__(
        self,
        family: str,
        parts: Iterable[Part],
        *,
        inputs: Mapping[str, RawInput],
        outputs: Mapping[str, Output] | Iterable[str],
        placeholders: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.family = family
        self.chain = tuple(parts)
        self.inputs = dict(inputs)
        self.outputs = dict(outputs) if isinstance(outputs, Mapping) else _recognised(self.chain, outputs)
        self.placeholders = nn.ParameterDict(dict(placeholders or {}))
        self.tokenizer_json: str | None = None  # content of tokenizer.json where a modality is text
        self.modules_by_part = nn.ModuleDict()
        for part in self.chain:
            try:
                self.modules_by_part[part.name] = part.module
            except KeyError as error:  # a dot, or what torch's modules and dictionaries have already: type, values ...
                raise ModelError(
                    f"part '{part.name}': torch takes no part of this name; rename it, or its modality"
                ) from error
        self._check_chain()

    def _check_chain(self) -> None:
        if len(self.modules_by_part) != len(self.chain):
            raise ModelError(f"model '{self.family}': two parts share a name: {[p.name for p in self.chain]}")
        try:
            made = chain.makers(self.chain, {name: m for m, raw in self.inputs.items() for name in raw.values})
        except BrokenChain as error:
            raise ModelError(f"part '{self.chain[error.part].name}': {error}") from error
        if missing := [n for n in (*self.outputs, *self.placeholders) if n not in made]:
            raise ModelError(f"model '{self.family}': no part makes its outputs {missing}")

    def part(self, name: str) -> Part:
        """Return the part of that name. Raises ModelError naming the ones there are."""
        for part in self.chain:
            if part.name == name:
                return part
        raise ModelError(f"no part '{name}'; this model has {[p.name for p in self.chain]}")

    def forward(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run every part whose inputs exist; return the given values and all that were made.

        A part whose outputs are all given already (cached teacher values) is not run again. A value that nothing makes
        is its placeholder, where it has one.
        """
        return chain.run_all(self.chain, values, Part.run, placeholders=self._stand_ins)

    def trace(
        self, values: Mapping[str, Tensor], run: Callable[[Part, Mapping[str, Tensor]], Mapping[str, Tensor]] = Part.run
    ) -> Iterator[tuple[Part, Mapping[str, Tensor], Mapping[str, Tensor]]]:
        """Run what ``forward`` runs, and yield (part, feeds, made) each time a part has run.

        Args:
            values: name -> (B, ...); the given ones.
            run: (part, feeds) -> made.
        """
        return chain.trace(self.chain, values, run, placeholders=self._stand_ins)

    @property
    def _stand_ins(self) -> Placeholders[Tensor]:
        return Placeholders(frozenset(self.placeholders), self._repeated)

    def _repeated(self, name: str, count: int) -> Tensor:
        placeholder: Tensor = self.placeholders[name]
        return placeholder.expand(count, *placeholder.shape[1:])


def raw_values(inputs: Mapping[str, RawInput]) -> tuple[str, ...]:
    """Return names of the values that the raw inputs feed."""
    return tuple(name for raw in inputs.values() for name in raw.values)
