"""What warm_start keeps of the original: the same fit as without, in one run per batch."""

import copy

import pytest
import torch
from torch import nn
from torchvision.ops import SqueezeExcitation

from attnblocks import SE, CaCo, SeCo, SELayers, register_se, replace_se, warm_start
from attnblocks.fit.batches import plain_forward
from attnblocks.fit.pair import Pair, pair_up
from attnblocks.fit.targets import Goal, Targets, squared_error
from tests.helpers import randomized

SITES = (3, 6)


def network(seed: int = 0) -> nn.Module:
    """Two SE blocks; what enters and leaves them is changed in place behind them."""
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Hardswish(inplace=True)]
    layers += [SqueezeExcitation(16, 4), nn.Hardswish(inplace=True), nn.Conv2d(16, 16, 3)]
    layers += [SqueezeExcitation(16, 4), nn.ReLU(inplace=True)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)]
    return randomized(nn.Sequential(*layers), seed).eval()


def batches(seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    brightness = torch.rand(32, 3, 1, 1, generator=generator) * 2
    return list((torch.randn(32, 3, 12, 12, generator=generator) * brightness).split(8))


def counted(model: nn.Module) -> list[int]:
    """A list that grows by one with every run of a network."""
    runs: list[int] = []
    model.register_forward_hook(lambda *_: runs.append(1))
    return runs


def paired(model: nn.Module, original: nn.Module, x: torch.Tensor) -> Pair:
    return pair_up(model, original, x, None, plain_forward)


@torch.no_grad()
def wanted(original: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Input and output of the first block, of the second, and the features: layer by layer."""
    found = []
    for upto in (3, 4, 6, 7, 10):
        found.append(original[:upto](x))
    return found


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    return ((ours - theirs) ** 2).sum() / (theirs**2).sum()


def plain_fit(model, original, inputs, epochs, lr, seed=0) -> None:
    """The two stages as the documentation says them; everything is computed in every step."""
    order = torch.Generator().manual_seed(seed)
    parameters = [p for site in SITES for p in model[site].parameters()]
    for stage in (0, 1):
        adam = torch.optim.Adam(parameters, lr=lr[stage])
        steps = epochs[stage] * len(inputs)
        rate = torch.optim.lr_scheduler.OneCycleLR(
            adam, lr[stage], total_steps=steps, pct_start=max(0.1, 2 / steps)
        )
        for _ in range(epochs[stage]):
            for i in torch.randperm(len(inputs), generator=order).tolist():
                in_a, out_a, in_b, out_b, features = wanted(original, inputs[i])
                if stage == 0:
                    loss = relative(model[3](in_a), out_a) + relative(model[6](in_b), out_b)
                    loss = loss / 2
                else:
                    ours_a = model[:4](inputs[i])
                    ours_b = model[4:7](ours_a.clone())
                    ours = model[7:10](ours_b.clone())
                    loss = (relative(ours_a, out_a) + relative(ours_b, out_b)) / 2
                    loss = loss + relative(ours, features)
                adam.zero_grad()
                loss.backward(inputs=parameters)
                adam.step()
                rate.step()


def fresh(original: nn.Module) -> nn.Module:
    """New blocks without batch norms, whose statistics would take runs of the network."""
    torch.manual_seed(0)
    return replace_se(original, SE, init="fresh", inplace=False)


def test_it_is_the_fit_of_a_plain_loop():
    original, inputs = network(), batches()
    model = fresh(original)
    expected = copy.deepcopy(model)
    plain_fit(expected, original, inputs, (4, 6), (1e-2, 3e-3))
    fit = warm_start(model, original, inputs, epochs=(4, 6), lr=(1e-2, 3e-3), progress=False)
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), atol=1e-5, rtol=1e-5)
    x = torch.cat(inputs)
    with torch.no_grad():
        error = float(relative(expected[:10](x), original[:10](x)).sqrt())
    assert fit.after == pytest.approx(error, abs=1e-5)
    assert fit.after < 0.8 * fit.before


@pytest.mark.parametrize("block", [SeCo, CaCo])
def test_what_is_kept_changes_nothing(block):
    original, inputs = network(), batches()
    torch.manual_seed(0)
    start = replace_se(original, block, inplace=False)
    one = Targets(paired(start, original, inputs[0]), inputs, 0)[0].nbytes / 2**30
    found = []
    for target_gib in (float("inf"), 2.5 * one, 0):
        model = copy.deepcopy(start)
        fit = warm_start(
            model, original, inputs, epochs=(3, 3), target_gib=target_gib, progress=False
        )
        found.append((fit, model.state_dict()))
    for fit, state in found[1:]:
        assert fit == found[0][0]
        torch.testing.assert_close(state, found[0][1], atol=0, rtol=0)


def test_the_original_runs_once_per_batch_and_no_network_in_the_first_stage():
    original = network()
    model = fresh(original)
    of_original, of_model = counted(original), counted(model)
    warm_start(model, original, batches(), epochs=(10, 0), progress=False)
    assert len(of_original) == 1 + 4  # one to see what runs
    assert len(of_model) == 2 * 4  # the errors before and after
    warm_start(model, original, batches(), epochs=(0, 10), progress=False)
    assert len(of_original) == 2 * (1 + 4)
    assert len(of_model) == 2 * 4 + (2 + 10) * 4


@pytest.mark.parametrize(("kept", "again"), [(0, 4), (1.5, 3), (3.99, 1), (4, 0)])
def test_only_what_the_limit_has_room_for_is_kept(kept, again):
    original, inputs = network(), batches()
    pair = paired(replace_se(original, SeCo, inplace=False), original, inputs[0])
    sizes = [x.nbytes for x in wanted(original, inputs[0])]
    targets = Targets(pair, inputs, kept * sum(sizes))
    assert targets[0].nbytes == sum(sizes)
    list(targets)
    runs = counted(original)
    list(targets)
    assert len(runs) == again


def test_a_large_batch_is_made_again_and_smaller_ones_behind_it_are_kept():
    original = network()
    inputs = [torch.rand(n, 3, 12, 12) for n in (2, 9, 3)]
    pair = paired(replace_se(original, SeCo, inplace=False), original, inputs[0])
    one = sum(x.nbytes for x in wanted(original, inputs[0][:1]))
    targets = Targets(pair, inputs, 5 * one)
    assert [target.features.value.shape[0] for target in targets] == [2, 9, 3]
    runs = counted(original)
    for target, x in zip(targets, inputs, strict=True):
        assert torch.equal(target.features.value, original[:10](x))
    assert len(runs) == 1


def test_the_targets_are_detached_copies_in_the_layout_of_the_network():
    original = network().to(memory_format=torch.channels_last)
    model = replace_se(original, SeCo, inplace=False)
    inputs = [x.to(memory_format=torch.channels_last) for x in batches()]
    targets = Targets(paired(model, original, inputs[0]), inputs, float("inf"))
    with torch.enable_grad():
        first = targets[0]
    (in_a, out_a), (in_b, out_b) = (first.calls[str(site)][0] for site in SITES)
    found = [in_a, out_a.value, in_b, out_b.value, first.features.value]
    for value, expected in zip(found, wanted(original, inputs[0]), strict=True):
        torch.testing.assert_close(value, expected)
        assert value.stride() == expected.stride()
        assert not value.requires_grad
    assert in_a.is_contiguous(memory_format=torch.channels_last)
    for goal in (out_a, out_b, first.features):
        torch.testing.assert_close(goal.size, goal.value.double().square().sum().float())


def test_every_call_of_a_shared_block_is_kept():
    shared = SqueezeExcitation(16, 4)
    layers = [nn.Conv2d(3, 16, 3), shared, nn.Conv2d(16, 16, 3), shared, nn.Flatten()]
    original, x = randomized(nn.Sequential(*layers)).eval(), batches()[0]
    model = replace_se(original, SeCo, inplace=False)
    target = Targets(paired(model, original, x), [x], float("inf"))[0]
    assert list(target.calls) == ["1"]
    with torch.no_grad():
        expected = [(original[:upto](x), original[: upto + 1](x)) for upto in (1, 3)]
    for (given, goal), (entered, left) in zip(target.calls["1"], expected, strict=True):
        assert torch.equal(given, entered)
        assert torch.equal(goal.value, left)
    with torch.no_grad():
        ours, theirs = ([net[:upto](x).flatten() for upto in (2, 4)] for net in (model, original))
    fit = warm_start(model, original, [x], epochs=(1, 1), progress=False)
    expected = float(relative(torch.cat(ours), torch.cat(theirs)).sqrt())
    assert fit.sites[0].before == pytest.approx(expected, rel=1e-4)


def test_a_head_that_changes_its_input_in_place_is_read_before_it():
    original, x = network(), torch.cat(batches())
    model = fresh(original)
    with torch.no_grad():
        expected = float(relative(model[:7](x), original[:7](x)).sqrt())
    fit = warm_start(model, original, batches(), head="7", epochs=(1, 1), progress=False)
    assert fit.before == pytest.approx(expected, rel=1e-4)


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


@pytest.mark.parametrize(
    ("target_gib", "error", "message"),
    [
        (-1, ValueError, "target_gib must not be negative; got -1"),
        (float("nan"), ValueError, "target_gib must not be negative; got nan"),
        ("2", TypeError, "target_gib must be a number, in GiB; got '2'"),
        (True, TypeError, "target_gib must be a number"),
        (None, TypeError, "target_gib must be a number"),
    ],
)
def test_wrong_limits_are_named(target_gib, error, message):
    original = network()
    model = replace_se(original, CaCo, inplace=False)
    with pytest.raises(error, match=message):
        warm_start(model, original, batches(), target_gib=target_gib, progress=False)
