"""Blocks in networks that accelerate offloads, dispatches and prepares."""

import pytest
import torch

from attnblocks import SE, apply_recipe, find_se, insert, recipe, remove, replace_se, summary
from attnblocks.visualize import attention_maps
from tests.clients.attended import IMAGES, attended, plain
from tests.helpers import snapshot, unchanged

accelerate = pytest.importorskip(
    "accelerate", reason="accelerate is not installed: pip install '.[clients]'"
)
from accelerate.hooks import remove_hook_from_module  # noqa: E402

pytestmark = pytest.mark.clients


def offload(model, folder):
    return accelerate.cpu_offload(model, torch.device("cpu"))


def offload_to_disk(model, folder):
    return accelerate.disk_offload(model, str(folder), torch.device("cpu"))


def dispatch(model, folder):
    """As with a map of several devices: every module has a hook, blocks and stages too."""
    return accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)


every_hook = pytest.mark.parametrize("hook", [offload, offload_to_disk, dispatch])


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
        lambda: insert(hooked, "SE", after="stage", example=IMAGES),
        lambda: remove(hooked),
        lambda: apply_recipe(hooked, made_of),
    ):
        with pytest.raises(TypeError, match=r"hooks of accelerate.*remove_hook_from_module"):
            change()
    assert dict(hooked.named_modules()) == names
    assert summary(hooked) == table


@every_hook
def test_as_the_error_says_it_works(hook, tmp_path):
    sites = [site.name for site in find_se(plain())]
    hooked = hook(plain(), tmp_path / "before")
    assert [site.name for site in find_se(hooked)] == sites
    remove_hook_from_module(hooked, recurse=True)
    replace_se(hooked, "CaCo")
    wanted = replace_se(plain(), "CaCo")(IMAGES)
    hooked = hook(hooked, tmp_path / "after")
    torch.testing.assert_close(hooked(IMAGES), wanted, atol=1e-4, rtol=1e-4)


def test_a_prepared_network_trains_and_can_be_swapped():
    accelerator = accelerate.Accelerator(cpu=True)
    model = attended()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    prepared, stepper = accelerator.prepare(model, optimizer)
    start = {name: p.clone() for name, p in model.named_parameters()}
    accelerator.backward(prepared.train()(IMAGES).square().mean())
    stepper.step()
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, start[name])]
    assert {name.split(".")[0] for name in moved} >= {"stem", "se", "late", "fc"}
    assert any("attention" in name for name in moved)
    before = snapshot(prepared)
    with pytest.raises(ValueError, match="AcceleratedOptimizer wraps another optimizer"):
        replace_se(prepared, "SE", optimizers=stepper)
    assert unchanged(prepared, before)
    replace_se(prepared, "SE")
    accelerator.backward(prepared(IMAGES).square().mean())
    assert all(type(s.module) is SE for s in find_se(accelerator.unwrap_model(prepared)))


def test_a_network_without_data_is_swapped_before_its_weights_come(tmp_path):
    """As large networks are made: on the meta device, then from a file."""
    wanted = attended()
    accelerate.Accelerator(cpu=True).save_model(wanted, str(tmp_path))
    with accelerate.init_empty_weights():
        model = apply_recipe(plain(), recipe(wanted)).eval()
    assert {p.device.type for p in model.parameters()} == {"meta"}
    accelerate.load_checkpoint_in_model(model, str(tmp_path), device_map={"": "cpu"}, strict=True)
    assert torch.equal(model(IMAGES), wanted(IMAGES))
