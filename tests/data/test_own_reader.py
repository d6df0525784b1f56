"""A reader of one's own: what it is given, what it may give back, and how whatever is wrong with it is told."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgemm.data import Dataset, open_dataset
from edgemm.pipeline.key_inputs import portable
from edgemm.pipeline.own_code import load_with_code
from edgemm.recipe import DataConfig
from edgemm.runtime.errors import DataError
from tests.data.media import png, write

HEAD = """
from __future__ import annotations
from pathlib import Path
from typing import Literal
from edgemm.data import Dataset, Pair, Sample, from_splits
from edgemm.recipe import DataConfig

PAIR = [Sample("a", text="one", label="x", group="g"), Sample("b", text="two", label="y")]
"""

Open = Callable[..., Dataset]


@pytest.fixture
def open_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens the data of a reader whose body, or whole definition, is given."""
    monkeypatch.syspath_prepend(tmp_path)
    names: list[str] = []

    def open_(code: str, **fields: object) -> Dataset:
        names.append(name := f"reader_number_{len(names)}")
        code = code if code.lstrip().startswith("def ") else f"def read(config):\n    {code}"
        (tmp_path / f"{name}.py").write_text(f"{HEAD}\n\n{code}\n")
        config = DataConfig.model_validate({"kind": f"python:{name}:read", **fields})
        return open_dataset(config, cache=tmp_path / "cache", recipe=tmp_path / "recipe.toml")

    yield open_
    for name in names:
        sys.modules.pop(name, None)


def test_what_a_reader_returns_is_the_data(open_with: Open, tmp_path: Path) -> None:
    write(tmp_path / "a.png", png())
    data = open_with(
        """def read(config):
    pictures = [Sample("a", image=Path(config.root) / "a.png", label="x")]
    return from_splits({"train": PAIR, "test": pictures})""",
        root=str(tmp_path),
    )
    assert ({name: len(samples) for name, samples in data.splits.items()}, data.labels) == (
        {"train": 2, "test": 1},
        ("x", "y"),
    )
    assert data.checksums[tmp_path / "a.png"]


def test_a_reader_is_given_what_it_names(open_with: Open, tmp_path: Path) -> None:
    data = open_with("""def read(config, *, progress, cache: Path):
    cache.mkdir()
    (cache / "made.txt").write_text("three")
    with progress.task("reading", total=1) as task:
        task.advance()
    return from_splits({"train": [*PAIR, Sample("c", text=(cache / "made.txt").read_text(), label="x")]})""")
    assert [sample.text for sample in data.split("train")] == ["one", "two", "three"]
    assert (tmp_path / "cache" / "made.txt").is_file()


def test_samples_that_a_reader_leaves_out_count_as_those_of_any_other(open_with: Open) -> None:
    code = """def read(config, broken):
    broken.add("the third is no sample")
    return from_splits({"train": PAIR})"""
    with pytest.raises(DataError, match="the third is no sample; mend it, or raise"):
        open_with(code)
    assert open_with(code, max_broken=1).broken == ("the third is no sample",)


OPTIONS = """def read(config, *, size: int, tone: Literal["low", "high"] = "low", languages: tuple[str, ...] = ()):
    assert isinstance(languages, tuple)
    return from_splits({"train": [Sample("a", text=f"{size} {tone} {languages}", label="x"), *PAIR[1:]]})"""


def test_options_are_the_readers_parameters(open_with: Open) -> None:
    data = open_with(OPTIONS, options={"size": 3, "languages": ["es", "fr"]})
    assert data.split("train")[0].text == "3 low ('es', 'fr')"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"data\.options\.size: missing, and needed"),
        ({"size": "3"}, r'data\.options\.size: expected an integer, got "3"'),
        ({"size": 1.5}, r"data\.options\.size: expected an integer, got 1\.5"),
        ({"size": 1, "siez": 2}, r"data\.options\.siez: the reader has no such parameter; did you mean 'size'\?"),
        (
            {"size": 1, "tone": "lwo"},
            r"data\.options\.tone: expected one of low, high, got 'lwo'; did you mean 'low'\?",
        ),
        ({"size": 1, "languages": ["es", 3]}, r"data\.options\.languages\.1: expected a text, got 3"),
    ],
)
def test_an_option_is_held_to_its_type_as_any_key_is(open_with: Open, options: object, message: str) -> None:
    with pytest.raises(DataError, match=rf"recipe\.toml: data\.kind 'python:.*:read': {message}") as told:
        open_with(OPTIONS, options=options)
    assert "\n" not in str(told.value)


def test_edgemms_own_readers_take_no_options(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.options: for a reader of your own; kind 'folder' takes none"):
        open_dataset(DataConfig(kind="folder", root=str(tmp_path), options={"a": 1}), cache=tmp_path)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("return [1]", r"returned list, expected an edgemm\.data\.Dataset"),
        ("return {}['x']", r"the reader failed with KeyError: 'x' \(.*_0\.py, line 12\); mend it there, or what it"),
        ("raise DataError('gone')", r"failed with NameError: name 'DataError' is not defined"),
        ("def read():\n    pass", r"can't take a data section \(not enough values"),
        ("def read(*, config):\n    pass", r"its first parameter is 'config', expected one that takes the"),
        ("def read(config, x: Nowhere):\n    pass", r"can't take a data section \(name 'Nowhere' is not defined\)"),
        ("def reader(config):\n    pass", r"can't import '.*:read' .*has no attribute 'read'.*, or beside the recipe"),
        ("return from_splits({'train': []})", r"returned splits 'train'; expected some samples in 'train'"),
        ("return Dataset({'Train': PAIR}, (), ())", r"returned splits 'Train'; expected some samples in 'train'"),
        ("return from_splits({'train': PAIR, 'unlabeled': PAIR})", r"a split called 'unlabeled'; expected 'unla"),
        ("return from_splits({'train': PAIR + PAIR})", r"two samples 'a' in split 'train'; expected an id of its own"),
        ("return from_splits({'train': PAIR, 'test': []})", r"split 'test' as \[\]; expected a list of samples"),
        ("return Dataset({'train': PAIR}, ('x',), ('tset',))", r"evaluate \('tset',\); expected names of its splits"),
        ("return Dataset({'train': PAIR}, ['x'], ('train',))", r"labels \['x'\]; expected a tuple of str"),
        ("return Dataset({'train': PAIR}, ('x',), ('train',), {'x': 'one'})", r"texts\['x'\] 'one'; expected a tuple"),
        ("return from_splits({'train': [Sample('a', image='a.png')]})", r"image 'a\.png' \(str\); expected pathlib"),
        ("return from_splits({'train': [Sample(7, text='a')]})", r"sample 7 of split 'train' with id 7 \(int\); expe"),
        ("return from_splits({'train': [Sample('a', text='\\ud800')]})", r"which holds half a character"),
        ("return from_splits({'train': [Sample('a', text='a', value=float('nan'))]})", r"a value that is infinite"),
        ("return from_splits({'train': [Sample('a', text='a', value=10**5000)]})", r"beyond float64; expected"),
        ("return from_splits({'train': [Sample('a', text='a', tensors=None)]})", r"tensors None; expected the path of"),
        ("return from_splits({'train': [Sample('a', tensors={3: Path('x')})]})", r"tensors \{3: .*; expected the path"),
        ("return Dataset({'train': PAIR}, (), ('train',), texts=None)", r"texts None; expected a dict"),
        ("return Dataset({'train': PAIR}, (), ('train',), pairs=None)", r"pairs None; expected a dict"),
        ("return from_splits({'train': [Sample('a', text='a', labels='ab')]})", r"labels 'ab'; expected a tuple"),
        ("return from_splits({'train': [('a', 'b')]})", r"has no attribute 'label' \(.*_0\.py, line 12\)"),
        ("return Dataset({'train': [7]}, (), ('train',))", r"7 in split 'train'; expected an edgemm\.data\.Sample"),
        (
            "return Dataset({'train': PAIR, 'unlabelled': PAIR}, ('x', 'y'), ('train',))",
            r"sample 'a' of split 'unlabelled' with a truth; expected none in 'unlabelled', or another split",
        ),
        (
            "return Dataset({'train': PAIR}, ('x',), ('train',), pairs={'train': (Pair('a', 'c', True),)})",
            r"pairs of split 'train' with Pair\(a='a', b='c', .*; expected Pairs of ids of its samples",
        ),
    ],
)  # fmt: skip
def test_a_reader_that_fails_is_told_in_one_line(open_with: Open, code: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as told:
        open_with(code)
    assert "\n" not in str(told.value)
    assert "recipe.toml: data.kind" in str(told.value)


def test_errors_of_edgemms_that_a_reader_raises_stay_as_they_are(open_with: Open) -> None:
    code = """def read(config):
    from edgemm.data import root_of
    return root_of(config, "a folder of letters")"""
    with pytest.raises(DataError, match=r"recipe\.toml: data\.root: missing; .* take a folder of letters: add --set"):
        open_with(code)


def test_what_a_recipe_says_of_groups_to_show_and_of_grey_comes_before_what_a_reader_says(open_with: Open) -> None:
    code = "return Dataset({'train': PAIR}, ('x', 'y'), ('train',), shown_groups=('h',), grey_range=(0.0, 9.0))"
    data = open_with(code)
    assert (data.shown_groups, data.grey_range) == (("h",), (0.0, 9.0))
    data = open_with(code, shown_groups=["g"], grey_range=[0, 4095])
    assert (data.shown_groups, data.grey_range) == (("g",), (0, 4095))


def test_a_reader_is_found_beside_the_recipe_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    code = f"{HEAD}\ndef read(config):\n    return from_splits({{'train': PAIR}})\n"
    write(tmp_path / "recipes" / "letters_beside.py", code.encode())
    text = 'name = "r"\nfamily = "fusion-classifier"\nteacher.text = {}\nstudent.text = {}\n'
    write(tmp_path / "recipes" / "r.toml", f'{text}data.kind = "python:letters_beside:read"\n'.encode())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    recipe = load_with_code(Path("../recipes/r.toml"), ())
    assert open_dataset(recipe.data, cache=tmp_path / "cache").labels == ("x", "y")


def test_a_section_holds_the_code_and_the_files_of_a_reader_by_their_digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)

    def section(folder: Path, code: bytes = b"def read(config): ...\n", content: bytes = b"1") -> object:
        write(tmp_path / "letters_read.py", code)
        for name in ("a.txt", "b.txt"):
            write(folder / name, content)
        files = {"all": str(folder / "*.txt"), "one": str(folder / "a.txt")}
        return portable(DataConfig(kind="python:letters_read:read", root=str(folder), files=files))

    first = section(tmp_path / "x")
    assert str(tmp_path) not in str(first)
    assert section(tmp_path / "y") == first
    assert section(tmp_path / "z", content=b"2") != first
    assert section(tmp_path / "x", code=b"def read(config): 1\n") != first
