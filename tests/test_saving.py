"""One file per model: exact round trips, and files that nothing should be loaded from."""

import copy
import itertools
import json
import os
import re
import stat
import struct
import sys

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

from attnblocks import SE, CaCo, Eca, list_blocks, load_model, replace_se, save_model
from tests.helpers import make_pipe, randomized, snapshot, unchanged

TV = "torchvision/mobilenet_v3_small"
TIMM = "timm/mobilenetv3_small_050"
SEVEN = {"num_classes": 7}


def built(base: str, **kwargs) -> nn.Module:
    library, name = base.split("/")
    if library == "timm":
        return timm.create_model(name, **kwargs)
    return torchvision.models.get_model(name, **kwargs)


def trained(base: str, block: object, **kwargs) -> nn.Module:
    return randomized(replace_se(built(base, **kwargs), block))


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return list(ours) == list(theirs) and all(
        value.dtype == theirs[name].dtype and torch.equal(value, theirs[name])
        for name, value in ours.items()
    )


@pytest.mark.parametrize(
    ("base", "block"),
    [
        *itertools.product([TV, TIMM], list_blocks()),
        ("timm/rexnet_100", "SE"),  # with a norm inside
        ("torchvision/regnet_y_400mf", "CaCo"),  # cannot be built on the meta device
    ],
)
def test_a_round_trip_is_exact(base, block, tmp_path):
    model = trained(base, block, **SEVEN)
    save_model(model, tmp_path / "m.safetensors", base=base, base_kwargs=SEVEN)
    loaded = load_model(tmp_path / "m.safetensors")
    assert same(loaded, model)
    assert loaded.training
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(x), model.eval()(x))
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_a_network_without_a_swap_and_one_in_half_precision(tmp_path):
    for model in (randomized(built(TV)), trained(TV, CaCo).bfloat16()):
        save_model(model, tmp_path / "m", base=TV)
        assert same(load_model(tmp_path / "m"), model)


class Shared(nn.Module):
    """The same block in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = SE(16)
        self.second = self.first
        self.register_buffer("scale", torch.ones(2, dtype=torch.int32))

    def forward(self, x):
        return self.second(self.first(x))


def test_a_network_of_the_users_own_with_a_shared_block(tmp_path):
    model = randomized(replace_se(Shared(), CaCo))
    save_model(model, tmp_path / "m.safetensors")
    base = Shared()
    before = snapshot(base)
    loaded = load_model(tmp_path / "m.safetensors", base=base)
    assert unchanged(base, before)
    assert same(loaded, model)
    assert loaded.first is loaded.second
    with pytest.raises(ValueError, match="a network of its author's own: give it as base"):
        load_model(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="does not fit: no site 'first' in the network"):
        load_model(tmp_path / "m.safetensors", base=nn.Sequential(nn.ReLU()))


@pytest.mark.parametrize(
    ("base", "kwargs", "error", "message"),
    [
        ("keras/x", {}, ValueError, "base must be timm/NAME or torchvision/NAME, got 'keras/x'"),
        ("timm/mobilenetv3_smal_050", {}, LookupError, "did you mean 'mobilenetv3_small_050'"),
        ("torchvision/../../x", {}, LookupError, "has no model"),
        ("timm/hf-hub:someone/model", {}, LookupError, "has no model"),
        ("torchvision/fasterrcnn_resnet50_fpn", {}, ValueError, "the recipe does not fit: no site"),
        (TIMM, {"num_classes": 7}, ValueError, r"do not fit base .*shape \(1000, 1024\), not \(7"),
        ("timm/mobilenetv3_small_075", {}, ValueError, "has 96 channels, not 64"),
        ("timm/resnet18", {}, ValueError, "the recipe does not fit: no site 'blocks.0.0.se'"),
        (TIMM, {"pretrained": True}, ValueError, "not pretrained=True"),
        (TIMM, {"checkpoint_path": "x.pth"}, ValueError, "not checkpoint_path='x.pth'"),
        (TIMM, {"act_layer": nn.ReLU}, ValueError, "plain values of the structure, not act_layer"),
        (TIMM, {"no_such": 1}, ValueError, "cannot be built with"),
        (TIMM, {"act_layer": "nope"}, ValueError, "cannot be built with"),
        (TIMM, {"global_pool": "max"}, ValueError, "'global_pool.pool' is .*Avg.* there; is an a"),
        (None, {"num_classes": 7}, ValueError, "go with a base"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(base, kwargs, error, message, tmp_path):
    model = trained(TIMM, CaCo)
    with pytest.raises(error, match=message):
        save_model(model, tmp_path / "m", base=base, base_kwargs=kwargs)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("block", [None, CaCo])
def test_an_se_that_was_changed_by_hand_is_no_network_of_the_base(block, tmp_path):
    model = built(TV)
    if block is not None:
        replace_se(model, block, where="features.4.*")
    model.features[1].block[1].scale_activation = nn.Sigmoid()
    with pytest.raises(ValueError, match=r"'features\.1\.block\.1\.scale_activation' is Sigmoid"):
        save_model(model, tmp_path / "m", base=TV)


def test_half_precision_is_that_of_the_whole_network(tmp_path):
    """Buffers that are in no file, too: without them the network could not run."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.se, self.fc = SE(4), nn.Linear(4, 2)
            self.register_buffer("scale", torch.full((4,), 2.0), persistent=False)

        def forward(self, x):
            return self.fc(self.se(x).mean((2, 3)) * self.scale)

    model = randomized(replace_se(Scaled(), CaCo)).bfloat16().eval()
    save_model(model, tmp_path / "m")
    loaded = load_model(tmp_path / "m", base=Scaled()).eval()
    x = torch.rand(2, 4, 5, 5).bfloat16()
    assert torch.equal(loaded(x), model(x))


def test_other_errors_of_saving(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        save_model(nn.ReLU(), tmp_path / "no" / "m")
    with pytest.raises(IsADirectoryError, match=f"cannot write {re.escape(str(tmp_path))}: it is"):
        save_model(nn.ReLU(), tmp_path)
    with pytest.raises(ValueError, match="has no data that could be saved"):
        save_model(SE(16, device="meta"), tmp_path / "m")
    file = tmp_path / "m"
    file.write_text("kept")
    overlapping = nn.Linear(4, 4, bias=False)
    overlapping.register_buffer("row", overlapping.weight.detach()[1:])
    with pytest.raises(RuntimeError):
        save_model(overlapping, file)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["kept"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "m.safetensors"
    save_model(trained(TIMM, Eca), path, base=TIMM)
    return path.read_bytes()


def changed_header(saved: bytes, tmp_path, **changes) -> None:
    """Write the file again with another header."""
    (tmp_path / "old").write_bytes(saved)
    with safetensors.safe_open(tmp_path / "old", framework="pt") as file:
        header = {**json.loads(file.metadata()["attnblocks"]), **changes}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    metadata = {"attnblocks": json.dumps(header)}
    safetensors.torch.save_file(state, tmp_path / "m", metadata)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"format": 2, "version": "9.1"}, ValueError, r"format 2 of attnblocks 9\.1 is newer"),
        ({"format": float("nan")}, ValueError, "format nan is no number of a format"),
        ({"format": -1}, ValueError, "format -1 is no number of a format"),
        ({"format": True}, ValueError, "format True is no number of a format"),
        ({"format": "1"}, ValueError, "format '1' is no number of a format"),
        ({"base": "timm/resnet18"}, ValueError, "the recipe does not fit"),
        ({"base": "os/system"}, ValueError, "base must be timm/NAME or torchvision/NAME"),
        ({"base": "timm/../../etc/passwd"}, LookupError, "has no model '../../etc/passwd'"),
        ({"base": "timm/local-dir:/etc"}, LookupError, "has no model 'local-dir:/etc'"),
        ({"base": f"{TIMM}.local-dir:/etc"}, ValueError, "cannot be built with"),
        ({"base": "torchvision/raft_large"}, ValueError, "the recipe does not fit: no site"),
        ({"base": "timm/no_such"}, LookupError, "the installed timm has no model 'no_such'"),
        ({"base": 3}, ValueError, "its entries are of the wrong kind"),
        ({"base_kwargs": {"num_classes": 3}}, ValueError, r"classifier.weight has shape \(1000"),
        ({"base_kwargs": {"pretrained": True}}, ValueError, "not pretrained=True"),
        ({"base_kwargs": {"device": "cpu"}}, ValueError, "not device='cpu'"),
        ({"base_kwargs": {"num_classes": 10**12}}, ValueError, "num_classes=10{12} is too much"),
        ({"base_kwargs": {"num_classes": 10**6}}, ValueError, r"\(1000, 1024\), not \(10{6}, 1024"),
        ({"base_kwargs": {"drop_rate": float("nan")}}, ValueError, "drop_rate=nan is too much"),
        ({"base_kwargs": {"act_layer": "os.system"}}, ValueError, "cannot be built with"),
        ({"base_kwargs": {"model_name": "x"}}, ValueError, "multiple values for argument"),
        ({"recipe": {}}, ValueError, "its entries are of the wrong kind"),
        ({"recipe": []}, ValueError, "the recipe does not fit"),
        ({"shared": {"a": "b"}}, ValueError, "has a header that cannot be used: 'b'"),
        ({"shared": {"a": "conv_stem.weight"}}, ValueError, "a is unknown"),
        ({"shared": {"conv_stem.weight": "bn1.weight"}}, ValueError, "are stored, and said to"),
    ],
)
def test_headers_that_do_not_fit(saved, changes, error, message, tmp_path):
    changed_header(saved, tmp_path, **changes)
    with pytest.raises(error, match=message):
        load_model(tmp_path / "m")


ARGUMENTS = {"kernel_size": 3, "gate_layer": "Sigmoid"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block": "os.system"}, "the recipe does not fit: .* not .*os.system"),
        ({"block": ["Eca"]}, "an entry of a recipe has site, block, channels, arguments; got"),
        ({"site": "../x"}, r"no site '\.\./x' in the network"),
        ({"site": "__class__"}, "no site '__class__' in the network"),
        ({"channels": 10**12}, "has 16 channels, not 10{12}"),
        ({"arguments": {**ARGUMENTS, "gate_layer": "os.system"}}, "unknown layer 'os.system'"),
        ({"arguments": {**ARGUMENTS, "gate_layer": "Module"}}, "unknown layer 'Module'"),
        ({"arguments": {**ARGUMENTS, "gate_layer": {"a": 1}}}, "unknown layer {'a': 1}"),
        ({"arguments": {**ARGUMENTS, "more": 1}}, "unexpected keyword argument 'more'"),
        ({"arguments": {**ARGUMENTS, "channels": 3}}, "multiple values for argument 'channels'"),
        ({"arguments": {**ARGUMENTS, "kernel_size": -1}}, "kernel_size must be"),
        ({"arguments": {**ARGUMENTS, "kernel_size": float("nan")}}, "kernel_size must be"),
        # It would take memory for a block that is only looked at.
        ({"arguments": {**ARGUMENTS, "device": "cpu"}}, "where a block is: leave out .'device'"),
    ],
)
def test_recipes_of_a_stranger(saved, changes, message, tmp_path):
    (tmp_path / "m").write_bytes(saved)
    first, *others = json.loads(header_of(tmp_path / "m"))["recipe"]
    changed_header(saved, tmp_path, recipe=[{**first, **changes}, *others])
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("shape", "offsets", "message"),
    [
        ([10**12], [0, 4], "is damaged or no safetensors file"),
        ([2**62, 4], [0, 0], "is damaged or no safetensors file"),
        ([1], [0, 2**60], "is damaged or no safetensors file"),
        ([10**12, 0], [0, 0], "do not fit the base"),
        ([], [0, 4], "do not fit the base"),
    ],
)
def test_shapes_that_cannot_be(saved, shape, offsets, message, tmp_path):
    (tmp_path / "m").write_bytes(saved)
    tensor = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
    content = {"__metadata__": {"attnblocks": header_of(tmp_path / "m")}, "a": tensor}
    header = json.dumps(content).encode()
    body = bytes(4 if offsets[1] else 0)
    (tmp_path / "m").write_bytes(struct.pack("<Q", len(header)) + header + body)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("text", ["", "null", "3", "[]", "\0", "1" * 5000])
def test_headers_that_are_none(text, tmp_path):
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "m", {"attnblocks": text})
    with pytest.raises(ValueError, match="has a header that cannot be used"):
        load_model(tmp_path / "m")


def test_a_pipe_or_folder_is_no_file(tmp_path):
    (tmp_path / "folder").mkdir()
    make_pipe(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(FileNotFoundError, match=f"no model file .*{name}"):
            load_model(tmp_path / name)


def test_files_that_are_something_else(saved, tmp_path):
    path = tmp_path / "m"
    with pytest.raises(FileNotFoundError, match="no model file"):
        load_model(path)
    for content in (saved[: len(saved) // 2], saved[:4], b"", b"PK\x03\x04" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged or no safetensors file"):
            load_model(path)
    torch.save({"a": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="is damaged or no safetensors file"):
        load_model(path)
    safetensors.torch.save_file({"a": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="was not written by save_model"):
        load_model(path)
    deep = "[" * 100_000
    safetensors.torch.save_file({"a": torch.ones(1)}, path, {"attnblocks": deep})
    with pytest.raises(ValueError, match="has a header that cannot be used"):
        load_model(path)


def test_missing_and_unknown_weights_are_named(tmp_path):
    model = trained(TV, CaCo)
    save_model(model, tmp_path / "m", base=TV)
    state = safetensors.torch.load_file(tmp_path / "m")
    with safetensors.safe_open(tmp_path / "m", framework="pt") as file:
        metadata = file.metadata()
    state["more"] = state.pop("classifier.3.bias")
    safetensors.torch.save_file(state, tmp_path / "n", metadata)
    with pytest.raises(ValueError, match=r"classifier\.3\.bias is missing; more is unknown"):
        load_model(tmp_path / "n")


class Tied(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.a, self.se, self.b = nn.Linear(3, 3, bias=False), SE(3), nn.Linear(3, 3, bias=False)
        if tied:
            self.b.weight = self.a.weight


def test_tied_weights_stay_tied_and_others_do_not_become_so(tmp_path):
    save_model(randomized(Tied(True)), tmp_path / "tied")
    save_model(randomized(Tied(False)), tmp_path / "loose")
    loaded = load_model(tmp_path / "tied", base=Tied(True))
    assert loaded.a.weight is loaded.b.weight
    with pytest.raises(ValueError, match=r"'a\.weight' and 'b\.weight' are one tensor in the base"):
        load_model(tmp_path / "loose", base=Tied(True))
    with pytest.raises(ValueError, match="base is on the meta device"):
        load_model(tmp_path / "tied", base=Tied(True).to("meta"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs modes of files")
def test_what_lies_at_the_path_is_respected(tmp_path):
    model = Tied(True)
    (tmp_path / "plain").touch()
    save_model(model, tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "new").chmod(0o640)
    (tmp_path / "link").symlink_to(tmp_path / "new")
    save_model(randomized(model), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    assert same(load_model(tmp_path / "new", base=Tied(True)), model)
    make_pipe(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe: it is no regular file"):
        save_model(model, tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_weights_that_are_not_finite_are_named_and_kept(tmp_path):
    model = randomized(Tied(True))
    with torch.no_grad():
        model.a.weight[0] = float("nan")
    model.register_buffer("not measured yet", torch.tensor(float("nan")))  # as a buffer may be
    base = copy.deepcopy(model)
    save_model(model, tmp_path / "m")
    with pytest.warns(UserWarning, match=r"parameters that are not finite: \['a\.weight'\]"):
        loaded = load_model(tmp_path / "m", base=base)
    assert loaded.a.weight is loaded.b.weight
    assert loaded.a.weight.isnan().sum() == 3
    assert torch.equal(loaded.a.weight[1:], model.a.weight[1:])


def test_tensors_of_another_kind_are_refused(tmp_path):
    model = Tied(False)
    model.a.weight = nn.Parameter(torch.ones(3, 3, dtype=torch.int32), requires_grad=False)
    save_model(model, tmp_path / "m")
    with pytest.raises(ValueError, match=r"'a\.weight' is torch\.int32 in the file, not torch\.f"):
        load_model(tmp_path / "m", base=Tied(False))


def test_a_recipe_too_large_for_its_weights_takes_no_memory(tmp_path):
    save_model(Tied(False), tmp_path / "m")
    recipe = json.loads(header_of(tmp_path / "m"))["recipe"]
    recipe[0]["arguments"]["rd_channels"] = 10**12
    changed_header((tmp_path / "m").read_bytes(), tmp_path, recipe=recipe)
    with pytest.raises(ValueError, match="do not fit the base"):
        load_model(tmp_path / "m", base=Tied(False))


@pytest.mark.parametrize(
    ("base", "depth"),
    [
        ("timm/vit_tiny_patch16_224", {"depth": 20_000}),
        ("timm/resnet18", {"layers": [2, 2, 20_000, 2]}),
        ("torchvision/mobilenet_v2", {"width_mult": 1.0, "inverted_residual_setting": [10**9]}),
    ],
)
def test_a_base_too_deep_for_its_weights_is_not_built(saved, base, depth, tmp_path):
    """It would take minutes; with a depth in billions, all memory."""
    changed_header(saved, tmp_path, base=base, base_kwargs=depth)
    with pytest.raises(ValueError, match=r"too many layers for \d+ tensors|is too much for"):
        load_model(tmp_path / "m")
    nn.Sequential(*[nn.Sequential() for _ in range(100_000)])  # nothing is counted any more


def header_of(path) -> str:
    with safetensors.safe_open(path, framework="pt") as file:
        return file.metadata()["attnblocks"]


def test_packages_that_are_not_there_are_named(monkeypatch, saved, tmp_path):
    (tmp_path / "m").write_bytes(saved)
    for library, extra in (("safetensors", "save"), ("timm", "timm")):
        found = {"safetensors", "timm"} - {library}
        monkeypatch.setattr(
            "attnblocks.files.builders.find_spec", lambda name, f=found: name in f or None
        )
        with pytest.raises(ImportError, match=rf"{library} is needed.*attnblocks\[{extra}\]"):
            load_model(tmp_path / "m")
