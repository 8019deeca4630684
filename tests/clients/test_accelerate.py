"""Blocks in networks that accelerate offloads, dispatches and prepares."""

import copy

import pytest
import torch

from attnblocks import CaCo, apply_recipe, find_se, insert, recipe, remove, replace_se, summary
from attnblocks.visualize import attention_maps
from tests.helpers import randomized, small_network, snapshot, unchanged

accelerate = pytest.importorskip("accelerate", reason="pip install '.[clients]'")
from accelerate.hooks import remove_hook_from_module  # noqa: E402

pytestmark = pytest.mark.clients

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def offload(model, folder):
    return accelerate.cpu_offload(model, torch.device("cpu"))


def offload_to_disk(model, folder):
    return accelerate.disk_offload(model, str(folder), torch.device("cpu"))


def dispatch(model, folder):
    """As with a map of several devices: every module has a hook, blocks and stages too."""
    return accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)


every_hook = pytest.mark.parametrize("hook", [offload, offload_to_disk, dispatch])


def attended():
    model = replace_se(small_network(), "CaCo")
    insert(model, "CBAM", after=["features.2", "features.3"], example=IMAGES)
    return randomized(model).eval()


@every_hook
def test_blocks_run_and_are_read_with_hooks(hook, tmp_path):
    model = attended()
    wanted, made_of, table = model(IMAGES), recipe(model), summary(model)
    gates = attention_maps(model, IMAGES)
    hooked = hook(model, tmp_path)
    torch.testing.assert_close(hooked(IMAGES), wanted, atol=1e-4, rtol=1e-4)
    assert recipe(hooked) == made_of
    assert summary(hooked) == table
    for site, attention in attention_maps(hooked, IMAGES).items():
        torch.testing.assert_close(attention.on_image, gates[site].on_image)
    remove_hook_from_module(hooked, recurse=True)
    assert recipe(hooked) == made_of
    torch.testing.assert_close(hooked(IMAGES), wanted, atol=1e-4, rtol=1e-4)


@every_hook
def test_a_change_under_hooks_is_refused_and_says_what_to_do(hook, tmp_path):
    model = attended()
    made_of, table = recipe(model), summary(model)
    hooked = hook(model, tmp_path)
    names = dict(hooked.named_modules())
    for change in (
        lambda: replace_se(hooked, "SE"),
        lambda: insert(hooked, "SE", after="features.4", example=IMAGES),
        lambda: remove(hooked),
        lambda: apply_recipe(hooked, made_of),
    ):
        with pytest.raises(TypeError, match=r"hooks of accelerate.*remove_hook_from_module"):
            change()
    assert dict(hooked.named_modules()) == names
    assert summary(hooked) == table


@every_hook
def test_as_the_error_says_it_works(hook, tmp_path):
    plain = small_network()
    sites = [site.name for site in find_se(plain)]
    hooked = hook(copy.deepcopy(plain), tmp_path / "before")
    assert [site.name for site in find_se(hooked)] == sites
    remove_hook_from_module(hooked, recurse=True)
    replace_se(hooked, "CaCo")
    wanted = replace_se(plain, "CaCo")(IMAGES)
    hooked = hook(hooked, tmp_path / "after")
    torch.testing.assert_close(hooked(IMAGES), wanted, atol=1e-4, rtol=1e-4)


def test_a_prepared_network_trains_and_can_be_swapped():
    accelerator = accelerate.Accelerator(cpu=True)
    model = attended()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    prepared, stepper = accelerator.prepare(model, optimizer)
    start = [p.clone() for p in model.parameters()]
    accelerator.backward(prepared.train()(IMAGES).square().mean())
    stepper.step()
    assert not any(map(torch.equal, start, model.parameters()))
    before = snapshot(prepared)
    with pytest.raises(ValueError, match="AcceleratedOptimizer wraps another optimizer"):
        replace_se(prepared, "SE", optimizers=stepper)
    assert unchanged(prepared, before)
    replace_se(prepared, "CaCo")
    accelerator.backward(prepared(IMAGES).square().mean())
    assert all(type(s.module) is CaCo for s in find_se(accelerator.unwrap_model(prepared)))


def test_a_network_without_data_is_swapped_before_its_weights_come(tmp_path):
    """As large networks are made: on the meta device, then from a file."""
    wanted = attended()
    accelerate.Accelerator(cpu=True).save_model(wanted, str(tmp_path))
    with accelerate.init_empty_weights():
        model = apply_recipe(small_network(), recipe(wanted)).eval()
    assert {p.device.type for p in model.parameters()} == {"meta"}
    accelerate.load_checkpoint_in_model(model, str(tmp_path), device_map={"": "cpu"}, strict=True)
    assert torch.equal(model(IMAGES), wanted(IMAGES))
