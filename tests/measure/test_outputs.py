"""A bundle that answers with several outputs is measured by each of them."""

from dataclasses import replace
from pathlib import Path

import bundles
import numpy as np
import pytest

from edgemm.data.dataset import Sample
from edgemm.measure import accuracy
from edgemm.measure.scores import statistics
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.errors import DataError


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    bundles.every_output(tmp_path / "bundle", targets=("cpu",))
    return Bundle.open(tmp_path / "bundle")


def asked(folder: Path) -> list[Sample]:
    samples = []
    for i, text in enumerate(["a cat", "red house", "blue sky", "what is this ?"]):
        picture = folder / f"{i}.png"
        picture.write_bytes(bundles.png(i))
        samples.append(Sample(str(i), image=picture, text=text, label="yes", labels=("no", "blue"), value=float(i)))
    return samples


def test_each_answer_is_scored_against_the_column_of_its_kind(bundle: Bundle, tmp_path: Path) -> None:
    samples = asked(tmp_path)
    found = {s.task: s for s in accuracy.score(bundle, "test", samples)}
    kinds = {task: found[task].kind for task in ("answers", "subjects", "amount")}
    assert kinds == {"answers": "answers", "subjects": "probabilities", "amount": "values"}
    made = [bundle.predict(image=s.image, text=s.text).outputs for s in samples]
    assert found["answers"].samples == tuple(float(one["answer"].argmax()) for one in made)
    np.testing.assert_allclose(found["amount"].samples, [one["amount"][0, 0] for one in made], rtol=1e-4)
    assert found["amount"].details["truth"] == [0, 1, 2, 3]
    assert found["subjects"].details["truth"] == [[1, 3]] * 4
    assert "MAE" in statistics(found["amount"])
    assert "micro F1" in statistics(found["subjects"])


def test_an_answer_whose_column_is_empty_is_named(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no sample has a value"):
        accuracy.score(bundle, "test", [replace(s, value=None) for s in asked(tmp_path)])


def test_predict_names_each_output_that_has_names(bundle: Bundle, tmp_path: Path) -> None:
    (sample, *_) = asked(tmp_path)
    made = bundle.predict(image=sample.image, text=sample.text)
    assert made.named == ("answer", "subjects", "image_embedding", "text_embedding")
    assert sum(p for _, p in made.matches_of("answer")[0]) == pytest.approx(1)  # one of all
    subjects = dict(made.matches_of("subjects")[0])
    logits = dict(zip(bundles.LABELS, made.outputs["subjects"][0], strict=True))
    assert subjects == pytest.approx({name: 1 / (1 + np.exp(-x)) for name, x in logits.items()}, abs=1e-6)
    assert made.matches_of("image_embedding")[0][0] == ("entry 0", pytest.approx(1, abs=1e-3))
