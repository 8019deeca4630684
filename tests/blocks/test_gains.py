"""A gain multiplies its gate and nothing else, and goes wherever the weights of a block go."""

import copy
import pickle

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.func import functional_call, stack_module_state, vmap

from attnblocks import apply_recipe, create_block, load_model, recipe, save_model
from attnblocks.blocks.cbam import ChannelGate, SpatialGate
from attnblocks.blocks.coord_att import CoordGate
from attnblocks.blocks.se import SEGate
from tests import reference as ref
from tests.helpers import BLOCKS, both_modes, every_block, random_block, random_map

C = 16
PER_CHANNEL = torch.linspace(0.25, 4, C).tolist()
GAINS = {
    "SE": {"gain": 1.5},
    "Eca": {"gain": PER_CHANNEL},
    "CoordAtt": {"gain": PER_CHANNEL},
    "CBAM": {"gain": PER_CHANNEL, "spatial_gain": 3.0},
    "SeCo": {"gain": 0.5, "coord_gain": PER_CHANNEL},
    "CaCo": {"gain": PER_CHANNEL, "coord_gain": 1.25},
}
NUMBERS = {
    name: {key: (2.0 if isinstance(gain, list) else gain) for key, gain in gains.items()}
    for name, gains in GAINS.items()
}
every_gain = pytest.mark.parametrize("gains", [GAINS, NUMBERS], ids=["channels", "number"])


def keys(name: str) -> list[str]:
    """Keys of the gains in a state dict of the block."""
    stages = {"CBAM": ["channel.", "spatial."], "SeCo": ["se.", "coord."]}
    stages["CaCo"] = ["channel.", "coord."]
    return [f"{stage}gain" for stage in stages.get(name, [""])]


def gained_block(name: str, gains=GAINS, seed: int = 0, **kwargs) -> nn.Module:
    """A block with random weights, and these gains."""
    block = random_block(name, C, seed=seed, **kwargs)
    gained = create_block(name, C, **gains[name], **kwargs).eval()
    gained.load_state_dict({**gained.state_dict(), **block.state_dict()})
    return gained


def formula(name: str, w, x, gains, train: bool):
    """The gains once more: factors of the maps between the stages of the reference."""
    factor = {key: np.reshape(gain, (-1, 1, 1)) for key, gain in gains.items()}
    if name == "CBAM":
        y = ref.channel_attention(ref.stage(w, "channel"), x, train) * factor["gain"]
        return ref.spatial_attention(ref.stage(w, "spatial"), y, train) * factor["spatial_gain"]
    if name in ("SeCo", "CaCo"):
        first = ref.se if name == "SeCo" else ref.channel_attention
        y = first(ref.stage(w, "se" if name == "SeCo" else "channel"), x, train) * factor["gain"]
        return ref.coord_att(ref.stage(w, "coord"), y, train) * factor["coord_gain"] ** 2
    power = 2 if name == "CoordAtt" else 1
    return ref.REFERENCE[name](w, x, train) * factor["gain"] ** power


@both_modes
@every_gain
@every_block
def test_a_gain_multiplies_its_gate(name, gains, train):
    block = gained_block(name, gains, dtype=torch.float64).train(train)
    x = random_map(3, C, 5, 7, dtype=torch.float64)
    wanted = formula(name, ref.weights(block), x.numpy(), gains[name], train)
    torch.testing.assert_close(block(x).detach(), torch.from_numpy(wanted), rtol=1e-9, atol=1e-9)


@every_block
def test_without_a_gain_a_block_is_the_published_one(name):
    block, gained = create_block(name, C), create_block(name, C, **GAINS[name])
    none = create_block(name, C, **dict.fromkeys(GAINS[name]))
    assert list(none.state_dict()) == list(block.state_dict())
    assert gained.state_dict().keys() - block.state_dict().keys() == set(keys(name))
    assert [k for k, _ in gained.named_parameters()] == [k for k, _ in block.named_parameters()]
    assert "gain" not in repr(block) + str(recipe(nn.Sequential(block)))
    assert recipe(nn.Sequential(none)) == recipe(nn.Sequential(block))


@every_block
def test_one_gain_for_all_channels_and_equal_gains_are_the_same(name):
    x = random_map(2, C, 5, 4)
    one, equal = (gained_block(name, {name: {"gain": g}}) for g in (2.0, torch.full((C,), 2.0)))
    assert torch.equal(one(x), equal(x))


@every_block
def test_old_weights_give_a_gain_of_one_and_say_so(name):
    block, gained = random_block(name, C), gained_block(name)
    x = random_map(2, C, 5, 4)
    network = nn.ModuleDict({"block": gained})
    given = {f"block.{key}": value for key, value in block.state_dict().items()}
    with pytest.warns(UserWarning, match="which was set to 1") as said:
        network.load_state_dict(given)
    assert all((gained.state_dict()[key] == 1).all() for key in keys(name))
    assert len(given) == len(block.state_dict())  # the caller's own dict is left alone
    assert torch.equal(gained(x), block(x))
    assert [str(warning.message) for warning in said] == [
        f"the state dict has the weights of a block and no block.{key}, which was set to 1; "
        "a state dict with buffers, such as model.state_dict(), has it"
        for key in keys(name)
    ]
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    with pytest.warns(UserWarning, match="set to 1"):
        network.load_state_dict(parameters, strict=False)


@pytest.mark.filterwarnings("error")
@every_block
def test_a_gain_stays_unless_all_weights_of_its_stage_come(name):
    """Its own, statistics alone and all weights but one do not tell how the block computed."""
    gained = gained_block(name)
    network = nn.ModuleDict({"block": gained, "head": nn.Linear(2, 2)})
    state = network.state_dict()
    before = {key: state[f"block.{key}"].clone() for key in keys(name)}
    without = {key: value for key, value in state.items() if not key.endswith("gain")}
    parameters = {key for key, _ in network.named_parameters()}
    parts = [state, {key: v for key, v in without.items() if key not in parameters}]
    parts += [{key: v for key, v in without.items() if key.startswith("head")}]
    for stage in {key.rpartition("gain")[0] for key in keys(name)}:
        own = [key for key in without if key.startswith(f"block.{stage}") and key in parameters]
        parts += [{k: v for k, v in without.items() if k in own and k != left} for left in own]
    for part in parts:
        network.load_state_dict(part, strict=False)
        assert all(torch.equal(gained.state_dict()[key], before[key]) for key in keys(name))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("own", [None, NUMBERS, GAINS], ids=["none", "number", "channels"])
@every_gain
@every_block
def test_a_stage_takes_the_gain_of_a_state_dict_whatever_it_had(name, gains, own):
    saved, x = gained_block(name, gains), random_map(2, C, 5, 4)
    for options in ({}, {"assign": True}, {"strict": False}):
        block = create_block(name, C, **(own or {name: {}})[name]).eval()
        assert not any(block.load_state_dict(saved.state_dict(), **options))
        assert torch.equal(block(x), saved(x))
        assert not any(value.requires_grad for value in block.buffers())
    meta = create_block(name, C, device="meta").eval()
    meta.load_state_dict(saved.state_dict(), assign=True)
    assert torch.equal(meta(x), saved(x))
    half = create_block(name, C, dtype=torch.bfloat16)
    half.load_state_dict(saved.state_dict())
    assert {half.state_dict()[key].dtype for key in keys(name)} == {torch.bfloat16}


def test_a_gain_that_is_loaded_in_inference_mode_can_be_trained_with():
    saved, block = gained_block("Eca"), create_block("Eca", C)
    with torch.inference_mode():
        block.load_state_dict(saved.state_dict())
    block(random_map(2, C, 5, 4)).sum().backward()
    assert block.conv.weight.grad.abs().max() > 0


def test_a_gain_that_was_made_a_parameter_is_loaded_as_one():
    block, saved = create_block("Eca", C, gain=2.0), create_block("Eca", C, gain=3.0)
    block.gain = nn.Parameter(block.gain)
    own = block.gain
    block.load_state_dict(saved.state_dict())
    assert block.gain is own
    assert own == 3.0
    with pytest.raises(RuntimeError, match="size mismatch for gain"):
        block.load_state_dict(gained_block("Eca").state_dict())


@pytest.mark.parametrize(
    ("own", "error"), [(None, "Unexpected key.*gain"), (2.0, "size mismatch for gain")]
)
def test_a_gain_of_another_number_of_channels_is_refused(own, error):
    block = create_block("Eca", C, gain=own)
    state = {**block.state_dict(), "gain": torch.ones(C + 1)}
    with pytest.raises(RuntimeError, match=error):
        block.load_state_dict(state)
    assert block.gain is None if own is None else block.gain == own


@every_gain
@every_block
def test_recipes_and_files_keep_gains(name, gains, tmp_path):
    model = nn.Sequential(nn.Conv2d(3, C, 1), gained_block(name, gains)).eval()
    x = random_map(2, 3, 5, 4)
    base = nn.Sequential(nn.Conv2d(3, C, 1), create_block("SE", C)).eval()
    rebuilt = apply_recipe(copy.deepcopy(base), recipe(model)).eval()
    for key in keys(name):
        assert torch.equal(rebuilt[1].state_dict()[key], model[1].state_dict()[key])
    assert recipe(rebuilt) == recipe(model)
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors", base=base)
    assert torch.equal(loaded(x), model(x))


@every_block
def test_gains_follow_copies_pickles_and_moves(name):
    block = gained_block(name)
    x = random_map(2, C, 5, 4)
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(other(x), block(x))
    half = copy.deepcopy(block).to(torch.bfloat16)
    meta = create_block(name, C, device="meta", dtype=torch.float64, **GAINS[name])
    for key in keys(name):
        assert half.state_dict()[key].dtype == torch.bfloat16
        value = meta.state_dict()[key]
        assert (value.device.type, value.dtype) == ("meta", torch.float64)
    assert half(x.bfloat16()).dtype == torch.bfloat16
    assert meta(x.double().to("meta")).shape == x.shape
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(block(x), block(x.double().float()), rtol=0, atol=0)


# Between them these two have gains of channels, of positions, and of rows and columns.
exported_block = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in ("CBAM", "CoordAtt")))
        for name in BLOCKS
    ],
)


@exported_block
@pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
@torch.no_grad()
def test_gained_blocks_compile_export_and_trace(name):
    torch.compiler.reset()
    block, other = gained_block(name), random_map(3, C, 12, 9)
    example = random_map(2, C, 8, 6)
    sizes = {0: Dim("n", min=1), 2: Dim("h", min=1), 3: Dim("w", min=1)}
    for form in (
        torch.compile(block, fullgraph=True, dynamic=True, backend="aot_eager"),
        torch.export.export(block, (example,), dynamic_shapes=(sizes,)).module(),
        torch.jit.trace(block, example),
    ):
        torch.testing.assert_close(form(other), block(other))


@exported_block
def test_gained_blocks_run_in_onnx(name, tmp_path):
    block, other = gained_block(name), random_map(3, C, 12, 9)
    sizes = {0: Dim("n", min=1), 2: Dim("h", min=1), 3: Dim("w", min=1)}
    path = str(tmp_path / "block.onnx")
    example = (random_map(2, C, 8, 6),)
    torch.onnx.export(block, example, path, dynamo=True, dynamic_shapes=(sizes,), verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: other.numpy()})
    np.testing.assert_allclose(y, block(other).detach().numpy(), atol=1e-5)


@every_block
def test_gained_blocks_run_under_vmap(name):
    blocks = [gained_block(name, seed=seed) for seed in (0, 1)]
    x = random_map(2, C, 5, 4)
    parameters, buffers = stack_module_state(blocks)
    run = vmap(lambda p, b, x: functional_call(blocks[0], (p, b), (x,)), in_dims=(0, 0, None))
    wanted = torch.stack([block(x) for block in blocks])
    torch.testing.assert_close(run(parameters, buffers, x), wanted)


@pytest.mark.parametrize(
    ("gain", "error", "message"),
    [
        (0.0, ValueError, "gain must be above 0 and finite in torch.float32, got 0.0"),
        (-1.0, ValueError, "gain must be above 0 and finite in torch.float32, got -1.0"),
        (float("inf"), ValueError, "gain must be above 0 and finite in torch.float32, got inf"),
        (float("nan"), ValueError, "gain must be above 0 and finite in torch.float32, got nan"),
        ([1.0] * 15 + [0.0], ValueError, "gain must be above 0 and finite"),
        ([1.0, 2.0], ValueError, "gain must be one number, or 16, got 2"),
        (torch.ones(17), ValueError, "gain must be one number, or 16, got 17"),
        (1e-50, ValueError, "gain must be above 0 and finite in torch.float32, got 1e-50"),
        (torch.ones(16, 1), TypeError, "gain must be None, a number or a number for each channel"),
        ("2", TypeError, "gain must be None, a number or a number for each channel: '2'"),
        (True, TypeError, "gain must be None, a number or a number for each channel: True"),
    ],
)
def test_a_wrong_gain_is_an_error_that_names_it(gain, error, message):
    for name in BLOCKS:
        for argument in GAINS[name]:
            if argument == "spatial_gain" and isinstance(gain, list | torch.Tensor):
                continue
            with pytest.raises(error, match=message.replace("gain must", f"{argument} must")):
                create_block(name, C, **{argument: gain})


def test_a_wrong_gain_leaves_the_one_that_is_there():
    block = create_block("SE", C, gain=2.0)
    with pytest.raises(ValueError, match="gain must be above 0"):
        block.set_gain(-1.0, C)
    assert block.gain == 2


def test_the_gain_of_positions_is_one_number():
    with pytest.raises(ValueError, match="spatial_gain must be one number, got 16"):
        create_block("CBAM", C, spatial_gain=PER_CHANNEL)


def test_eca_with_a_gain_for_each_channel_takes_their_number_only():
    x = random_map(1, 8, 3, 3)
    assert create_block("Eca", C, gain=2.0)(x).shape == x.shape
    with pytest.raises(ValueError, match="Eca was built for 16 channels, got 8"):
        create_block("Eca", C, gain=PER_CHANNEL)(x)


def test_stages_have_gains_of_their_own():
    v = torch.rand(2, C, 1, 1)
    for stage, inputs in (
        (SEGate, (v,)),
        (ChannelGate, (v, v)),
        (CoordGate, (torch.rand(2, C, 9, 1), 4, v)),
    ):
        torch.manual_seed(0)
        plain = stage(C).eval()
        torch.manual_seed(0)
        gained = stage(C, gain=4.0).eval()
        gates, wanted = gained(*inputs), plain(*inputs)
        if stage is not CoordGate:
            gates, wanted = [gates], [wanted]
        assert all(torch.equal(4 * w, g) for w, g in zip(wanted, gates, strict=True))
    planes, gate = torch.rand(2, 2, 4, 4), SpatialGate().eval()
    wanted = 4 * gate(planes)
    gate.set_gain(4.0)
    assert torch.equal(gate(planes), wanted)
