"""Wrapped networks: read alike by every public function, or refused by name."""

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.optim.swa_utils import AveragedModel

from attnblocks import (
    SE,
    CaCo,
    apply_recipe,
    find_se,
    recipe,
    replace_se,
    save_model,
    summary,
    warm_start,
)
from attnblocks.visualize import attention_maps
from tests.helpers import small_network, snapshot, unchanged

IMAGES = torch.rand(2, 3, 32, 32)


def swapped() -> nn.Module:
    return replace_se(small_network(), CaCo)


def ema(version: str) -> Callable[[nn.Module], nn.Module]:
    return lambda model: getattr(timm.utils.model_ema, version)(model)


READ: dict[str, Callable[[nn.Module], nn.Module]] = {
    "OptimizedModule": lambda model: torch.compile(model, backend="eager"),
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "AveragedModel": AveragedModel,
    "ModelEmaV2": ema("ModelEmaV2"),
    "ModelEmaV3": ema("ModelEmaV3"),
}
"""Those whose network inside has the tensors that count."""


def sharded(model: nn.Module) -> nn.Module:
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    return fully_shard(model, mesh=mesh)


def half_compiled(model: nn.Module) -> nn.Module:
    model.features = torch.compile(model.features, backend="eager")
    return model


REFUSED: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "FSDPModule": (sharded, "FSDPModule: its tensors are spread.*before fully_shard"),
    "ScriptModule": (
        lambda model: torch.jit.trace(model, IMAGES),
        "ScriptModule: take the network that was scripted or traced",
    ),
    "part": (
        half_compiled,
        r"OptimizedModule \(its 'features'\): .* inside, model\.features\._orig_mod",
    ),
    "twice": (lambda model: nn.DataParallel(half_compiled(model)), r"OptimizedModule \(its 'f"),
}
"""Those that no function takes."""


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("wrap", READ.values(), ids=READ)
def test_what_only_reads_looks_inside(wrap):
    model = swapped()
    wrapped = wrap(copy.deepcopy(model))
    assert [site.name for site in find_se(wrapped)] == [site.name for site in find_se(model)]
    assert summary(wrapped, wrapped) == summary(model, model)
    assert recipe(wrapped) == recipe(model)
    device = next(wrapped.parameters()).device  # DataParallel moves the network to a GPU
    found, wanted = attention_maps(wrapped, IMAGES.to(device)), attention_maps(model, IMAGES)
    assert found.keys() == wanted.keys()
    for site, attention in wanted.items():
        on_image = found[site].on_image.cpu()
        tolerances = {} if device.type == "cpu" else {"rtol": 1e-2, "atol": 1e-3}  # TF32
        torch.testing.assert_close(on_image, attention.on_image, **tolerances)
    # Wrapped once more, it is the same network still.
    assert recipe(nn.DataParallel(wrapped)) == recipe(model)


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("wrap", READ.values(), ids=READ)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_changes_a_network_names_the_one_inside(wrap, request):
    wrapped = wrap(small_network())
    before = snapshot(wrapped)
    name = request.node.callspec.id
    inside = "_orig_mod" if name == "OptimizedModule" else "module"
    for change in (
        lambda: replace_se(wrapped, CaCo),
        lambda: apply_recipe(wrapped, []),
        lambda: warm_start(wrapped, small_network(), [IMAGES]),
    ):
        with pytest.raises(TypeError, match=rf"cannot change a {name}: .*model\.{inside}"):
            change()
    assert unchanged(wrapped, before)
    assert [type(site.module) is CaCo for site in find_se(wrapped)] == [False] * 9


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize(("wrap", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_what_cannot_be_told_is_refused_by_every_function(wrap, message, tmp_path):
    wrapped = wrap(swapped())
    for read in (
        find_se,
        summary,
        recipe,
        lambda model: attention_maps(model, IMAGES),
        lambda model: summary(swapped(), model),
        lambda model: warm_start(swapped(), model, [IMAGES]),
        lambda model: save_model(model, tmp_path / "file.safetensors"),
    ):
        with pytest.raises(TypeError, match=f"cannot read a {message}"):
            read(wrapped)
    assert list(tmp_path.glob("*.safetensors")) == []
    if not isinstance(wrapped, nn.DataParallel):
        with pytest.raises(TypeError, match=f"replace_se cannot change a {message}"):
            replace_se(wrapped, CaCo)


@pytest.mark.usefixtures("process_group")
def test_the_first_form_of_fsdp_is_refused():
    if not torch.cuda.is_available():
        pytest.skip("FullyShardedDataParallel needs an accelerator")
    wrapped = FullyShardedDataParallel(swapped().cuda())
    with pytest.raises(TypeError, match="FullyShardedDataParallel: its tensors are spread"):
        find_se(wrapped)


def test_a_network_with_a_lazy_layer_that_has_not_run_is_swapped():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), SE(16), nn.Flatten(), nn.LazyLinear(5))
    assert summary(model).splitlines()[-1].split() == ["network", f"{16 * 27 + 16 + 280}+"]
    copied = replace_se(model, CaCo, inplace=False)
    for network in (copied, replace_se(model, CaCo)):
        assert type(network[1]) is CaCo
        assert network(torch.rand(2, 3, 8, 8)).shape == (2, 5)
    assert "+" not in summary(model)
