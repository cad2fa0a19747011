"""Linear layers through oneDNN: what torch's own give, and torch's own where they must be."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from refiner.metrics.linear import through_onednn


def network(bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 96, bias=bias), nn.GELU(), nn.Linear(96, 48, bias=bias))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 48), (7, 48), (3, 5, 48), (2, 0, 48), (257, 48)])
def test_the_same_products(shape: tuple[int, ...], bias: bool) -> None:
    model, inputs = network(bias), torch.randn(shape)
    with torch.inference_mode():
        wanted = model(inputs)
        through_onednn(model)
        given = model(inputs)
    assert given.shape == wanted.shape
    assert torch.allclose(given, wanted, rtol=0, atol=1e-6)


def test_weights_keep_names_and_values() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    through_onednn(model)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_that_change_are_laid_out_anew() -> None:
    model, inputs = network(), torch.randn(5, 48)
    through_onednn(model)
    with torch.inference_mode():
        before = model(inputs)
    with torch.no_grad():
        model[0].weight.mul_(2)
    copied = copy.deepcopy(model)
    model[2].weight = nn.Parameter(model[2].weight * 3)
    with torch.inference_mode():
        once, both = copied(inputs), model(inputs)
        for layer in model:
            layer.__class__ = nn.Linear if isinstance(layer, nn.Linear) else layer.__class__
        assert torch.allclose(both, model(inputs), rtol=0, atol=1e-5)
    assert not torch.allclose(once, before, atol=1e-3)
    assert not torch.allclose(once, both, atol=1e-3)


def test_columns_that_do_not_lie_side_by_side() -> None:
    model = network()
    through_onednn(model)
    inputs = torch.randn(48, 7)
    with torch.inference_mode():
        assert torch.allclose(model(inputs.T), model(inputs.T.contiguous()), rtol=0, atol=1e-6)


def test_training_is_left_to_torch() -> None:
    models = network(), network()
    through_onednn(models[1])
    for model in models:
        model(torch.ones(3, 48)).sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(*(m.parameters() for m in models), strict=True))


def test_other_types_are_left_to_torch() -> None:
    model = network()
    through_onednn(model)
    with torch.inference_mode():
        assert model.double()(torch.ones(3, 48, dtype=torch.float64)).dtype == torch.float64


def test_layers_of_a_class_of_their_own_are_left_alone() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    layer, inputs = Doubled(4, 4), torch.ones(2, 4)
    with torch.inference_mode():
        wanted = layer(inputs)
        through_onednn(layer)
        assert torch.equal(layer(inputs), wanted)
