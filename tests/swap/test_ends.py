"""Blocks behind a Sequential run, whether it is called or its modules are, one by one."""

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

from attnblocks import (
    CBAM,
    SE,
    CaCo,
    CoordAtt,
    apply_recipe,
    find_se,
    insert,
    recipe,
    remove,
    replace_se,
)
from attnblocks.swap.behind import Behind
from attnblocks.swap.ends import end_of
from tests.helpers import randomized
from tests.swap.inserted import IMAGES, anatomy, same_anatomy, same_bits


class Residual(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x).relu()


class Loop(nn.Sequential):
    """Runs its modules twice."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(super().forward(x))


def body(*last: nn.Module) -> nn.Sequential:
    """A stem, a stage of two modules, and what comes last, in eval mode."""
    torch.manual_seed(0)
    parts: dict[str, nn.Module] = {"stem": nn.Conv2d(3, 8, 3)}
    parts["stage"] = nn.Sequential(Residual(), Residual())
    parts["neck"] = nn.Sequential(Residual(), nn.Sequential(Residual(), Residual()))
    if last:
        parts["last"] = nn.Sequential(*last)
    return nn.Sequential(OrderedDict(parts)).eval()


PLACES = {"stage": CBAM, "stage.1": CoordAtt, "neck.1.1": CaCo, "neck.1": SE, "neck": CBAM}


def attended() -> nn.Sequential:
    """With blocks behind the stages and, later inserted, the modules in which they end."""
    model = body()
    for place, block in PLACES.items():
        insert(model, block, after=place, example=IMAGES, init="fresh")
    for site in find_se(model):
        randomized(site.module, seed=len(site.name))
    return model


def by_hand(model: nn.Sequential, images: Tensor = IMAGES) -> Tensor:
    """What the network with its blocks returns, out of modules that are called without hooks."""
    sites = {site.after: site.module for site in find_se(model)}
    assert sites.keys() == PLACES.keys()
    x = model.stem(images)
    for name in ("stage.0", "stage.1", "stage", "neck.0", "neck.1.0", "neck.1.1", "neck.1", "neck"):
        module = model.get_submodule(name)
        if isinstance(module, Residual):
            x = module.forward(x)
        x = sites[name](x) if name in sites else x
    return x


def places(model: nn.Module) -> list[tuple[str, str | None]]:
    return [(site.name, site.after) for site in find_se(model)]


def one_by_one(module: nn.Module, x: Tensor) -> Tensor:
    """Calls no Sequential, but what is in it."""
    if isinstance(module, nn.Sequential):
        for child in module:
            x = one_by_one(child, x)
        return x
    return module(x)


def in_segments(module: nn.Module, x: Tensor) -> Tensor:
    flat = [module.stem, *module.stage, *module.neck[:1], *module.neck[1]]
    return checkpoint_sequential(flat, 2, x, use_reentrant=False)


@pytest.mark.parametrize(
    "run",
    [
        lambda model, x: model(x),
        one_by_one,
        in_segments,
        lambda model, x: model[1:](model.stem(x)),
        lambda model, x: nn.Sequential(model[:2], *model.neck)(x),
    ],
    ids=["whole", "one by one", "checkpointed", "sliced", "built anew"],
)
def test_however_a_sequential_runs_each_block_does_in_its_turn(run):
    model = attended().train()
    found, wanted = run(model, IMAGES), by_hand(model)
    torch.testing.assert_close(found, wanted)
    assert not torch.allclose(found, body()(IMAGES))
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(wanted.square().mean(), [*parameters.values()])
    found.square().mean().backward()
    for (name, p), gradient in zip(parameters.items(), gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient, msg=name)
    for site in find_se(model):
        assert any(p.grad.any() for p in site.module.parameters())


def test_names_are_those_of_the_sequential_and_nothing_is_left_after_removal():
    model = body()
    before = anatomy(model)
    keys = list(model.state_dict())
    for place, block in PLACES.items():
        insert(model, block, after=place, example=IMAGES)
    assert places(model) == [
        ("stage.1.stage_attention", "stage"),
        ("stage.1.attention", "stage.1"),
        ("neck.1.1.attention", "neck.1.1"),
        ("neck.1.1.neck_1_attention", "neck.1"),
        ("neck.1.1.neck_attention", "neck"),
    ]
    assert [key for key in model.state_dict() if "attention" not in key] == keys
    remove(model, lambda block: block.after in ("stage", "neck.1"))
    assert [after for _, after in places(model)] == ["stage.1", "neck.1.1", "neck"]
    remove(model)
    assert same_anatomy(model, before)


def test_hooks_of_the_user_keep_their_turn():
    model, seen = body(), []
    end = model.stage[1]
    end.register_forward_hook(lambda module, args, output: seen.append(output))
    insert(model, "SE", after="stage", example=IMAGES, init="fresh")
    end.register_forward_hook(lambda module, args, output: seen.append(output))
    insert(model, "CaCo", after="stage.1", example=IMAGES, init="fresh")
    seen.clear()
    model(IMAGES)
    first, last = seen
    torch.testing.assert_close(last, end.stage_attention(end.attention(first)))


@pytest.mark.parametrize("trip", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_and_recipes(trip):
    model = attended()
    copied = trip(model)
    assert places(copied) == places(model)
    assert same_bits(copied(IMAGES), model(IMAGES))
    anew = apply_recipe(body(), recipe(copied))
    anew.load_state_dict(copied.state_dict())
    assert places(anew) == places(model)
    torch.testing.assert_close(one_by_one(anew, IMAGES), model(IMAGES))
    assert same_anatomy(remove(copied), anatomy(copied))
    assert same_bits(copied(IMAGES), body()(IMAGES))


def test_a_part_built_of_modules_has_the_blocks_and_a_recipe():
    model = attended()
    part = nn.Sequential(model.stem, *model.stage)
    assert places(part) == [("2.stage_attention", "2"), ("2.attention", "2")]
    assert [entry["site"] for entry in recipe(part)] == ["2.attention", "2.stage_attention"]
    anew = apply_recipe(nn.Sequential(nn.Conv2d(3, 8, 3), Residual(), Residual()), recipe(part))
    anew.load_state_dict(part.state_dict())
    torch.testing.assert_close(anew.eval()(IMAGES), model.stage(model.stem(IMAGES)))


def test_what_is_appended_comes_behind_the_block():
    model = attended()
    model.stage.append(Residual())
    sites = dict(places(model))
    assert sites["stage.1.stage_attention"] == "stage.1"
    x = model.stem(IMAGES)
    for module in model.stage:
        x = module(x)
    assert torch.equal(model.stage(model.stem(IMAGES)), x)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model, "stage", model.stage[:-1]),
        lambda model: model.stage.pop(-1),
        lambda model: model.stage.__setitem__(1, Residual()),
    ],
    ids=["sliced", "popped", "replaced"],
)
def test_a_block_that_goes_with_the_last_module_is_named(change):
    model = body()
    insert(model, "SE", after="stage", example=IMAGES)
    insert(model, "SE", after="neck", example=IMAGES)
    change(model)
    message = r"behind 'stage' runs no more, as that module or the last one in it was replaced"
    for read in (find_se, recipe):
        with pytest.raises(ValueError, match=message):
            read(model)
    remove(model, lambda block: block.after == "stage")
    assert places(model) == [("neck.1.1.neck_attention", "neck")]


def shared() -> nn.Sequential:
    """Ends in a module that runs elsewhere, too."""
    model = body()
    model.stage[1] = model.neck[0]
    return model


def patched() -> nn.Sequential:
    model = body()
    model.stage.forward = lambda x: model.stage[1](model.stage[0](x)) + 1
    return model


ENDS: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "a module": (body, "stem", "stem"),
    "a stage": (body, "stage", "stage.1"),
    "nested": (body, "neck", "neck.1.1"),
    "an SE": (lambda: body(Residual(), SE(8)), "last", "last.1"),
    "of torch": (lambda: body(Residual(), nn.MaxPool2d(2)), "last", "last"),
    "of torch, nested": (lambda: body(nn.Sequential(Residual(), nn.ReLU())), "last", "last.0"),
    "of torch's class": (lambda: body(Residual(), timm.layers.BatchNormAct2d(8)), "last", "last"),
    "with nothing in it": (lambda: body(Residual(), nn.Sequential()), "last", "last"),
    "of its own forward": (lambda: body(Loop(Residual())), "last", "last.0"),
    "patched": (patched, "stage", "stage"),
    "twice in the network": (shared, "stage", "stage"),
    "twice in it": (lambda: body(*[Residual()] * 2), "last", "last"),
}


@pytest.mark.parametrize(("build", "name", "end"), ENDS.values(), ids=ENDS)
def test_the_end_of_a_module(build, name, end):
    """A block behind it runs once in any case, and leads to the same output."""
    model = build()
    assert end_of(model, name) == end
    before = model(IMAGES)
    insert(model, "CaCo", after=name, example=IMAGES)
    assert torch.equal(model(IMAGES), before)
    (after,) = [site.after for site in find_se(model) if site.after is not None]
    assert after == name


def test_a_block_behind_a_sequential_that_ends_in_an_attention_block():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), SE(8)), nn.Flatten())
    insert(model, CBAM, after="0", example=IMAGES, init="fresh")
    insert(model, CaCo, after="0.1", example=IMAGES, init="fresh")
    replace_se(model, CoordAtt, where="0.1", init="fresh")
    sites = {site.after: site.module for site in find_se(model)}
    x = sites["0"](sites["0.1"](sites[None].forward(model[0][0].forward(IMAGES))))
    torch.testing.assert_close(one_by_one(model[0], IMAGES), x)
    torch.testing.assert_close(model(IMAGES), x.flatten(1))


def test_a_pickle_of_before_keeps_its_hook_and_later_blocks_run_behind_it():
    """There the hook was on the Sequential, and did not say how far within it is."""
    model, block = body(), randomized(SE(8)).eval()
    model.stage[1].add_module("stage_attention", block)
    hook = Behind(("1", "stage_attention"))
    del hook.levels
    hook.attach(model.stage)
    model._attention_behind = {"stage": [hook]}
    model = pickle.loads(pickle.dumps(model))
    assert places(model) == [("stage.1.stage_attention", "stage")]
    insert(model, "CaCo", after="stage", example=IMAGES, init="fresh")
    x = model.stage[1].forward(model.stage[0](model.stem(IMAGES)))
    x = model.stage[1].stage_attention_2(block(x))
    torch.testing.assert_close(model.stage(model.stem(IMAGES)), x)
