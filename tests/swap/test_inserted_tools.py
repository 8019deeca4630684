"""What is done with networks goes on with inserted blocks: copies, files, compilers, training."""

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from attnblocks import SE, find_se, insert, remove
from tests.swap.inserted import IMAGES, Net, anatomy, net, same_anatomy, same_bits
from tests.swap.two_processes import train_in_two

PLACES = {"bn": "CaCo", "stem.1": "CBAM", "stem": "SE", "depthwise": "CoordAtt"}
OTHER = torch.rand(3, 3, 20, 26, generator=torch.Generator().manual_seed(4))
SIZES = {0: Dim("n", min=1), 2: 2 * Dim("h", min=2), 3: 2 * Dim("w", min=2)}


def attended(init: str = "fresh") -> nn.Module:
    """The small network with four blocks that count, one of them in another home, in eval mode."""
    return insert(net(), PLACES, example=IMAGES, init=init).eval()


def places(model: nn.Module) -> list[tuple[str, str | None]]:
    return [(site.name, site.after) for site in find_se(model)]


def test_the_blocks_that_are_tried_count():
    assert not torch.allclose(attended()(IMAGES), net()(IMAGES))
    assert len(places(attended())) == 4


def through(save, load):
    def trip(model: nn.Module) -> nn.Module:
        file = io.BytesIO()
        save(model, file)
        file.seek(0)
        return load(file)

    return trip


@pytest.mark.parametrize(
    "trip",
    [
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        through(torch.save, lambda file: torch.load(file, weights_only=False)),
    ],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_a_copy_runs_its_own_blocks(trip):
    model = attended()
    before = anatomy(model)
    copied = trip(trip(model))
    assert places(copied) == places(model)
    assert same_bits(copied(OTHER), model(OTHER))
    with torch.no_grad():
        for p in copied.stem[2].stem_attention.parameters():
            p.add_(1)
        expected = model(OTHER)
        assert not torch.allclose(copied(OTHER), expected)
    # Hooks that are added and removed later do not touch those that were copied.
    for module in copied.modules():
        module.register_forward_hook(lambda *_: None).remove()
    assert places(copied) == places(model)
    insert(copied, "Eca", after="pool", example=IMAGES)
    remove(copied)
    assert same_anatomy(model, before)
    assert same_bits(copied(OTHER), net()(OTHER))


CHILD = """
import sys, torch
from torch import nn
earlier = nn.ReLU()
for _ in range(3):
    earlier.register_forward_hook(lambda *_: None)
model = torch.load(sys.argv[1], weights_only=False)
for module in model.modules():  # their numbers must be new ones
    count = len(module._forward_hooks)
    module.register_forward_hook(lambda module, args, output: None)
    assert len(module._forward_hooks) == count + 1
from attnblocks import find_se, insert, remove
images, expected = torch.load(sys.argv[2])
torch.testing.assert_close(model(images), expected)  # with hooks, and so by layers
assert len(find_se(model)) == 4
insert(model, "Eca", after="bn", example=images)
torch.testing.assert_close(model(images), expected)
remove(model)
"""


def test_a_pickle_in_a_new_process(tmp_path):
    model = attended()
    torch.save(model, tmp_path / "model")
    torch.save((OTHER, model(OTHER).detach()), tmp_path / "data")
    command = [sys.executable, "-c", CHILD, str(tmp_path / "model"), str(tmp_path / "data")]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == 0, done.stderr


def test_state_dicts():
    model = attended()
    again = attended()
    again.load_state_dict(model.state_dict())
    assert same_bits(again(OTHER), model(OTHER))
    gained, other = attended("identity"), attended("identity")
    other.load_state_dict(model.state_dict(), strict=False)  # gains of 1 for what has none
    assert same_bits(other(OTHER), model(OTHER))
    other.load_state_dict(gained.state_dict())
    assert same_bits(other(OTHER), gained(OTHER))
    plain = net()
    missing = model.load_state_dict(plain.state_dict(), strict=False)  # pre-trained weights fit
    assert all("attention" in key for key in missing.missing_keys)
    assert missing.unexpected_keys == []
    assert plain.load_state_dict(model.state_dict(), strict=False).missing_keys == []


def test_compiled_whole():
    torch.compiler.reset()
    model = attended()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(OTHER), model(OTHER))
    assert places(compiled) == places(model)


@pytest.mark.parametrize(
    "strict", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["not strict", "strict"]
)
def test_exported_with_dynamic_sizes(strict):
    model = attended()
    program = torch.export.export(model, (IMAGES,), dynamic_shapes=(SIZES,), strict=strict)
    torch.testing.assert_close(program.module()(OTHER), model(OTHER))


def test_onnx_at_another_size(tmp_path):
    model = attended()
    path = str(tmp_path / "net.onnx")
    torch.onnx.export(model, (IMAGES,), path, dynamo=True, dynamic_shapes=(SIZES,), verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: OTHER.numpy()})
    np.testing.assert_allclose(y, model(OTHER).detach().numpy(), atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_traced():
    model = attended()
    torch.testing.assert_close(torch.jit.trace(model, IMAGES)(OTHER), model(OTHER))
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(OTHER), model(OTHER))
    # Its name begins with a digit.
    digits = nn.Sequential(nn.Conv2d(3, 8, 3), SE(8)).eval()
    insert(digits, "Eca", after="1", example=IMAGES, init="fresh")
    assert places(digits)[0] == ("0.1_attention", "1")
    program = torch.export.export(digits, (OTHER,)).module()
    for traced in (torch.jit.trace(digits, IMAGES), torch.fx.symbolic_trace(digits), program):
        torch.testing.assert_close(traced(OTHER), digits(OTHER))


def test_functions_of_the_parameters():
    model = attended()
    state = dict(model.state_dict())
    doubled = {key: value * 2 if "attention" in key else value for key, value in state.items()}
    written = copy.deepcopy(model).requires_grad_(False)  # in the form of the values, to the bit
    written.load_state_dict(doubled)
    ours = torch.func.functional_call(model, doubled, (OTHER,))
    assert same_bits(ours, written(OTHER))
    assert not torch.allclose(ours, model(OTHER))
    # One network for each of two states, as in ensembles.
    stacked = {key: torch.stack([state[key], doubled[key]]) for key in state}
    both = torch.func.vmap(lambda values: torch.func.functional_call(model, values, (OTHER,)))(
        stacked
    )
    torch.testing.assert_close(both, torch.stack([model(OTHER), ours]))


def test_an_average_of_weights():
    model = attended().train()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average.update_parameters(model)  # the first is a copy
    first = copy.deepcopy(model.state_dict())
    model(IMAGES).square().sum().backward()
    optimizer.step()
    average.update_parameters(model)
    assert places(average) == places(model)
    for key, p in model.named_parameters():
        torch.testing.assert_close(average.module.get_parameter(key), (first[key] + p) / 2)
    fresh = Net().eval()
    expected = insert(fresh, PLACES, example=IMAGES, init="fresh")
    expected.load_state_dict(average.module.state_dict())
    assert same_bits(average.eval()(OTHER), expected.eval()(OTHER))


def test_channels_last():
    model = attended().to(memory_format=torch.channels_last)
    x = OTHER.contiguous(memory_format=torch.channels_last)
    seen: list[torch.Tensor] = []
    model.stem[2].stem_attention.register_forward_hook(lambda m, args, output: seen.append(output))
    torch.testing.assert_close(model(x), attended()(OTHER))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_parallel_processes_train_as_one(processes, tmp_path):
    """Each on its part of the batch; blocks get the gradients of all."""
    model = attended()
    torch.save((model, OTHER[:2]), tmp_path / "start")
    train_in_two(processes, tmp_path)
    for p in model.parameters():
        p.grad = None
    model(OTHER[:2]).square().mean().backward()
    with torch.no_grad():
        for p in model.parameters():
            p.sub_(p.grad, alpha=0.1)
    for rank in range(processes):
        state, found = torch.load(tmp_path / f"{rank}.pt")
        assert found == places(model)
        for key, p in model.named_parameters():
            torch.testing.assert_close(state[key], p.detach(), atol=1e-6, rtol=1e-4)
            if "attention" in key and p.grad.abs().max() > 1e-5:
                assert not torch.equal(state[key], attended().state_dict()[key])


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for seed in range(steps):
        x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def test_an_optimizer_checkpoint_from_before_and_one_from_afterwards(tmp_path):
    model = net().train()
    first = torch.optim.AdamW(model.parameters(), lr=0.01)
    train(model, first, 2)
    torch.save({"model": model.state_dict(), "optimizer": first.state_dict()}, tmp_path / "a")

    resumed = net(1).train()
    optimizer = torch.optim.AdamW(resumed.parameters(), lr=0.5)
    checkpoint = torch.load(tmp_path / "a")
    resumed.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    states = {name: optimizer.state[p] for name, p in resumed.named_parameters()}
    insert(resumed, PLACES, example=IMAGES, optimizers=optimizer)
    for name, p in resumed.named_parameters():
        if "attention" in name:
            assert p not in optimizer.state
        else:
            assert optimizer.state[p] is states[name]
            assert optimizer.state[p]["step"] == 2
    train(resumed, optimizer, 1)
    # The old parameters take the step that they take without blocks.
    train(model, first, 1)
    for name, p in model.named_parameters():
        torch.testing.assert_close(resumed.get_parameter(name), p, atol=1e-5, rtol=1e-4)

    torch.save({"model": resumed.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "b")
    again = insert(net(2), PLACES, example=IMAGES).train()
    checkpoint = torch.load(tmp_path / "b")
    again.load_state_dict(checkpoint["model"])
    other = torch.optim.AdamW(again.parameters(), lr=0.5)
    other.load_state_dict(checkpoint["optimizer"])
    for (name, ours), theirs in zip(again.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(other.state[ours]["exp_avg"], optimizer.state[theirs]["exp_avg"]), name
    train(again, other, 2)
    train(resumed, optimizer, 2)
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), resumed.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    "register", ["register_full_backward_hook", "register_full_backward_pre_hook"]
)
def test_a_backward_hook_that_would_look_behind_a_block_is_refused(register):
    model = attended()
    seen = []
    handle = getattr(model.stem, register)(lambda module, *gradients: seen.append(gradients))
    model(IMAGES).sum().backward()  # on a container it is what its users get
    assert len(seen) == 1
    handle.remove()
    handle = getattr(model.bn, register)(lambda *_: None)
    with pytest.raises(RuntimeError, match=r"this BatchNorm2d has a backward hook.*'attention'"):
        model(IMAGES)
    with torch.no_grad():  # nothing goes backward
        model(IMAGES)
    handle.remove()
    model(IMAGES)
