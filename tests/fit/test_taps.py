"""What a fit reads of a network while it runs, whatever changes in place and in whatever type."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import SqueezeExcitation

from attnblocks import SE, CaCo, SeCo, SELayers, register_se, replace_se, warm_start
from attnblocks.fit.targets import Goal, Targets, squared_error
from tests.fit.networks import SITES, batches, network, paired, relative
from tests.helpers import randomized


class Recording(nn.Module):
    """A network that asks for gradients itself, and keeps its output."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.output = network()[:9], None

    @torch.enable_grad()
    def forward(self, x):
        self.output = self.body(x)
        return self.output


def test_the_targets_have_no_gradients_and_memory_of_their_own():
    original = Recording()
    inputs = batches()
    model = replace_se(original, SeCo, inplace=False)
    target = Targets(paired(model, original, inputs[0]), inputs, float("inf"))[0]
    calls = [call for calls in target.calls.values() for call in calls]
    tensors = [given for given, _ in calls] + [goal.value for _, goal in calls]
    features = target.features.value
    assert not any(x.requires_grad for x in (*tensors, features))
    assert torch.equal(features, original.output)
    assert features.data_ptr() != original.output.data_ptr()
    warm_start(model, original, inputs, epochs=(1, 1), progress=False)
    assert all(p.grad is None for p in original.parameters())


class InPlaceSE(nn.Module):
    """An SE block that changes its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x):
        return x.mul_(self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid())


register_se(
    InPlaceSE,
    lambda m: SELayers(
        m.fc2.out_channels, nn.Sigmoid(), expand=m.fc2, squeeze=m.fc1, act=nn.ReLU()
    ),
)


class ChangesTheInput(nn.Module):
    """What enters its block is changed in place after it, as by an activation on a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.se = SqueezeExcitation(3, 3)

    def forward(self, x):
        x = x + 1
        y = self.se(x)
        return y + x.mul_(-3)


@pytest.mark.parametrize(
    "make", [lambda: nn.Sequential(nn.Conv2d(3, 8, 3), InPlaceSE(8)), ChangesTheInput]
)
def test_an_exact_block_is_seen_where_its_input_is_changed_in_place(make):
    original = randomized(make()).eval()
    model = replace_se(original, SE, inplace=False)
    before = copy.deepcopy(model.state_dict())
    fit = warm_start(model, original, batches(), epochs=(2, 2), progress=False)
    torch.testing.assert_close(model.state_dict(), before, atol=0, rtol=0)
    assert fit.after < 1e-5


def test_a_new_block_may_change_its_input_in_place():
    original = randomized(nn.Sequential(nn.Conv2d(3, 8, 3), SE(8), nn.Conv2d(8, 8, 3))).eval()
    torch.manual_seed(0)
    start = replace_se(original, lambda site: InPlaceSE(site.channels), inplace=False)
    fits = []
    for target_gib in (1, 0):
        model = copy.deepcopy(start)
        fits.append(
            warm_start(
                model, original, batches(), epochs=(5, 0), target_gib=target_gib, progress=False
            )
        )
    assert fits[0] == fits[1]
    assert fits[0].after < fits[0].before


class InFloat32(nn.Module):
    """A block that computes in float32 in a network of lower precision."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block(x.float()).to(x.dtype)


def test_the_squared_error_has_its_gradient_and_may_be_followed_by_changes_in_place():
    theirs = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    goal = Goal(theirs, theirs.square().sum())
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: squared_error(x, goal), [x])
    y = x * 1
    error = squared_error(y, goal)
    y.zero_()
    (found,) = torch.autograd.grad(error, x)
    torch.testing.assert_close(found, 2 * (x - theirs).detach())


def test_a_bfloat16_network_is_fitted_by_errors_in_float32():
    original = network().bfloat16()
    inputs = [x.bfloat16() for x in batches()]
    model = replace_se(original, lambda site: InFloat32(SE(site.channels)), inplace=False)
    for site in SITES:  # far off: the errors are much larger than what bfloat16 rounds
        randomized(model[site].float(), seed=site)
    x = torch.cat(inputs)
    with torch.no_grad():
        pairs = [(model[:upto](x).double(), original[:upto](x).double()) for upto in (4, 7, 10)]
    expected = [float(relative(*pair).sqrt()) for pair in pairs]
    kept, again = (
        warm_start(copy.deepcopy(model), original, inputs, target_gib=gib, progress=False)
        for gib in (1, 0)
    )
    assert kept == again
    assert [*(site.before for site in kept.sites), kept.before] == pytest.approx(expected, rel=1e-5)
    assert kept.after < 0.5 * kept.before


def test_only_inexact_blocks_ask_for_gradients():
    original = network()
    model = replace_se(original, SE, inplace=False)
    replace_se(model, CaCo, where="6")
    seen = []
    model[6].register_forward_hook(
        lambda *_: seen.append([p.requires_grad for p in model[3].parameters()])
    )
    warm_start(model, original, batches(), epochs=(0, 1), progress=False)
    assert not any(map(any, seen))
    assert all(p.requires_grad for p in model[3].parameters())


class Checkpointed(nn.Module):
    """Recomputes its inner network for the gradients."""

    def __init__(self, inner: nn.Module, use_reentrant: bool) -> None:
        super().__init__()
        self.inner, self.use_reentrant = inner, use_reentrant

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=self.use_reentrant)


def test_a_network_that_recomputes_its_activations_is_fitted_alike():
    plain, inputs = network(), batches()
    torch.manual_seed(0)
    start = replace_se(plain, SeCo, inplace=False)
    found = []
    for wrap in (lambda m: m, lambda m: Checkpointed(m, False)):
        model = copy.deepcopy(start)
        options = {"epochs": (2, 2), "progress": False, "forward": lambda net, x: net(x)}
        fit = warm_start(wrap(model), wrap(copy.deepcopy(plain)), inputs, **options)
        found.append((fit.after, model.state_dict()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-4)


def test_what_lets_no_gradients_through_is_named_and_nothing_has_changed():
    plain, inputs = network(), batches()
    start = replace_se(plain, SeCo, inplace=False)
    reentrant = [Checkpointed(copy.deepcopy(m), True) for m in (start, plain)]
    for model, original, forward in (
        (copy.deepcopy(start), plain, torch.no_grad()(lambda net, x: net(x))),
        (*reentrant, None),
    ):
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(ValueError, match=r"no gradients reach the blocks.*torch\.no_grad"):
            warm_start(model, original, inputs, epochs=(1, 1), forward=forward, progress=False)
        torch.testing.assert_close(model.state_dict(), before, atol=0, rtol=0)


class Halves(nn.Module):
    """Changes what it gets in place."""

    def forward(self, x):
        return x.mul_(0.5)


def test_a_first_layer_that_works_in_place_leaves_the_batches_alone():
    inputs = batches()
    original = nn.Sequential(Halves(), network())
    before = copy.deepcopy(inputs)
    model = replace_se(original, SeCo, inplace=False)
    warm_start(model, original, inputs, epochs=(1, 1), progress=False)
    torch.testing.assert_close(inputs, before, atol=0, rtol=0)


def test_lazy_layers_that_have_not_run_are_named_and_stay_so():
    original = nn.Sequential(nn.LazyConv2d(16, 3), SE(16))
    model = replace_se(original, CaCo, inplace=False)
    with pytest.raises(ValueError, match=r"'0\.weight' has no shape yet: run model and original"):
        warm_start(model, original, batches(), progress=False)
    assert nn.parameter.is_lazy(original[0].weight)
