"""The tables that models are built from: every line can be made, and one more line is one more tower."""

from __future__ import annotations

import itertools
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgemm.models.builders import build_model
from edgemm.models.part_kinds import kinds, resolve
from edgemm.models.store import load_model, save_model
from edgemm.recipe import FUSIONS, TOWERS, Encoder, Joining, TeacherSection
from edgemm.runtime.errors import ModelError
from edgemm.runtime.outputs import Classes


class Coarse(nn.Module):
    """A tower of one's own: patches of a picture, each its mean colour, or (``tokens``) beside each other."""

    def __init__(self, *, output: str = "pooled", features: int = 12) -> None:
        super().__init__()
        self.output = output
        self.layer = nn.Linear(3, features)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.layer(nn.functional.avg_pool2d(pixels, 8).flatten(2).transpose(1, 2))
        return tokens if self.output == "tokens" else tokens.mean(1)


class Picky(nn.Module):
    """A tower that has other defaults than the section, and none for its depth."""

    def __init__(self, *, depth: float, input_size: int = 8, width: int = 16) -> None:
        super().__init__()
        self.side = input_size
        self.layer = nn.Linear(3, width)

    def forward(self, pixels: Tensor) -> Tensor:
        assert pixels.shape[2:] == (self.side, self.side)
        return self.layer(pixels.mean((2, 3)))


class Stacked(nn.Module):
    """A tower of tensors that has other defaults than the section."""

    def __init__(self, *, shape: Sequence[int], features: int = 7, hidden: Sequence[int] = (5,)) -> None:
        super().__init__()
        widths = [shape[-1], *hidden, features]
        self.layers = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths)))

    def forward(self, values: Tensor) -> Tensor:
        return self.layers(values)


class Spread(nn.Module):
    """No tower: (B, C, H, W)."""

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels


class Blind(nn.Module):
    """No tower of pictures."""

    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.linear(pixels, torch.zeros(2, 5))


@pytest.fixture(autouse=True)
def _lines(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("coarse", "picky", "spread", "blind"):
        monkeypatch.setitem(TOWERS["image"], kind, Encoder(f"{__name__}:{kind.title()}", "for the test"))
    monkeypatch.setitem(TOWERS["tensor"], "stacked", Encoder(f"{__name__}:Stacked", "for the test"))


def build(image: Mapping[str, Any], *, family: str = "fusion-classifier", **more: Any) -> Any:
    section = TeacherSection.model_validate({"image": {"input_size": 32, **image}, **more})
    return build_model(section, family=family, answer=Classes(("no", "yes")), seed=0)


def test_every_kind_names_what_makes_it_in_this_package() -> None:
    for kind, path in kinds().items():
        if path.startswith("edgemm."):
            assert callable(pkgutil.resolve_name(path)), kind
            assert path.startswith("edgemm.models.")  # whose code a stage's key holds
    assert sum(map(len, TOWERS.values())) == len({kind for table in TOWERS.values() for kind in table})


def test_a_tower_of_the_table_is_built_and_is_what_was_saved(tmp_path: Path) -> None:
    model = build({"kind": "coarse", "features": 20})
    assert model.part("image").signature.outputs[0].shape == ("batch", 20)
    save_model(model, tmp_path)
    values = {"image": torch.randint(0, 256, (2, 40, 30, 3), dtype=torch.uint8)}
    with torch.no_grad():
        made, again = model(values), load_model(tmp_path)(values)
    assert torch.equal(made["logits"], again["logits"])


def test_an_option_that_is_not_given_is_the_classes_own_default() -> None:
    assert build({"kind": "coarse"}).part("image").config == {}
    assert build({"kind": "coarse"}).part("image").signature.outputs[0].shape == ("batch", 12)
    assert build({"kind": "coarse", "output": "pooled"}).part("image").config == {"output": "pooled"}


def test_a_default_of_the_section_is_none_of_the_classes() -> None:
    assert build({"kind": "picky"}).part("image").config == {"input_size": 32, "depth": 1.0}
    assert build({"kind": "picky"}).part("image").signature.outputs[0].shape == ("batch", 16)
    tensors = {"motion": {"kind": "stacked", "shape": [3]}}
    model = build_model(
        TeacherSection.model_validate({"tensors": tensors}),
        family="fusion-classifier",
        answer=Classes(("no", "yes")),
        seed=0,
    )
    assert model.part("motion").config == {"shape": [3]}
    assert model.part("motion").signature.outputs[0].shape == ("batch", 7)


def test_what_a_tower_sees_is_always_given_to_it() -> None:
    section = {"image": {"kind": "picky"}}
    model = build_model(
        TeacherSection.model_validate(section), family="fusion-classifier", answer=Classes(("no", "yes")), seed=0
    )
    assert model.part("image").config["input_size"] == 224


def test_tokens_are_counted_by_asking_the_tower() -> None:
    model = build({"kind": "coarse", "output": "tokens"}, fusion={"mode": "early", "width": 8, "heads": 2})
    assert model.part("image").signature.outputs[0].shape == ("batch", 16, 12)


def test_its_projection_stands_behind_it() -> None:
    model = build({"kind": "coarse"}, family="embedder", embed_dim=8, projection="tower")
    assert [part.name for part in model.chain] == ["image_frontend", "image", "image_projection"]


def test_what_makes_no_features_is_no_tower() -> None:
    message = r"image tower 'spread': makes \[1, 3, 32, 32\] of \[1, 3, 32, 32\]; expected \[1, width\]"
    with pytest.raises(ModelError, match=message):
        build({"kind": "spread"})


def test_a_tower_that_can_not_see_its_input_is_told() -> None:
    with pytest.raises(ModelError, match=r"image tower 'blind': can't see \[1, 3, 32, 32\]: "):
        build({"kind": "blind"})


@pytest.mark.parametrize("kind", ["fusion", "hf", "audio-cnn"])
def test_a_tower_takes_no_name_that_something_else_has(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOWERS["image"], kind, Encoder(f"{__name__}:Coarse", "for the test"))
    message = rf"TOWERS: kind '{kind}' of .* is what .* makes; expected a name of its own"
    with pytest.raises(ModelError, match=message):
        build({"kind": kind})


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module:Tower", r"can't import .* \(No module named 'no_such_module'\); expected module:name"),
        (f"{__name__}:Tower", "can't import .* has no attribute 'Tower'"),
        ("./tower.py:Tower", "can't import "),
        (f"{__name__}:__doc__", "is str; expected a class or a function"),
    ],
)
def test_a_line_that_names_nothing_is_told(path: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOWERS["image"], "lost", Encoder(path, "for the test"))
    with pytest.raises(ModelError, match=f"part kind 'lost': .*{message}"):
        build({"kind": "lost"})
    monkeypatch.setitem(FUSIONS, "lost", Joining(path, "for the test"))
    with pytest.raises(ModelError, match=f"fusion.mode 'lost': .*{message}"):
        build({"kind": "coarse"}, fusion={"mode": "lost"})


def test_a_module_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "burning_tower.py").write_text("raise OSError('it is on fire')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError, match=r"here: can't import 'burning_tower:Tower' \(it is on fire\)"):
        resolve("burning_tower:Tower", what="here")


def test_a_line_of_fusions_names_a_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FUSIONS, "coarse", Joining(f"{__name__}:Coarse", "for the test"))
    with pytest.raises(ModelError, match=r"fusion.mode 'coarse': .* is no class of edgemm.models.fusion:Fusion"):
        build({"kind": "coarse"}, fusion={"mode": "coarse"})
