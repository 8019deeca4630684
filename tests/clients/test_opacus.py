"""Opacus: the gradients of single samples are those that a loop over samples gets."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from attnblocks import apply_recipe, create_block, insert, recipe
from attnblocks.blocks.gain import stages_of
from tests.helpers import BLOCKS, randomized

opacus = pytest.importorskip("opacus", reason="opacus is not installed: pip install '.[clients]'")

from opacus.grad_sample import GradSampleModuleFastGradientClipping, get_gsm_class  # noqa: E402
from opacus.validators import ModuleValidator  # noqa: E402

pytestmark = [
    pytest.mark.clients,
    pytest.mark.filterwarnings("ignore:.*(Secure RNG|full backward hook)"),
]

MAPS = torch.randn(3, 16, 6, 8, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.tensor([0, 2, 1])
CLIP = 0.2

STARTS = ["random", "identity", "gains"]

every_block = pytest.mark.parametrize("block", BLOCKS)


def network(block, start="random"):
    """A network with a block, of which Opacus has replaced the batch norms, in train mode."""
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
    model = nn.Sequential(nn.Conv2d(16, 16, 1), create_block(block, 16), *head)
    model = ModuleValidator.fix(model)
    if start == "identity":
        model[1].start_as_identity()
        return model.double().train()
    for stage in stages_of(model) if start == "gains" else ():
        stage.set_gain(2.0 if "positions" in stage.gate_names else [2.0] * 16, 16)
    return randomized(model).double().train()


def loss(output, labels=LABELS):
    return nn.functional.cross_entropy(output, labels, reduction="sum")


def by_loop(model):
    """The gradient of each parameter for each sample, one sample at a time."""
    model, found = copy.deepcopy(model), []
    names, values = zip(*model.named_parameters(), strict=True)
    for x, label in zip(MAPS.split(1), LABELS.split(1), strict=True):
        gradients = torch.autograd.grad(loss(model(x), label), values)
        found.append(dict(zip(names, gradients, strict=True)))
    return {name: torch.stack([one[name] for one in found]) for name in names}


def norms(gradients):
    return sum(g.flatten(1).pow(2).sum(1) for g in gradients.values()).sqrt()


def check(model, expected):
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad_sample, expected[name], rtol=1e-9, atol=1e-12)
    assert any(expected[name].abs().max() > 1e-3 for name in expected if name.startswith("1."))


@every_block
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("mode", ["hooks", "functorch", "ew"])
def test_gradients_of_samples(mode, start, block):
    model = network(block, start)
    expected = by_loop(model)
    wrapped = get_gsm_class(mode)(model, loss_reduction="sum")
    loss(wrapped(MAPS)).backward()
    check(model, expected)


def inserted(block, after):
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
    model = nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU(), *head)
    insert(model, block, after=after, example=MAPS.float(), init="fresh")
    return randomized(ModuleValidator.fix(model)).double().train()


@pytest.mark.parametrize("mode", ["hooks", "functorch", "ew"])
@pytest.mark.parametrize("after", ["0", "1"])
@every_block
def test_gradients_with_an_inserted_block_are_those_of_samples_or_refused(block, after, mode):
    model = inserted(block, after)
    expected = by_loop(model)
    wrapped = get_gsm_class(mode)(model, loss_reduction="sum")
    if after == "0" and mode != "ew":
        with pytest.raises(RuntimeError, match=r"Conv2d has a backward hook.*'ew' needs no hook"):
            wrapped(MAPS)
        return
    loss(wrapped(MAPS)).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad_sample, expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("block", ["SE", "Eca", "CoordAtt"])
@pytest.mark.parametrize("mode", ["hooks", "functorch"])
def test_gains_that_their_owner_trains(mode, block):
    """Opacus runs such a stage once more as a whole; it knows stages with one input alone."""
    model = network(block, "gains")
    model[1].gain = nn.Parameter(model[1].gain)
    expected = by_loop(model)
    assert expected["1.gain"].abs().max() > 1e-3
    wrapped = get_gsm_class(mode)(model, loss_reduction="sum")
    loss(wrapped(MAPS)).backward()
    check(model, expected)


@every_block
@pytest.mark.parametrize("start", STARTS)
def test_norms_of_ghost_clipping(start, block):
    model = network(block, start)
    expected = norms(by_loop(model))
    wrapped = GradSampleModuleFastGradientClipping(model, loss_reduction="sum", max_grad_norm=CLIP)
    loss(wrapped(MAPS)).backward()
    torch.testing.assert_close(wrapped.get_norm_sample(), expected)


@every_block
@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_a_private_step_without_noise_is_that_of_clipped_samples(mode, block):
    """As on the page of the docs."""
    model = network(block)
    gradients = by_loop(model)
    shares = (CLIP / (norms(gradients) + 1e-6)).clamp(max=1)
    assert shares.min() < 1
    expected = {
        name: p.detach() - 0.1 * torch.einsum("n,n...->...", shares, gradients[name]) / 3
        for name, p in model.named_parameters()
    }
    module, optimizer, *criterion, _ = opacus.PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=nn.CrossEntropyLoss(),
        data_loader=DataLoader(TensorDataset(MAPS, LABELS), batch_size=3),
        noise_multiplier=0.0,
        max_grad_norm=CLIP,
        poisson_sampling=False,
        grad_sample_mode=mode,
    )
    criterion = criterion[0] if mode == "ghost" else nn.CrossEntropyLoss()
    criterion(module(MAPS), LABELS).backward()
    optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p, expected[name], rtol=1e-6, atol=1e-9)


@every_block
def test_batch_norms_are_named_and_their_replacement_is_in_the_recipe(block):
    published = nn.Sequential(nn.Conv2d(16, 16, 1), create_block(block, 16))
    normed = any(isinstance(m, nn.BatchNorm2d) for m in published.modules())
    assert normed == (block in ("CBAM", "CoordAtt", "SeCo", "CaCo"))
    if normed:
        with pytest.raises(NotImplementedError, match="BatchNorm2d"):
            get_gsm_class("hooks")(published)
    fixed = ModuleValidator.fix(published)
    again = apply_recipe(copy.deepcopy(published), recipe(fixed))
    again.load_state_dict(fixed.state_dict())
    assert recipe(again) == recipe(fixed)
    assert torch.equal(again(MAPS.float()), fixed(MAPS.float()))


@every_block
def test_expanded_weights_in_float32(block):
    """Where the kernels measure the map: layers behind them get what torch lays out as usual."""
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3))
    model = nn.Sequential(nn.Conv2d(16, 64, 1), create_block(block, 64), *head)
    model = randomized(ModuleValidator.fix(model)).train()
    expected = by_loop(copy.deepcopy(model).double())
    wrapped = get_gsm_class("ew")(model, loss_reduction="sum")
    loss(wrapped(MAPS.float())).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad_sample.double(), expected[name], rtol=1e-3, atol=1e-5)
