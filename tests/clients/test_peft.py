"""PEFT: adapters on every layer of every block train, and merge into a network like any other."""

import copy

import pytest
import torch
from torch import nn

from attnblocks import create_block, find_se, load_model, recipe, replace_se, save_model, summary
from tests.helpers import BLOCKS, randomized

peft = pytest.importorskip("peft", reason="peft is not installed: pip install '.[clients]'")

pytestmark = pytest.mark.clients

IMAGES = torch.rand(2, 3, 16, 20, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.tensor([0, 1])

every_block = pytest.mark.parametrize("block", BLOCKS)


def with_blocks(block):
    """A network with two blocks, one of them with a gain."""
    first, second = create_block(block, 16), create_block(block, 24)
    second.start_as_identity()
    network = nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.ReLU(), first, nn.Conv2d(16, 24, 3, stride=2), nn.ReLU(), second),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4)),
    )
    return randomized(network).double().eval()


def layers_of(model):
    """The names of all layers with weights in its blocks, but for norms."""
    return [
        f"{site.name}.{name}"
        for site in find_se(model)
        for name, layer in site.module.named_modules()
        if isinstance(layer, (nn.Conv1d, nn.Conv2d))
    ]


def trained(network, steps=2):
    """A network after some steps on all that its adapters leave to train, in eval mode."""
    left = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(left, lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(IMAGES), LABELS).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in left)
        optimizer.step()
    return network.eval()


def config(kind, layers):
    kinds = {
        "LoRA": lambda: peft.LoraConfig(target_modules=layers, r=4),
        "DoRA": lambda: peft.LoraConfig(target_modules=layers, r=4, use_dora=True),
        "LoHa": lambda: peft.LoHaConfig(target_modules=layers, r=4),
        "LoKr": lambda: peft.LoKrConfig(target_modules=layers, r=4),
        "IA3": lambda: peft.IA3Config(target_modules=layers, feedforward_modules=[]),
        "BOFT": lambda: peft.BOFTConfig(target_modules=layers, boft_block_size=1),
    }
    return kinds[kind]()


@every_block
@pytest.mark.parametrize("kind", ["LoRA", "DoRA", "LoHa", "LoKr", "IA3", "BOFT"])
def test_adapters_of_every_layer_train_and_merge(kind, block, tmp_path):
    model = with_blocks(block)
    layers, before, start = layers_of(model), model(IMAGES).detach(), copy.deepcopy(model)
    if block == "Eca" and kind in ("IA3", "BOFT"):
        with pytest.raises((TypeError, ValueError), match=r"Conv1d.* is not supported"):
            peft.get_peft_model(model, config(kind, layers))
        return
    adapted = peft.get_peft_model(model, config(kind, layers))
    torch.testing.assert_close(adapted.eval()(IMAGES), before, rtol=0, atol=1e-7)
    left = {name for name, p in adapted.named_parameters() if p.requires_grad}
    for layer in layers:
        assert any(f".{layer}." in name for name in left), layer
    assert all(
        "lora_" in n or "hada_" in n or "lokr_" in n or "ia3_" in n or "boft_" in n for n in left
    )
    expected = trained(adapted)(IMAGES).detach()
    assert (expected - before).abs().max() > 1e-5
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(IMAGES), expected, rtol=0, atol=1e-7)
    assert recipe(merged) == recipe(start)
    save_model(merged, tmp_path / "merged.safetensors")
    loaded = load_model(tmp_path / "merged.safetensors", base=with_blocks(block))
    torch.testing.assert_close(loaded(IMAGES), merged(IMAGES))


@every_block
def test_lora_adds_the_product_of_its_matrices_to_every_layer(block):
    """The outputs of a network whose weights are changed by hand, by the definition of LoRA."""
    model = with_blocks(block)
    changed = copy.deepcopy(model)
    adapted = trained(peft.get_peft_model(model, config("LoRA", layers_of(model))))
    for name, layer in adapted.base_model.model.named_modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            delta = up.flatten(1) @ down.flatten(1) * layer.scaling["default"]
            weight = changed.get_submodule(name).weight
            weight.data += delta.view_as(weight)
    torch.testing.assert_close(adapted(IMAGES), changed(IMAGES), rtol=0, atol=1e-7)


def test_a_block_beside_the_adapters_is_trained_as_a_whole():
    model = with_blocks("CaCo")
    names = [site.name for site in find_se(model)]
    options = peft.LoraConfig(target_modules=["8"], modules_to_save=names)
    adapted = peft.get_peft_model(model, options)
    with pytest.raises(TypeError, match=r"AuxiliaryTrainingWrapper \(its '2'\)"):
        find_se(adapted.base_model.model)
    expected = trained(adapted)(IMAGES).detach()
    merged = adapted.merge_and_unload()
    assert [site.name for site in find_se(merged)] == names
    torch.testing.assert_close(merged(IMAGES), expected, rtol=0, atol=1e-7)


def test_before_the_merge_a_network_says_what_to_do(tmp_path):
    model = with_blocks("SE")
    options = config("LoRA", layers_of(model))
    mixed = peft.PeftMixedModel(with_blocks("SE"), options)
    adapted = peft.get_peft_model(model, options)
    for network, what in (
        (adapted, "PeftModel"),
        (mixed, "PeftMixedModel"),
        (model, r"its '2.fc1'\)"),
    ):
        for read in (
            find_se,
            recipe,
            summary,
            lambda network: save_model(network, tmp_path / "no.safetensors"),
            lambda network: replace_se(network, "CaCo"),
        ):
            with pytest.raises(TypeError, match=rf"{what}.*merge_and_unload\(\)"):
                read(network)
    assert not list(tmp_path.iterdir())
    assert len(find_se(adapted.unload())) == 2
