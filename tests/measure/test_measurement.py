"""Raw measurements survive the disk, and what is not a record is refused with its line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edgemm.measure.measurement import (
    Environment,
    Measurement,
    bytes_digest,
    read_measurements,
    write_measurements,
)
from edgemm.runtime.errors import DataError

HERE = Environment({"cpu": "a <script> & ü", "threads": 2})
LATENCY = Measurement(
    "latency", "teacher", "cpu-float32", "ab" * 32, "end to end", "ms", (1.25, 0.1 + 0.2), HERE.digest
)
ANSWERS = Measurement(
    "answers", "teacher", "cpu-float32", "ab" * 32, "test: answer", "class", (0.0, -1.0), HERE.digest,
    {"truth": [0, 3], "groups": ["open", None]},
)  # fmt: skip


def test_what_is_written_is_read_back_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_measurements(path, [LATENCY, ANSWERS], environments=[HERE, HERE])
    back = read_measurements(path)
    assert back.measurements == (LATENCY, ANSWERS)
    assert dict(back.environments) == {HERE.digest: HERE}
    assert len(path.read_text().splitlines()) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]


def test_a_measurement_without_its_environment_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="environment is not among"):
        write_measurements(tmp_path / "m.jsonl", [LATENCY], environments=[])
    with pytest.raises(ValueError, match="not finite"):
        write_measurements(
            tmp_path / "m.jsonl", [dataclasses.replace(LATENCY, samples=(float("nan"),))], environments=[HERE]
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "line",
    ["not json", "[]", '{"record":"other"}', '{"record":"measurement"}', '{"record":"environment"}', '"text"'],
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "m.jsonl"
    write_measurements(path, [LATENCY], environments=[HERE])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=r"m\.jsonl, line 3: not a measurement record"):
        read_measurements(path)


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_measurements(tmp_path / "none.jsonl")


def test_accuracy_is_found_by_the_bytes_it_was_measured_on(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_measurements(path, [LATENCY, ANSWERS], environments=[HERE])
    back = read_measurements(path)
    assert back.has_accuracy("ab" * 32)
    assert not back.has_accuracy("cd" * 32)
    assert back.of("latency", variant="teacher", subject="end to end") == (LATENCY,)
    assert back.of("latency", target="other") == ()


def test_the_digest_depends_on_the_engine_and_on_every_file() -> None:
    one = bytes_digest("onnxruntime", {"a": "1"})
    assert one != bytes_digest("openvino", {"a": "1"})
    assert one != bytes_digest("onnxruntime", {"a": "2"})
    assert bytes_digest("onnxruntime", {"a": "1", "b": "2"}) == bytes_digest("onnxruntime", {"b": "2", "a": "1"})
