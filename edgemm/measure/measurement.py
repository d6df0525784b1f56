"""Measurement: raw samples, what they were taken of (sha256), and where; summaries are derived, never stored alone.

A measurements file is JSON lines. A line is either an environment (``"record": "environment"``) or one measurement
(``"record": "measurement"``) that names its environment by digest, so that a file can be cut, joined with another
machine's and read again without losing where a figure came from.
Law: ``read_measurements(write_measurements(m)) == m``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from edgemm.runtime.disk import replacing
from edgemm.runtime.errors import DataError
from edgemm.runtime.fields import json_value

Task = Literal["ranks", "answers", "probabilities", "values", "similarities"]
Kind = Literal["latency", "cold-start", "peak-memory", "size", "blame", Task]
TASKS: tuple[Task, ...] = get_args(Task)
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Environment:
    """Where measurements were taken: CPU, flags, threads, governor, load, versions. JSON values only."""

    facts: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON of the facts."""
        return hashlib.sha256(_canonical(self.facts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Measurement:
    """Raw samples of one subject of one variant on one target.

    Args:
        kind: what the samples are: ``latency``/``cold-start`` (ns), ``peak-memory``/``size`` (bytes), ``ranks`` (of the
            best positive, 1 is best), ``answers`` (predicted class index), ``probabilities`` (of every class),
            ``values`` (predicted), ``similarities`` (cosine of each pair), ``blame`` (one of these five, with one part
            put back to float32).
        variant: name in the table (``"teacher"``, ``"student"``).
        target: name of the bundle's target.
        sha256: digest of the bytes that were measured (``bytes_digest``). Latency and accuracy meet through it.
        subject: ``"end to end"``, a part's name, ``"open"``, or ``"<split>: <task>"``.
        samples: the raw values, in the order taken.
        environment: digest of the environment.
        details: what the samples need to be read again: truth, groups and clusters of answers, files of a size.
    """

    kind: Kind
    variant: str
    target: str
    sha256: str
    subject: str
    unit: str
    samples: tuple[float, ...]
    environment: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measurements:
    """A file of measurements: the environments by digest, and the measurements in the order taken."""

    environments: Mapping[str, Environment]
    measurements: tuple[Measurement, ...]

    def of(
        self, kind: Kind, *, variant: str | None = None, target: str | None = None, subject: str | None = None
    ) -> tuple[Measurement, ...]:
        """Return the measurements of that kind; None matches all."""
        return tuple(
            m
            for m in self.measurements
            if m.kind == kind
            and variant in (None, m.variant)
            and target in (None, m.target)
            and subject in (None, m.subject)
        )

    def has_accuracy(self, sha256: str) -> bool:
        """Return whether these very bytes were scored; latency may only be shown where they were."""
        return any(m.sha256 == sha256 and m.kind in TASKS for m in self.measurements)


def write_measurements(path: Path, measurements: Iterable[Measurement], *, environments: Iterable[Environment]) -> None:
    """Write JSON lines, environments first; atomic (a file in place is replaced whole or not at all).

    Raises:
        ValueError: a measurement whose environment is not among those given, or a sample that is not finite.
    """
    known = {environment.digest: environment for environment in environments}
    lines = [_canonical({"record": "environment", "facts": dict(e.facts)}) for e in known.values()]
    for m in measurements:
        if m.environment not in known:
            raise ValueError(f"measurement of '{m.variant}' {m.subject}: its environment is not among those given")
        if not all(math.isfinite(x) for x in m.samples):
            raise ValueError(f"measurement of '{m.variant}' {m.subject}: a sample is not finite")
        lines.append(_canonical({"record": "measurement", **asdict(m)}))
    with replacing(path) as partial:
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_measurements(path: Path) -> Measurements:
    """Read what ``write_measurements`` wrote.

    Raises:
        DataError: the file is missing, or a line is not a record; the message gives file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: measurements cannot be read ({error})") from error
    environments: dict[str, Environment] = {}
    measurements: list[Measurement] = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            record = json_value(line)
            match record.pop("record"):
                case "environment":
                    environment = Environment(record["facts"])
                    environments[environment.digest] = environment
                case "measurement":
                    record["samples"] = tuple(float(x) for x in record["samples"])
                    measurement = Measurement(**record)
                    if measurement.kind not in KINDS:
                        raise ValueError(f"kind '{measurement.kind}'; expected one of {', '.join(KINDS)}")
                    measurements.append(measurement)
                case other:
                    raise ValueError(f"record '{other}'; expected 'environment' or 'measurement'")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{path}, line {number}: not a measurement record ({error})") from error
    return Measurements(environments, tuple(measurements))


def bytes_digest(engine: str, files: Mapping[str, str]) -> str:
    """Return digest of what one target runs: the engine, and path → sha256 of every file that takes part.

    Two targets that read the same ONNX on different engines differ here, as their numbers may.
    """
    return hashlib.sha256(_canonical({"engine": engine, "files": dict(files)}).encode()).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
