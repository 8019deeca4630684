"""Files that nothing should be loaded from: damaged, hostile, or of something else."""

import copy
import json
import struct

import pytest
import safetensors.torch
import torch
from torch import nn

from attnblocks import CaCo, Eca, load_model, save_model
from attnblocks.files import builders
from tests.files.networks import TIMM, TV, Tied, trained
from tests.helpers import make_pipe, randomized


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
        ({"format": 3, "version": "9.1"}, ValueError, r"format 3 of attnblocks 9\.1 is newer"),
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
        ({"block": ["Eca"]}, "an entry of a recipe has site, block, channels, arguments, and"),
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
def test_a_base_too_deep_for_its_weights_is_not_built(saved, base, depth, tmp_path, monkeypatch):
    """It would take minutes; with a depth in billions, all memory."""
    monkeypatch.setattr(builders, "LAYERS_PER_TENSOR", 10)  # reached sooner
    monkeypatch.setattr(builders, "LEAST_LIMIT", 1_000)
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
