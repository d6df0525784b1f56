"""What the page says of classes: the most frequent apart, the rest as one, and data never as markup."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from invented_report import HOSTILE, invented, make_report

from edgemm.measure.table import rows
from edgemm.report import evidence, figures


def test_rare_classes_are_joined_into_one() -> None:
    classes = evidence.CONFUSED + 5
    counts = np.diag(np.arange(classes, 0, -1))
    counts[0, classes - 1] = counts[classes - 1, 1] = 3  # the most frequent class taken for the rarest, and back
    joined, labels = evidence._most_frequent(counts, [str(c) for c in range(classes)])
    assert labels[-1] == "5 others"
    assert joined.sum() == counts.sum()
    shown = [int(label) for label in labels[:-1]]
    rest = [c for c in range(classes) if c not in shown]
    np.testing.assert_array_equal(joined[:-1, :-1], counts[np.ix_(shown, shown)])
    assert joined[-1, -1] == counts[np.ix_(rest, rest)].sum()


def test_classes_that_never_occur_are_left_out() -> None:
    counts = np.zeros((500, 500), np.int64)
    counts[3, 3], counts[3, 9] = 4, 1
    joined, labels = evidence._most_frequent(counts, [str(c) for c in range(500)])
    assert labels == ["3", "9"]
    assert joined.tolist() == [[4, 1], [0, 0]]


def test_the_table_of_classes_counts_as_by_hand(tmp_path: Path) -> None:
    found = invented("answers")
    (block,) = evidence.class_tables(rows(found, resamples=20), found)
    assert block["header"][:3] == ["class", "samples", "precision, teacher"]
    m = found.of("answers")[0]
    truth, given = np.array(m.details["truth"]), np.array(m.samples)
    first = next(line for line in block["rows"] if line[0]["main"] == HOSTILE)
    assert first[1]["main"] == str((truth == 0).sum())
    assert first[3]["main"] == f"{100 * (given[truth == 0] == 0).mean():.1f} %"
    page = make_report(tmp_path, "answers").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "Confusion of 4 classes" in page


def test_samples_of_classes_that_no_model_was_taught_are_counted(tmp_path: Path) -> None:
    found = invented("answers")
    known = found.of("answers")[0].details["truth"]
    unknown = [-1, -1, *known[2:]]
    changed = [
        replace(m, details={**m.details, "truth": unknown}) if m.kind == "answers" else m for m in found.measurements
    ]
    lacking = replace(found, measurements=tuple(changed))
    said = f"2 of {len(known)} samples are of classes that the model was not taught: they count as wrong above."
    for made in (evidence.class_tables, evidence.confusions):
        assert [block["note"] for block in made(rows(lacking, resamples=20), lacking)] == [said]
        assert [block["note"] for block in made(rows(found, resamples=20), found)] == [""]


def test_a_curve_of_many_thresholds_is_thinned_and_keeps_its_ends() -> None:
    far = np.linspace(0, 1, 20_001)
    shown = figures._few(far)
    assert len(shown) <= 600
    assert (shown[0], shown[-1]) == (0, 20_000)
    assert (far[shown] <= 1e-3).sum() > 15  # the strict end, where a curve is read
