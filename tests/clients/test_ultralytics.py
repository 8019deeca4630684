"""Blocks in a YOLO of ultralytics: its weights, its trainer, its fusion and its export."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from attnblocks import (
    apply_recipe,
    find_places,
    find_se,
    insert,
    load_model,
    recipe,
    save_model,
    summary,
)
from tests.helpers import randomized

ultralytics = pytest.importorskip(
    "ultralytics", reason="ultralytics (AGPL-3.0) is not installed: pip install '.[clients]'"
)
from ultralytics import YOLO  # noqa: E402
from ultralytics.models.yolo.detect import DetectionTrainer  # noqa: E402
from ultralytics.nn.tasks import DetectionModel  # noqa: E402
from ultralytics.utils.torch_utils import ModelEMA, intersect_dicts  # noqa: E402

pytestmark = pytest.mark.clients

NETWORKS = {  # with what is at the end of their stages
    "yolov8n.yaml": ["model.4", "model.6", "model.9"],  # C2f, C2f, SPPF
    "yolo11n.yaml": ["model.4", "model.6", "model.10"],  # C3k2, C3k2, C2PSA
}
every_network = pytest.mark.parametrize("network", NETWORKS)


class KeepsBlocks(DetectionTrainer):
    """As on the page of the docs."""

    def get_model(self, cfg=None, weights=None, verbose=True):
        model = super().get_model(cfg, None, verbose)
        if weights is not None:
            apply_recipe(model, recipe(weights))
            model.load(weights)
        return model


def yolo(network="yolov8n.yaml"):
    """With weights and statistics that give every map a signal."""
    return randomized(DetectionModel(network, nc=2, verbose=False)).eval()


@pytest.fixture
def images():
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@every_network
def test_places_are_the_modules_of_the_yaml(network, images):
    model = yolo(network)
    state = {name: vars(module).copy() for name, module in model.named_modules()}
    places = {place.name: place for place in find_places(model, images)}
    assert {*NETWORKS[network], "model.0", "model.2.m.0"} <= places.keys()
    assert f"model.{len(model.model) - 1}" not in places  # the head returns no map
    stages = [name for name, place in places.items() if "stages" in place.roles]
    assert stages == ["model.0", "model.2", *NETWORKS[network]]
    for name, module in model.named_modules():
        assert vars(module).keys() == state[name].keys(), name  # the head remembers its anchors
    assert model(images)[0].shape == (2, 6, 126)


@every_network
def test_all_pretrained_items_are_transferred_and_the_output_stays(network, images):
    plain = yolo(network)
    model = DetectionModel(network, nc=2, verbose=False).eval()
    insert(model, "CBAM", after=[*NETWORKS[network], "model.0"], example=images)
    items = intersect_dicts(plain.state_dict(), model.state_dict())  # what its load() counts
    assert len(items) == len(plain.state_dict()) > 300
    model.load(plain)
    assert torch.equal(model(images)[0], plain(images)[0])
    assert [site.after for site in find_se(model)] == ["model.0", *NETWORKS[network]]


@every_network
def test_the_average_the_fused_and_the_half_network_keep_the_blocks(network, images):
    model = yolo(network)
    insert(model, "CoordAtt", after=[*NETWORKS[network], "model.0"], example=images)
    start = model(images)[0]
    for site in find_se(model):
        randomized(site.module)
    expected = model(images)[0]
    assert not torch.allclose(expected, start, rtol=0.01)
    with torch.no_grad():  # no weight of an average is trained, and rounding may depend on that
        assert torch.equal(ModelEMA(model).ema(images)[0], model(images)[0])
    for dtype in (torch.bfloat16, torch.float16):
        assert copy.deepcopy(model).to(dtype)(images.to(dtype))[0].dtype == dtype
    fused = copy.deepcopy(model).fuse(verbose=False)
    assert fused.is_fused()
    assert len(find_se(fused)) == 4
    torch.testing.assert_close(fused(images)[0], expected, atol=1e-3, rtol=1e-3)


def test_a_block_behind_a_norm_is_named_once_fusion_has_taken_the_norm(images):
    model = insert(yolo(), "CBAM", after=["model.1", "model.3.bn"], example=images)
    model.fuse(verbose=False)
    for looks in (recipe, summary):
        with pytest.raises(ValueError, match=r"'model\.3\.bn'") as error:
            looks(model)
        assert "'model.1'" not in str(error.value)


@pytest.fixture(scope="module")
def lesions(tmp_path_factory):
    """A data set of eight images, each with a red or a blue square."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for number in range(8):
        pixels = random.integers(0, 99, (64, 64, 3), dtype=np.uint8)
        x, y = random.integers(0, 32, 2)
        pixels[y : y + 32, x : x + 32, number % 2 * 2] = 255
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        box = f"{number % 2} {(x + 16) / 64} {(y + 16) / 64} 0.5 0.5\n"
        (folder / "labels" / f"{number}.txt").write_text(box)
    yaml = folder / "lesions.yaml"
    yaml.write_text(f"path: {folder}\ntrain: images\nval: images\nnames: [red, blue]\n")
    return yaml


class KilledError(Exception):
    """Instead of a power cut."""


@pytest.fixture(scope="module")
def trained(lesions, tmp_path_factory):
    """A YOLO trained from a file with inserted blocks, killed after two epochs, and resumed."""
    folder = tmp_path_factory.mktemp("run")
    YOLO("yolov8n.yaml").save(folder / "plain.pt")  # stands for the published weights
    model = YOLO(folder / "plain.pt")
    insert(model.model, "CBAM", after=["model.4", "model.6"], example=torch.rand(1, 3, 64, 64))
    started = copy.deepcopy(model.model)
    checkpoint = {}

    def kill(trainer):
        if trainer.epoch == 1:
            checkpoint.update(torch.load(trainer.last, weights_only=False))
            raise KilledError

    model.add_callback("on_model_save", kill)
    options = {
        "data": str(lesions),
        "imgsz": 64,
        "batch": 8,
        "nbs": 8,
        "device": "cpu",
        "plots": False,
    }
    options |= {
        "optimizer": "SGD",
        "lr0": 0.01,
        "warmup_epochs": 0,
        "workers": 0,
        "weight_decay": 0,
    }
    options |= {"project": str(folder), "name": "run", "epochs": 3, "verbose": False}
    with pytest.raises(KilledError):
        model.train(trainer=KeepsBlocks, **options)
    resumed = YOLO(folder / "run" / "weights" / "last.pt")
    at_start = {}
    resumed.add_callback(
        "on_train_start", lambda t: at_start.update(copy.deepcopy(t.model.state_dict()))
    )
    resumed.train(trainer=KeepsBlocks, resume=True)
    return {"started": started, "checkpoint": checkpoint, "resumed": resumed, "at_start": at_start}


def block_weights(model):
    sites = tuple(f"{site.name}." for site in find_se(model))
    return {name: p for name, p in model.named_parameters() if name.startswith(sites)}


def test_the_trainer_trains_the_blocks_with_the_rest(trained):
    started = block_weights(trained["started"])
    last = block_weights(trained["checkpoint"]["ema"])  # in half precision
    assert last.keys() == started.keys()
    moved = [name for name in last if not torch.equal(last[name], started[name].half())]
    for site in find_se(trained["started"]):
        assert any(name.startswith(f"{site.name}.") for name in moved), site.name
    trainer = trained["resumed"].trainer
    held = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(held)) == len(list(trainer.model.parameters()))
    assert {*block_weights(trainer.model).values()} <= {*held}


def test_a_killed_run_goes_on_with_its_blocks(trained):
    """From the average in the file, which is in half precision, as ultralytics itself does."""
    saved = copy.deepcopy(trained["checkpoint"]["ema"]).float().state_dict()
    assert saved.keys() == trained["at_start"].keys()
    for name, value in saved.items():
        assert torch.equal(trained["at_start"][name], value), name
    assert trained["resumed"].trainer.start_epoch == 2


def test_the_best_file_predicts_with_the_blocks(trained):
    best = YOLO(trained["resumed"].trainer.best)
    assert [site.after for site in find_se(best.model)] == ["model.4", "model.6"]
    assert recipe(best.model) == recipe(trained["started"])
    result = best.predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, verbose=False, conf=1e-5)
    assert len(result[0].boxes) > 0


def test_the_best_file_fits_a_network_of_the_yaml(trained, images, tmp_path):
    best = YOLO(trained["resumed"].trainer.best).model.eval()
    plain = DetectionModel("yolov8n.yaml", nc=2, verbose=False)
    plain.load(trained["started"], verbose=False)  # as wide in its head as the file it came from
    save_model(best, tmp_path / "best.safetensors")
    loaded = load_model(tmp_path / "best.safetensors", base=plain)
    assert recipe(loaded) == recipe(best)
    with torch.no_grad():  # no weight of a YOLO's own file is trained, and rounding depends on that
        assert torch.equal(loaded.eval()(images)[0], best(images)[0])


def test_onnx_runs_at_another_size(images, tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    model = YOLO("yolo11n.yaml")
    insert(model.model, "CBAM", after=["model.4", "model.6"], example=images)
    randomized(model.model)
    model.save("model.pt")
    path = YOLO("model.pt").export(format="onnx", imgsz=64, dynamic=True, simplify=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (boxes,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    expected = model.model.eval()(images)[0]
    torch.testing.assert_close(torch.from_numpy(boxes), expected, atol=1e-3, rtol=1e-3)
