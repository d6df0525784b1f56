"""Structure: what a module of one's own says of itself is all that pruning asks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgemm.compress.structure import prune_part_
from edgemm.models.heads import MlpHead
from edgemm.models.model import Model, Part
from edgemm.models.structure import HasUnits, Structure, features_before
from edgemm.models.text import TextTransformer
from edgemm.runtime.errors import ModelError
from edgemm.runtime.outputs import Classes
from edgemm.runtime.readers import TensorInput
from edgemm.runtime.signature import Signature, TensorSpec


class Own(nn.Module):
    """Two layers of somebody else's, the second of which makes what is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.outer(torch.relu(self.inner(x)))
        return made


class Cut(Own):
    def structure(self) -> Structure:
        return Structure(ends=(self.outer,))


def part_of(module: nn.Module) -> Part:
    takes, makes = TensorSpec("x", "float32", ("batch", 4)), TensorSpec("y", "float32", ("batch", 8))
    return Part("own", "tower", "own", "python", {}, Signature((takes,), (makes,), {}), module)


def prune_(module: nn.Module) -> None:
    prune_part_(part_of(module), (torch.zeros(1, 4),), ratio=0.5, importance="l2", round_to=4, floor=0.1)


def test_a_module_that_says_where_it_ends_loses_what_lies_before() -> None:
    torch.manual_seed(0)
    module = Cut()
    prune_(module)
    assert module.inner.out_features == module.outer.in_features == 16
    assert module(torch.zeros(2, 4)).shape == (2, 8)


def test_the_channels_of_the_smallest_norm_go() -> None:
    torch.manual_seed(0)
    module = Cut()
    with torch.no_grad():
        module.inner.weight[::2] *= 1e-3
        module.inner.bias[::2] = 0
        module.outer.weight[:, ::2] *= 1e-3
    x = torch.randn(5, 4)
    before = module(x)
    prune_(module)
    torch.testing.assert_close(module(x), before, atol=1e-4, rtol=1e-4)  # what went made a millionth of it


def test_a_module_that_says_nothing_has_nothing_to_remove() -> None:
    with pytest.raises(
        ModelError, match=r"part 'own' of kind 'python' has no channels to remove; .* method 'structure'"
    ):
        prune_(Own())


def test_a_head_of_one_layer_has_nothing_to_remove_and_one_of_two_its_hidden_units() -> None:
    assert MlpHead(width=4, classes=2).structure() is None
    head = MlpHead(width=4, classes=2, hidden=8)
    assert head.structure() == Structure(ends=(head.out,))


def test_units_are_set_once_and_only_where_a_head_answers_with_a_quantity() -> None:
    quantity, classes = MlpHead(width=4, classes=1, quantity=True), MlpHead(width=4, classes=1)
    for head in (quantity, classes):
        assert isinstance(head, HasUnits)
        head.set_units_(5.0, 2.0)
        head.set_units_(9.0, 9.0)
    assert (float(quantity.mean), float(quantity.spread)) == (5.0, 2.0)
    assert not hasattr(classes, "mean")


def test_features_are_had_before_a_projection_inside_a_tower_and_only_there() -> None:
    sizes = {"vocab": 10, "layers": 1, "width": 8, "heads": 2, "max_tokens": 4}
    inside, plain = TextTransformer(**sizes, embed_dim=6), TextTransformer(**sizes)
    assert features_before(inside) is inside
    assert features_before(plain) is None
    assert features_before(Own()) is None


def test_outputs_that_nobody_typed_are_told_by_name_and_axes() -> None:
    takes, makes = TensorSpec("x", "float32", ("batch", 4)), TensorSpec("logits", "float32", ("batch", 8))
    part = Part("own", "tower", "own", "python", {}, Signature((takes,), (makes,), {}), Own())
    model = Model("outside", [part], inputs={"own": TensorInput("x")}, outputs=["logits"])
    assert model.outputs == {"logits": Classes()}
    with pytest.raises(ModelError, match=r"no part makes its outputs \['value'\]"):
        Model("outside", [part], inputs={"own": TensorInput("x")}, outputs=["value"])
