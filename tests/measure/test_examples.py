"""Examples: kept and read back, with pictures and sounds small enough for a page, of what may be shown."""

from __future__ import annotations

import io
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from family_bundles import embedder, faces, joint, said_by_three
from PIL import Image

from edgemm.measure import accuracy
from edgemm.measure.drawn_examples import Shown, shown_examples
from edgemm.measure.examples import RATE, Answer, Example, Hit, media, read_examples, wav, write_examples
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.errors import DataError


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    hits = (Hit(b"\x89PNG\xff", "ein Käfer", True), Hit(b"", "b", False))
    answers = (Answer("teacher", "c", True, "of 3", hits, b"RIFF\x00"), Answer("int8", "", False))
    examples = (Example("truth", answers, "text", b"\x89", b"RI", "note"), Example("", ()))
    write_examples(tmp_path, examples)
    assert read_examples(tmp_path) == examples
    assert [p.name for p in tmp_path.iterdir()] == ["examples.json"]


@pytest.mark.parametrize(
    "text", ["{", "[1]", '[{"truth": "x"}]', '[{"truth": "", "answers": [], "picture": "no base64", "sound": ""}]']
)
def test_what_is_no_list_of_examples_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "examples.json").write_text(text)
    with pytest.raises(DataError, match=r"examples\.json: not a list of examples"):
        read_examples(tmp_path)


def test_a_sound_is_the_samples_as_wav() -> None:
    samples = np.sin(np.arange(8000) / 5).astype(np.float32)
    with wave.open(io.BytesIO(wav(samples))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (RATE, 1, 8000)
        got = np.frombuffer(file.readframes(8000), "<i2") / 32767
    np.testing.assert_allclose(got, samples, atol=1 / 32767)


def test_a_sample_is_shown_small_and_a_long_sound_cut(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.flac", np.zeros(3 * 44_100), 44_100)
    Image.new("RGB", (2000, 1000)).save(tmp_path / "large.png")
    raws = {"text": "a", "image": tmp_path / "large.png", "audio": tmp_path / "long.flac", "sensor": tmp_path / "x.npy"}
    shown = media(raws, seconds=2)
    assert set(shown) == {"text", "picture", "sound", "note"}
    assert Image.open(io.BytesIO(shown["picture"])).size == (320, 160)
    assert len(shown["sound"]) == pytest.approx(2 * 2 * RATE, abs=100)
    assert shown["note"] == "the first 2 s of it"
    assert "note" not in media(raws, seconds=3)


def test_the_nearest_other_is_one_that_may_be_shown(tmp_path: Path) -> None:
    people = [replace(s, group="open" if i % 4 < 2 else "closed") for i, s in enumerate(faces(tmp_path / "faces"))]
    found = accuracy.score(Bundle.open(embedder(tmp_path / "a")), "t", people, examples=50, shown_groups=("open",))
    (kept,) = [s.examples for s in found if s.examples]
    open_ = {str(s.image): s.label for s in people if s.group == "open"}
    assert [k["query"] for k in kept] == list(open_)  # each has one more of its own that may be shown
    for each in kept:
        items = [h["item"] for h in each["hits"]]
        assert len(set(items)) == 5
        assert set(items) <= set(open_) - {each["query"]}
        assert [h["right"] for h in each["hits"]] == [open_[item] == each["label"] for item in items]


def test_a_classifiers_examples_show_what_it_takes(tmp_path: Path) -> None:
    samples = said_by_three(tmp_path)
    path = joint(tmp_path / "a")
    scored = accuracy.score(Bundle.open(path), "t", samples)
    (example, *others) = shown_examples([Shown("teacher", path, scored)], samples, count=3)
    assert len(others) == 2
    assert example.text == example.truth == example.answers[0].said
    assert example.picture
    assert example.answers[0].right
