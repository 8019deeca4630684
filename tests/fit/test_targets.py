"""What warm_start keeps of the original: the same fit as without, in one run per batch."""

import copy

import pytest
import torch
from torch import nn
from torchvision.ops import SqueezeExcitation

from attnblocks import CaCo, SeCo, replace_se, warm_start
from attnblocks.fit.targets import Targets
from tests.fit.networks import SITES, batches, counted, fresh, network, paired, relative
from tests.helpers import randomized


@torch.no_grad()
def wanted(original: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Input and output of the first block, of the second, and the features: layer by layer."""
    found = []
    for upto in (3, 4, 6, 7, 10):
        found.append(original[:upto](x))
    return found


def plain_fit(model, original, inputs, epochs, lr, seed=0) -> None:
    """The two stages as the documentation says them; everything is computed in every step."""
    order = torch.Generator().manual_seed(seed)
    logarithms = scaled(model, original, inputs)
    parameters = [p for site in SITES for p in model[site].parameters()]
    for stage in (0, 1):
        adam = torch.optim.Adam([*parameters, *logarithms], lr=lr[stage])
        steps = epochs[stage] * len(inputs)
        rate = torch.optim.lr_scheduler.OneCycleLR(
            adam, lr[stage], total_steps=steps, pct_start=max(0.1, 2 / steps)
        )
        for _ in range(epochs[stage]):
            for i in torch.randperm(len(inputs), generator=order).tolist():
                in_a, out_a, in_b, out_b, features = wanted(original, inputs[i])
                for site, logarithm in zip(SITES, logarithms, strict=True):
                    model[site].gain = logarithm.exp()
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
                loss.backward(inputs=[*parameters, *logarithms])
                adam.step()
                rate.step()
    for site, logarithm in zip(SITES, logarithms, strict=True):
        model[site].gain = logarithm.detach().exp()


def scaled(model, original, inputs) -> list[torch.Tensor]:
    """Logarithms of the gains that bring each output nearest: a line for every channel."""
    x, logarithms = torch.cat(inputs), []
    for site in SITES:
        with torch.no_grad():
            given, out = original[:site](x), original[: site + 1](x)
            ours, out = (y.transpose(0, 1).flatten(1) for y in (model[site](given), out))
        gains = [
            torch.linalg.lstsq(a[:, None], b[:, None])[0] for a, b in zip(ours, out, strict=True)
        ]
        logarithms.append(torch.cat(gains).flatten().log().requires_grad_())
    return logarithms


def test_it_is_the_fit_of_a_plain_loop():
    original, inputs = network(), batches()
    model = fresh(original)
    expected = copy.deepcopy(model)
    plain_fit(expected, original, inputs, (4, 6), (1e-2, 3e-3))
    fit = warm_start(model, original, inputs, epochs=(4, 6), lr=(1e-2, 3e-3), progress=False)
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), atol=1e-4, rtol=1e-4)
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
