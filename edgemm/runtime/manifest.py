"""Manifest: what a bundle's ``manifest.json`` says, as frozen dataclasses (specified in ``export/BUNDLE.md``).

A bundle is a chain of parts joined by value names: a part runs as soon as the values that its
signature names as inputs exist. ``targets`` say which file and engine carry each part.
Law: ``Manifest.from_json(m.to_json()) == m``. Reading is strict: a manifest is made by somebody else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from typing import Any, Literal, get_args

from edgemm.runtime.arithmetic import Arithmetic, arithmetic_from_json, precision_label
from edgemm.runtime.chain import BrokenChain, makers
from edgemm.runtime.engines import ENGINES, PORTABLE
from edgemm.runtime.errors import BundleCorrupt, BundleError
from edgemm.runtime.fields import Fields, check_number, check_string, parse_json, show
from edgemm.runtime.outputs import (
    JOINT,
    TASKS,
    Classes,
    Embedding,
    Quantity,
    Values,
    recognised,
)
from edgemm.runtime.paths import check_names, check_path

# whoever writes a manifest says what its inputs are
from edgemm.runtime.readers import AudioInput as AudioInput
from edgemm.runtime.readers import ImageInput as ImageInput
from edgemm.runtime.readers import RawInput, Taken, raw_from_json
from edgemm.runtime.readers import TensorInput as TensorInput
from edgemm.runtime.readers import TextInput as TextInput
from edgemm.runtime.signature import DimRange, Signature, TensorSpec
from edgemm.runtime.sizes import TOTAL_LIMIT

FORMAT = 2
MOST_THREADS = 64  # an engine starts as many for each part; five parts of 256 hung where addresses are limited to 6 GiB
LARGEST_LEAST = 2**26  # numbers that the smallest sample of a value may have: raw inputs are padded to it
RESERVED = ("top",)  # no name for a modality: predict(top=5, **modalities)

Role = Literal["frontend", "tower", "fusion", "head", "decoder"]
Precision = Literal["float32", "float16", "int8"]


@dataclass(frozen=True, slots=True)
class PartEntry:
    """One part of the chain. ``modality`` is None where several meet (fusion, head)."""

    name: str
    role: Role
    modality: str | None
    signature: Signature
    parameters: int

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the values that it takes."""
        return self.signature.input_names

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the values that it makes."""
        return self.signature.output_names


@dataclass(frozen=True, slots=True)
class TargetEntry:
    """One engine's files for the parts. ``fingerprint`` holds what a compiled plan needs to load.

    ``precision`` is what the target is; one that was asked to be int8 and has no int8 layer is float32. ``arithmetic``
    says of each part that was to be int8 what it became.

    Every part has a file. A frontend runs on onnxruntime in every target: preprocessing exists once, and engines
    disagree about it (OpenVINO 2026.4 ignores Resize's ``antialias``, TensorRT refuses uint8 images of any size).
    All other parts of a TensorRT target are compiled plans.
    """

    name: str
    engine: str
    precision: Precision
    files: Mapping[str, str]  # part name -> path inside the bundle
    threads: int = 0  # 0: the engine decides
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    arithmetic: Mapping[str, Arithmetic] = field(default_factory=dict)  # part name -> what it is computed in
    operators: tuple[str, ...] = ()  # out of the ordinary, that its graphs may have: see ``onnx_limits``

    @property
    def label(self) -> str:
        """The precision in words: ``"int8"``, ``"float32, int8 rolled back"``; see ``precision_label``."""
        return precision_label(self.precision, self.arithmetic.values())

    def engine_of(self, part: PartEntry) -> str:
        """Return the engine that runs one part."""
        return PORTABLE if part.role == "frontend" else self.engine


@dataclass(frozen=True, slots=True)
class ClassesEntry:
    """An output of scores of classes; ``labels`` is the path of a JSON list of their names. See ``outputs.Classes``."""

    labels: str | None = None
    independent: bool = False
    kind: Literal["classes"] = "classes"


OutputEntry = ClassesEntry | Quantity | Embedding | Values


@dataclass(frozen=True, slots=True)
class Gallery:
    """Embeddings to search with any output of their space: ``embeddings`` (N, D) float16 ``.npy``, N labels."""

    embeddings: str
    labels: str


@dataclass(frozen=True, slots=True)
class GoldenSample:
    """Raw inputs whose outputs are known: modality -> a file in the bundle, or a string for text."""

    inputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class GoldenOutputs:
    """Expected outputs of one target: an ``.npz`` holding ``<value>`` (samples, ...) and max_abs_error per value."""

    file: str
    max_abs_error: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Digest and size of one file of the bundle."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole bundle. ``targets[0]`` is the default target."""

    name: str
    family: str
    parts: tuple[PartEntry, ...]
    inputs: Mapping[str, RawInput]  # modality -> how its raw form becomes values
    outputs: Mapping[str, OutputEntry]  # name of a value -> what it means
    targets: tuple[TargetEntry, ...]
    placeholders: Mapping[str, str] = field(default_factory=dict)  # value -> .npy (1, ...) that stands in where missing
    galleries: Mapping[str, Gallery] = field(default_factory=dict)  # space of embeddings -> what is searched in it
    golden: tuple[GoldenSample, ...] = ()
    golden_outputs: Mapping[str, GoldenOutputs] = field(default_factory=dict)  # target name -> outputs
    measurements: str | None = None  # path of a JSONL of raw measurements
    provenance: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileEntry] = field(default_factory=dict)  # every file but manifest.json

    def part(self, name: str) -> PartEntry:
        """Return the part of that name. Raises BundleError naming the ones there are."""
        for part in self.parts:
            if part.name == name:
                return part
        raise BundleError(f"bundle '{self.name}': no part '{name}'; it has {[part.name for part in self.parts]}")

    @property
    def labels(self) -> dict[str, str]:
        """Output -> path of the names of its classes, for each that has some."""
        return {
            name: output.labels
            for name, output in self.outputs.items()
            if isinstance(output, ClassesEntry) and output.labels is not None
        }

    def target(self, name: str | None) -> TargetEntry:
        """Return the target of that name; None means the default one. Raises BundleError naming the ones there are."""
        for target in self.targets:
            if name is None or target.name == name:
                return target
        raise BundleError(f"bundle '{self.name}': no target '{name}'; it has {[t.name for t in self.targets]}")

    @property
    def taken(self) -> Taken:
        """Value -> how the first part that takes it has it, and the ranges of that part's named dimensions."""
        found: dict[str, tuple[TensorSpec, Mapping[str, DimRange]]] = {}
        for part in self.parts:
            for spec in part.signature.inputs:
                found.setdefault(spec.name, (spec, part.signature.dims))
        return found

    def referenced_files(self) -> Iterator[tuple[str, str]]:
        """(path, key that names it) of every file the manifest speaks of."""
        for i, target in enumerate(self.targets):
            for part, path in target.files.items():
                yield path, f"targets[{i}].files.{part}"
        for modality, raw in self.inputs.items():
            yield from ((path, f"inputs.{modality}.{key}") for key, path in raw.files.items())
        for name, path in self.labels.items():
            yield path, f"outputs.{name}.labels"
        for value, path in self.placeholders.items():
            yield path, f"placeholders.{value}"
        for space, gallery in self.galleries.items():
            yield gallery.embeddings, f"galleries.{space}.embeddings"
            yield gallery.labels, f"galleries.{space}.labels"
        for i, sample in enumerate(self.golden):
            for modality, path in sample.inputs.items():
                if not self.inputs[modality].inline:
                    yield path, f"golden[{i}].inputs.{modality}"
        for name, golden in self.golden_outputs.items():
            yield golden.file, f"golden_outputs.{name}.file"
        if self.measurements is not None:
            yield self.measurements, "measurements"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, in the order of the specification."""
        return {
            "format": FORMAT,
            "name": self.name,
            "family": self.family,
            "parts": [
                {
                    "name": part.name,
                    "role": part.role,
                    "modality": part.modality,
                    "parameters": part.parameters,
                    "signature": part.signature.to_json(),
                }
                for part in self.parts
            ],
            "inputs": {modality: raw.to_json() for modality, raw in self.inputs.items()},
            "outputs": {name: output_to_json(output) for name, output in self.outputs.items()},
            "targets": [
                {
                    "name": target.name,
                    "engine": target.engine,
                    "precision": target.precision,
                    "threads": target.threads,
                    "files": dict(target.files),
                    "fingerprint": dict(target.fingerprint),
                    **_arithmetic_to_json(target),
                    **({"operators": list(target.operators)} if target.operators else {}),
                }
                for target in self.targets
            ],
            "placeholders": dict(self.placeholders),
            "galleries": {
                space: {"embeddings": gallery.embeddings, "labels": gallery.labels}
                for space, gallery in self.galleries.items()
            },
            "golden": [{"inputs": dict(sample.inputs)} for sample in self.golden],
            "golden_outputs": {
                name: {"file": golden.file, "max_abs_error": dict(golden.max_abs_error)}
                for name, golden in self.golden_outputs.items()
            },
            "measurements": self.measurements,
            "provenance": dict(self.provenance),
            "files": {path: {"sha256": entry.sha256, "bytes": entry.bytes} for path, entry in self.files.items()},
        }

    def to_bytes(self) -> bytes:
        """``manifest.json`` as UTF-8, indented, one trailing newline."""
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        return text.encode("utf-8", "backslashreplace")  # half a character, which no UTF-8 has, as JSON writes it

    @classmethod
    def from_bytes(cls, data: bytes, *, file: str = "manifest.json") -> Manifest:
        """Law: ``Manifest.from_bytes(m.to_bytes()) == m``. Raises BundleError, also where it is not JSON."""
        return cls.from_json(parse_json(data, file=file), file=file)

    @classmethod
    def from_json(cls, value: object, *, file: str = "manifest.json") -> Manifest:
        """Read and check a parsed manifest, of this format or an earlier one; what comes back is of this one.

        Args:
            value: what ``json.loads`` gave.
            file: for messages.

        Raises:
            BundleError: naming file and key, on a wrong type, a missing or an unknown key, a format version that
                this edgemm does not read, or a chain, target, golden sample or label that does not fit the rest.
        """
        fields = Fields(value, file)
        version = fields.integer("format", minimum=1)
        if version > FORMAT:
            raise BundleError(
                f"{file}: format: got version {version}, expected at most {FORMAT}; this bundle needs a newer edgemm"
            )
        parts = tuple(_part(part) for part in fields.objects("parts"))
        outputs, galleries = _outputs_of_format_1(fields, parts) if version == 1 else _outputs(fields)
        manifest = cls(
            name=fields.string("name"),
            family=fields.string("family"),
            parts=parts,
            inputs={name: raw_from_json(raw, where=where) for name, raw, where in fields.mapping("inputs")},
            outputs=outputs,
            targets=tuple(_target(target) for target in fields.objects("targets")),
            placeholders={
                name: check_path(check_string(path, where), where)
                for name, path, where in fields.mapping("placeholders", {})
            },
            galleries=galleries,
            golden=tuple(_golden(sample) for sample in fields.objects("golden", [])),
            golden_outputs={
                name: _golden_outputs(Fields(raw, where)) for name, raw, where in fields.mapping("golden_outputs", {})
            },
            measurements=_optional_path(fields, "measurements"),
            provenance={name: item for name, item, _ in fields.mapping("provenance", {})},
            files={
                check_path(path, f"{file}: files"): _file(Fields(raw, where))
                for path, raw, where in fields.mapping("files", {})
            },
        )
        fields.done()
        _check_files(manifest, file)
        _check_chain(manifest, file)
        _check_values(manifest, file)
        _check_inputs(manifest, file)
        _check_targets(manifest, file)
        _check_golden(manifest, file)
        return manifest


def _arithmetic_to_json(target: TargetEntry) -> dict[str, Any]:
    """Return the key ``arithmetic`` where there is any: a bundle without stays readable for readers from before."""
    said = {part: known.to_json() for part, known in target.arithmetic.items()}
    return {"arithmetic": said} if said else {}


def _path(fields: Fields, key: str) -> str:
    return check_path(fields.string(key), fields.path(key))


def _optional_path(fields: Fields, key: str) -> str | None:
    value = fields.optional_string(key)
    return None if value is None else check_path(value, fields.path(key))


def _part(fields: Fields) -> PartEntry:
    part = PartEntry(
        name=fields.string("name"),
        role=fields.choice("role", get_args(Role)),
        modality=fields.optional_string("modality"),
        signature=Signature.from_json(fields.take("signature"), where=fields.path("signature")),
        parameters=fields.integer("parameters"),
    )
    fields.done()
    return part


def _target(fields: Fields) -> TargetEntry:
    target = TargetEntry(
        name=fields.string("name"),
        engine=fields.choice("engine", tuple(ENGINES)),
        precision=fields.choice("precision", get_args(Precision)),
        files={part: check_path(check_string(path, where), where) for part, path, where in fields.mapping("files")},
        threads=fields.integer("threads", 0, maximum=MOST_THREADS),
        fingerprint=fields.string_map("fingerprint", {}),
        arithmetic={
            part: arithmetic_from_json(known, where=where) for part, known, where in fields.mapping("arithmetic", {})
        },
        operators=fields.strings("operators", ()),
    )
    fields.done()
    return target


def output_to_json(output: OutputEntry) -> dict[str, Any]:
    """Law: ``output_from_json(output_to_json(o)) == o``."""
    return {"kind": output.kind} | {
        field.name: getattr(output, field.name) for field in dataclass_fields(output) if field.name != "kind"
    }


def output_from_json(value: object, *, where: str = "outputs") -> OutputEntry:
    """Read what one output means. Raises BundleError naming ``where`` and the key."""
    fields = Fields(value, where)
    output = _OUTPUTS[fields.choice("kind", tuple(_OUTPUTS))](fields)
    fields.done()
    return output


def _classes(fields: Fields) -> ClassesEntry:
    return ClassesEntry(_optional_path(fields, "labels"), fields.boolean("independent", default=False))


def _quantity(fields: Fields) -> Quantity:
    mean, spread = (fields.number(key, default) for key, default in (("mean", 0.0), ("spread", 1.0)))
    if spread <= 0:
        raise BundleError(f"{fields.path('spread')}: got {spread}, expected more than 0")
    return Quantity(mean, spread)


_OUTPUTS: Mapping[str, Callable[[Fields], OutputEntry]] = {
    "classes": _classes,
    "quantity": _quantity,
    "embedding": lambda fields: Embedding(fields.string("space", JOINT)),
    "values": lambda _: Values(),
}


def _outputs(fields: Fields) -> tuple[dict[str, OutputEntry], dict[str, Gallery]]:
    """Return what the outputs mean, and what is searched by those that are embeddings."""
    outputs = {name: output_from_json(raw, where=where) for name, raw, where in fields.mapping("outputs")}
    spaces = {output.space for output in outputs.values() if isinstance(output, Embedding)}
    galleries: dict[str, Gallery] = {}
    for space, raw, where in fields.mapping("galleries", {}):
        if outputs and space not in spaces:
            raise BundleError(f"{where}: no output is an embedding of this space; expected one of {sorted(spaces)}")
        galleries[space] = _gallery(Fields(raw, where))
    return outputs, galleries


def _outputs_of_format_1(
    fields: Fields, parts: Sequence[PartEntry]
) -> tuple[dict[str, OutputEntry], dict[str, Gallery]]:
    """The same of a manifest of format 1, which had names of outputs, one list of labels, one task and one gallery."""
    names = fields.strings("outputs")
    labels = _optional_path(fields, "labels")
    task = fields.optional_string("task")
    if task is not None and task not in TASKS:
        raise BundleError(f"{fields.path('task')}: got '{task}', expected null or one of {', '.join(TASKS)}")
    searched = fields.take("gallery", None)
    gallery = None if searched is None else _gallery(Fields(searched, fields.path("gallery")))
    specs = {spec.name: spec for part in parts for spec in part.signature.outputs}
    kinds = recognised(specs.values(), task=task)
    outputs: dict[str, OutputEntry] = {}
    for name in names:
        kind = kinds.get(name, Values())  # of a name that no part makes, which is refused later
        outputs[name] = ClassesEntry(labels, kind.independent) if isinstance(kind, Classes) else kind
    spaces = {output.space for output in outputs.values() if isinstance(output, Embedding)}
    return outputs, {space: gallery for space in spaces if gallery is not None}


def _gallery(fields: Fields) -> Gallery:
    gallery = Gallery(embeddings=_path(fields, "embeddings"), labels=_path(fields, "labels"))
    fields.done()
    return gallery


def _golden(fields: Fields) -> GoldenSample:
    # Texts are content, not paths: any character may stand in them; paths are checked where modalities are known.
    inputs: dict[str, str] = {}
    for modality, value, where in fields.mapping("inputs"):
        if not isinstance(value, str) or not value:
            raise BundleError(f"{where}: got {show(value)}, expected a non-empty string")
        inputs[modality] = value
    fields.done()
    return GoldenSample(inputs)


def _golden_outputs(fields: Fields) -> GoldenOutputs:
    golden = GoldenOutputs(
        file=_path(fields, "file"),
        max_abs_error={name: check_number(v, where) for name, v, where in fields.mapping("max_abs_error")},
    )
    fields.done()
    return golden


def _file(fields: Fields) -> FileEntry:
    entry = FileEntry(sha256=fields.string("sha256"), bytes=fields.integer("bytes"))
    if len(entry.sha256) != 64 or not set(entry.sha256) <= set("0123456789abcdef"):
        raise BundleError(f"{fields.path('sha256')}: got {show(entry.sha256)}, expected 64 lower-case hex digits")
    fields.done()
    return entry


def _check_files(manifest: Manifest, file: str) -> None:
    """Names that differ on every file system, and a sum of sizes that a bundle may have."""
    check_names(manifest.files, f"{file}: files")
    total = sum(entry.bytes for entry in manifest.files.values())
    if total > TOTAL_LIMIT:
        raise BundleCorrupt(f"{file}: files: {total} bytes together, expected at most {TOTAL_LIMIT}")


def _check_values(manifest: Manifest, file: str) -> None:
    """Every value has an axis of samples, a smallest sample that memory can hold, and one dtype and rank."""
    known: dict[str, TensorSpec] = {}
    for i, part in enumerate(manifest.parts):
        for key, specs in (("inputs", part.signature.inputs), ("outputs", part.signature.outputs)):
            for spec in specs:
                where = f"{file}: parts[{i}].signature.{key} ('{spec.name}')"
                if not spec.shape:
                    raise BundleError(f"{where}: got no axes, expected at least one, of samples")
                least = math.prod(part.signature.least(dim) for dim in spec.shape[1:])
                if least > LARGEST_LEAST:
                    raise BundleError(
                        f"{where}: its smallest sample has {least} numbers, expected at most {LARGEST_LEAST}"
                    )
                other = known.setdefault(spec.name, spec)
                if (spec.dtype, len(spec.shape)) != (other.dtype, len(other.shape)):
                    raise BundleError(
                        f"{where}: got {spec.dtype} {list(spec.shape)}, expected {other.dtype} {list(other.shape)} as "
                        "another part has it"
                    )


def _check_inputs(manifest: Manifest, file: str) -> None:
    """A part takes what each raw input becomes, and takes it as what it is."""
    taken = {spec.name: (spec, part.signature) for part in manifest.parts for spec in part.signature.inputs}
    for modality, raw in manifest.inputs.items():
        where = f"{file}: inputs.{modality}"
        if modality in RESERVED:
            raise BundleError(f"{where}: a name that 'predict' takes for itself; expected another")
        feeds = raw.values
        if feeds[0] not in taken:
            raise BundleError(f"{where}: no part takes its value '{feeds[0]}'")
        for value in feeds:
            if value in taken:  # else a mask: many text towers do without
                raw.check(*taken[value], where=where)


def _check_chain(manifest: Manifest, file: str) -> None:
    """Every part's inputs are raw values or made by an earlier part; no value is made twice, so there is no loop."""
    given: dict[str, str] = {}
    for modality, raw in manifest.inputs.items():
        for value in raw.values:
            if value in given:
                raise BundleError(f"{file}: inputs.{modality}: value '{value}' is already made by {given[value]}")
            given[value] = f"inputs.{modality}"
    if not manifest.parts:
        raise BundleError(f"{file}: parts: got none, expected at least one")
    names: set[str] = set()
    for i, part in enumerate(manifest.parts):
        if part.name in names:
            raise BundleError(f"{file}: parts[{i}].name: '{part.name}' is given twice")
        names.add(part.name)
    try:
        made = makers(manifest.parts, given)
    except BrokenChain as error:
        raise BundleError(f"{file}: parts[{error.part}] ('{manifest.parts[error.part].name}'): {error}") from error
    for value in manifest.placeholders:
        if not made.get(value, "").startswith("part "):
            raise BundleError(f"{file}: placeholders.{value}: no part makes it; values known: {sorted(made)}")
    if not manifest.outputs:
        raise BundleError(f"{file}: outputs: got none, expected at least one value that a part makes")
    for name in manifest.outputs:
        if not made.get(name, "").startswith("part "):
            raise BundleError(f"{file}: outputs: no part makes '{name}'; values known: {sorted(made)}")


def _check_targets(manifest: Manifest, file: str) -> None:
    """At least one target; names differ; each has one file per part and none for a part that is not there."""
    if not manifest.targets:
        raise BundleError(f"{file}: targets: got none, expected at least one")
    parts = [part.name for part in manifest.parts]
    names: set[str] = set()
    for i, target in enumerate(manifest.targets):
        if target.name in names:
            raise BundleError(f"{file}: targets[{i}].name: '{target.name}' is given twice")
        names.add(target.name)
        for name in parts:
            if name not in target.files:
                raise BundleError(f"{file}: targets[{i}].files: target '{target.name}' has no file for part '{name}'")
        for name in target.files:
            if name not in parts:
                raise BundleError(f"{file}: targets[{i}].files.{name}: no such part; expected {parts}")
        for name in target.arithmetic:
            if name not in parts:
                raise BundleError(f"{file}: targets[{i}].arithmetic.{name}: no such part; expected {parts}")


def _check_golden(manifest: Manifest, file: str) -> None:
    """Golden samples name known modalities; golden outputs name known targets and outputs; paths are safe."""
    for i, sample in enumerate(manifest.golden):
        where = f"{file}: golden[{i}].inputs"
        if not sample.inputs:
            raise BundleError(f"{where}: got none, expected at least one modality of {list(manifest.inputs)}")
        for modality, value in sample.inputs.items():
            if modality not in manifest.inputs:
                raise BundleError(f"{where}.{modality}: no such modality; expected one of {list(manifest.inputs)}")
            if not manifest.inputs[modality].inline:
                check_path(value, f"{where}.{modality}")
    targets = [target.name for target in manifest.targets]
    for name, golden in manifest.golden_outputs.items():
        if name not in targets:
            raise BundleError(f"{file}: golden_outputs.{name}: no such target; expected one of {targets}")
        for value in golden.max_abs_error:
            if value not in manifest.outputs:
                raise BundleError(
                    f"{file}: golden_outputs.{name}.max_abs_error.{value}: no such output; "
                    f"expected one of {list(manifest.outputs)}"
                )
