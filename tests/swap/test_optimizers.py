"""Optimizers follow a swap: what leaves, what joins, what stays, and what is refused.

The reference is an optimizer that is made anew for the swapped network, with the old state of the
parameters that stayed.
"""

import copy
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim import SGD, Adagrad, AdamW, Optimizer

from attnblocks import SE, CaCo, CoordAtt, Eca, SELayers, find_se, register_se, replace_se
from tests.helpers import snapshot, unchanged

Make = Callable[[nn.Module], Optimizer]


def network() -> nn.Module:
    """As it is built: with the random weights of small_network, SGD would diverge."""
    torch.manual_seed(0)
    return torchvision.models.mobilenet_v3_small(num_classes=5).eval()


def all_in_one(cls: type[Optimizer], **options) -> Make:
    return lambda model: cls(model.parameters(), lr=0.01, **options)


def by_kind(model: nn.Module) -> Optimizer:
    """No weight decay for vectors, as is usual."""
    parameters = list(model.parameters())
    return AdamW(
        [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0, "lr": 0.02},
        ]
    )


def by_part(model: nn.Module) -> Optimizer:
    """A lower rate for the first half of the network."""
    parts = [model.features[:5], nn.ModuleList([model.features[5:], model.classifier])]
    groups = [{"params": list(part.parameters())} for part in parts]
    return SGD(groups, lr=0.1, momentum=0.9)


def named(model: nn.Module) -> Optimizer:
    return AdamW(model.named_parameters())


MAKERS = {
    "AdamW": all_in_one(AdamW),
    "SGD with momentum": all_in_one(SGD, momentum=0.9, nesterov=True),
    "two groups by kind": by_kind,
    "two groups by part": by_part,
    "names": named,
}


def train(model: nn.Module, *optimizers: Optimizer, steps: int = 2) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        x = torch.rand(2, 3, 32, 32, generator=generator)
        for optimizer in optimizers:
            optimizer.zero_grad()
        model(x).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()


def reference(make: Make, model: nn.Module, before: Optimizer) -> Optimizer:
    """An optimizer made for a network, with the state of the parameters that another one knows."""
    made = make(model)
    for p, state in before.state.items():
        if any(p is own for own in model.parameters()):
            made.state[p] = copy.deepcopy(state)
    return made


def assert_alike(found: Optimizer, wanted: Optimizer, names: bool = True) -> None:
    assert len(found.param_groups) == len(wanted.param_groups)
    for ours, theirs in zip(found.param_groups, wanted.param_groups, strict=True):
        assert ours.keys() - {"param_names"} == theirs.keys() - {"param_names"}
        assert [id(p) for p in ours["params"]] == [id(p) for p in theirs["params"]]
        assert not names or ours.get("param_names") == theirs.get("param_names")
    assert found.state.keys() == wanted.state.keys()


# Every way to make one with CaCo, and every block with one of them; the other pairs are slow.
PAIRS = [
    pytest.param(
        MAKERS[name],
        block,
        id=f"{block.__name__}-{name}",
        marks=() if block is CaCo or name == "two groups by kind" else pytest.mark.slow,
    )
    for block in (CaCo, Eca, CoordAtt)
    for name in MAKERS
]


@pytest.mark.parametrize(("make", "block"), PAIRS)
def test_an_optimizer_becomes_that_of_the_new_network(make, block):
    model = network()
    optimizer = make(model)
    train(model, optimizer)
    before = copy.copy(optimizer.state)
    replace_se(model, block, optimizers=optimizer)
    wanted = reference(make, model, type("", (), {"state": before})())
    assert_alike(optimizer, wanted)

    # Trained on, both do the same.
    start = copy.deepcopy(model.state_dict())
    train(model, optimizer)
    found = copy.deepcopy(model.state_dict())
    model.load_state_dict(start)
    train(model, wanted)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5)


def test_a_checkpoint_of_the_optimizer_is_followed_and_made_anew():
    model = network()
    optimizer = AdamW(model.parameters())
    train(model, optimizer)
    checkpoint = copy.deepcopy(optimizer.state_dict())
    resumed = AdamW(model.parameters())
    resumed.load_state_dict(checkpoint)
    kept = {p: resumed.state[p]["exp_avg"].clone() for p in model.features[0].parameters()}
    replace_se(model, CaCo, optimizers=resumed)
    assert all(torch.equal(resumed.state[p]["exp_avg"], value) for p, value in kept.items())
    train(model, resumed)

    # What it writes now fits an optimizer of the swapped network, parameter by parameter.
    again = AdamW(model.parameters())
    again.load_state_dict(copy.deepcopy(resumed.state_dict()))
    for p in model.parameters():
        assert torch.equal(again.state[p]["exp_avg"], resumed.state[p]["exp_avg"])


def test_a_scheduler_goes_on():
    model = network()
    optimizer = by_part(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
    train(model, optimizer)
    scheduler.step()
    replace_se(model, CaCo, optimizers=optimizer)
    rates = []
    for _ in range(3):
        train(model, optimizer, steps=1)
        scheduler.step()
        rates.append([group["lr"] for group in optimizer.param_groups])
    assert rates == [[0.05, 0.05], [0.05, 0.05], [0.025, 0.025]]
    new = [p for site in find_se(model) for p in site.module.parameters()]
    assert all(optimizer.state[p]["momentum_buffer"] is not None for p in new)


def test_several_optimizers_each_follow_for_their_part():
    model = network()
    first = AdamW(model.features[:5].parameters())
    second = SGD([*model.features[5:].parameters(), *model.classifier.parameters()], momentum=0.9)
    train(model, first, second)
    replace_se(model, CaCo, optimizers=[first, second])
    held = [{id(p) for group in o.param_groups for p in group["params"]} for o in (first, second)]
    assert held[0] == {id(p) for p in model.features[:5].parameters()}
    assert held[0] | held[1] == {id(p) for p in model.parameters()}
    train(model, first, second)


def test_only_what_is_trained_joins():
    model = network()
    frozen = find_se(model)[0].module
    optimizer = AdamW([p for p in model.parameters() if p not in {*frozen.parameters()}])
    replace_se(model, CaCo, optimizers=optimizer)
    held = {id(p) for p in optimizer.param_groups[0]["params"]}
    first, *others = (site.module for site in find_se(model))
    assert held.isdisjoint(id(p) for p in first.parameters())
    assert held >= {id(p) for block in others for p in block.parameters()}


def test_what_stays_in_the_network_stays_in_the_optimizer():
    """Tied to a layer outside, kept inside the new block, or shared by two of them."""
    tied = nn.Sequential(nn.Conv2d(16, 8, 1), SE(16, 8), SE(16, 8))
    tied[1].fc1.weight = tied[0].weight
    optimizer = AdamW(tied.parameters())
    replace_se(tied, CaCo, where="1", optimizers=optimizer)
    assert_alike(optimizer, AdamW(tied.parameters()))

    old = tied[2]
    replace_se(
        tied, lambda s: nn.Sequential(s.module, CoordAtt(16)), where="2", optimizers=optimizer
    )
    assert tied[2][0] is old
    assert_alike(optimizer, AdamW(tied.parameters()))

    # Beside what stays, in the groups of its kind.
    model = nn.Sequential(nn.Conv2d(3, 16, 1), SE(16), nn.Conv2d(16, 3, 1))
    optimizer = by_kind(model)
    replace_se(model, lambda s: nn.Sequential(s.module, CoordAtt(16)), optimizers=optimizer)
    assert_alike(optimizer, by_kind(model))

    shared = SE(16)
    model = nn.Sequential(shared, nn.Conv2d(16, 16, 1), shared)
    optimizer = AdamW(model.parameters())
    replace_se(model, CaCo, optimizers=optimizer)
    assert_alike(optimizer, AdamW(model.parameters()))


def test_a_block_without_parameters_leaves_a_group_that_may_be_empty():
    model = nn.Sequential(nn.Conv2d(3, 16, 1), SE(16))
    optimizer = SGD([{"params": list(part.parameters())} for part in model], lr=0.1, momentum=0.9)
    replace_se(model, nn.Identity, optimizers=optimizer)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 0]
    model(torch.rand(1, 3, 4, 4)).sum().backward()
    optimizer.step()


class Beside(nn.Module):
    """Keeps the old block behind something new."""

    def __init__(self, old: nn.Module) -> None:
        super().__init__()
        self.new, self.old = CoordAtt(16), old

    def forward(self, x):
        return self.old(self.new(x))


class Free(nn.Module):
    """An SE without parameters."""


def test_the_order_is_that_of_the_network_whatever_is_put_in():
    """A checkpoint that is written then goes into an optimizer made anew without a word."""
    register_se(Free, lambda m: SELayers(16))
    for old, block in ((SE(16), lambda s: Beside(s.module)), (Free(), CoordAtt), (Free(), Eca)):
        model = nn.Sequential(nn.Conv2d(3, 16, 1), old, nn.Conv2d(16, 3, 1))
        optimizer = AdamW(model.named_parameters())
        replace_se(model, block, optimizers=optimizer)
        assert_alike(optimizer, AdamW(model.parameters()), names=False)


def test_what_was_left_out_stays_out_and_what_stays_is_no_error():
    model = nn.Sequential(nn.Conv2d(3, 16, 1), SE(16))
    optimizer = SGD([model[1].fc1.bias, model[1].fc2.bias], lr=0.1)
    replace_se(model, lambda s: Beside(s.module), optimizers=optimizer)
    held = {id(p) for p in optimizer.param_groups[0]["params"]}
    assert held.isdisjoint(id(p) for p in (model[1].old.fc1.weight, model[1].old.fc2.weight))
    assert held >= {id(p) for p in model[1].new.parameters()}
    whole = AdamW(model.parameters())
    replace_se(model[1], lambda s: s.module, where="old", optimizers=whole)
    assert_alike(whole, AdamW(model.parameters()))


class Lookahead(Optimizer):
    """Wraps another optimizer, whose groups it shares."""

    def __init__(self, base: Optimizer) -> None:
        super().__init__(base.param_groups, {})
        self.base, self.param_groups = base, base.param_groups


def in_two_groups(model: nn.Module) -> Optimizer:
    """The layers of every block in different groups, as nothing usual has them."""
    first = [p for name, p in model.named_parameters() if ".fc1." in name]
    return AdamW(
        [{"params": first}, {"params": [p for p in model.parameters() if p not in {*first}]}]
    )


REFUSED = {
    "fused": (
        all_in_one(AdamW, fused=True),
        ValueError,
        "AdamW is fused: make the optimizer after",
    ),
    "Adagrad": (all_in_one(Adagrad), ValueError, "makes the state of its parameters when it is"),
    "LBFGS": (all_in_one(torch.optim.LBFGS), ValueError, "one vector of all its parameters"),
    "groups": (in_two_groups, ValueError, r"which of 2 groups of .* new 'features\.1\.block\.1\."),
    "wrapper": (
        lambda model: Lookahead(AdamW(model.parameters())),
        ValueError,
        "wraps another opt",
    ),
    "holder": (lambda model: object(), TypeError, "must be torch optimizers, got <object"),
    "another": (lambda model: AdamW(network().parameters()), ValueError, "another network"),
    "none": (lambda model: [], ValueError, "optimizers hold no parameter"),
    "no optimizer": (lambda model: "adam", TypeError, "must be torch optimizers, got 'a'"),
}


@pytest.mark.parametrize(("make", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_follow_is_refused_before_anything_changes(make, error, message):
    model = network()
    optimizer = make(model)
    groups = [list(g["params"]) for g in getattr(optimizer, "param_groups", [])]
    before = snapshot(model)
    with pytest.raises(error, match=message):
        replace_se(model, CaCo, optimizers=optimizer)
    assert unchanged(model, before)
    after = [g["params"] for g in getattr(optimizer, "param_groups", [])]
    assert [[id(p) for p in g] for g in groups] == [[id(p) for p in g] for g in after]


@pytest.mark.usefixtures("process_group")
def test_a_sharded_optimizer_is_refused():
    model = nn.Sequential(SE(16))
    optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=AdamW, lr=0.1)
    with pytest.raises(ValueError, match="ZeroRedundancyOptimizer is sharded"):
        replace_se(model, CaCo, optimizers=optimizer)
    assert type(model[0]) is SE


def test_a_copy_has_no_optimizer():
    model = network()
    with pytest.raises(TypeError, match="changed in place: leave out inplace"):
        replace_se(model, CaCo, inplace=False, optimizers=AdamW(model.parameters()))
