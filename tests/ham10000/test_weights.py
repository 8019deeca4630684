"""Files of weights as those who write them write them: the network computes what theirs does."""

import argparse
import pickle
from pathlib import Path, PosixPath

import lightning as L
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from attnblocks import Eca, find_se, replace_se, save_model
from examples.ham10000.cli import main
from examples.ham10000.config import read_options
from examples.ham10000.evaluate import load_best
from examples.ham10000.model import build_network
from tests.ham10000.runs import MODEL, QUICK
from tests.helpers import randomized

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def original() -> nn.Module:
    """A network of timm with the head of ImageNet."""
    return randomized(timm.create_model(MODEL.removeprefix("timm/")))


@torch.no_grad()
def features(model: nn.Module) -> torch.Tensor:
    """What comes before the head."""
    return model.eval().forward_features(IMAGES)


def assert_read(file: Path, model: nn.Module, said: str = "", attention: str = "SE") -> None:
    """That the network of a file computes what ``model`` does, and what was read is said."""
    network = build_network(MODEL, 7, str(file), attention)
    assert torch.equal(features(network.model), features(model))
    assert network.source == f"{file}{said}"
    assert network.model.classifier.out_features == 7


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin", "w.pth.tar", "w.safetensors"])
def test_plain_state_dicts(name, original, tmp_path):
    save = safetensors.torch.save_file if name.endswith("safetensors") else torch.save
    save(original.state_dict(), tmp_path / name)
    assert_read(tmp_path / name, original)
    # PyTorch itself does without the counts, in files of its first versions.
    save({k: v for k, v in original.state_dict().items() if "num_b" not in k}, tmp_path / name)
    assert_read(tmp_path / name, original)


def optimized(model):
    """An optimizer that has made a step, and so has a state."""
    optimizer = torch.optim.AdamW(model.parameters())
    model(IMAGES).sum().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("ema", [False, True])
def test_the_references_of_torchvision(ema, tmp_path):
    """As references/classification/train.py writes them, with all that stands beside the model."""
    model = randomized(torchvision.models.mobilenet_v3_small())
    optimizer = optimized(model)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5])
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "epoch": 3,
        "args": argparse.Namespace(model="mobilenet_v3_small", lr=0.1, output_dir="."),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
    }
    if ema:
        randomized(model, seed=1)
        averaged.update_parameters(model)
        checkpoint["model_ema"] = averaged.state_dict()
        model = averaged.module
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    found = build_network("tv/mobilenet_v3_small", 7, str(tmp_path / "checkpoint.pth"), "SE")
    with torch.no_grad():
        ours, theirs = (m.eval().features(IMAGES) for m in (found.model, model))
    assert torch.equal(ours, theirs)
    said = "entry 'model_ema', names without 'module.'" if ema else "entry 'model'"
    assert found.source.endswith(f"checkpoint.pth, {said}")


@pytest.mark.parametrize("ema", [False, True])
def test_checkpoints_of_timm(ema, original, tmp_path):
    averaged = ModelEmaV3(original, decay=0.5) if ema else None
    CheckpointSaver(
        nn.DataParallel(original),
        optimized(original),
        args=argparse.Namespace(model=MODEL, output=PosixPath("here"), lr=np.float64(0.1)),
        model_ema=averaged,
        checkpoint_dir=str(tmp_path),
        recovery_dir=str(tmp_path),
    ).save_checkpoint(3, metric=np.float32(71.5))
    file = tmp_path / "checkpoint-3.pth.tar"
    if ema:
        assert not torch.equal(features(original), features(averaged.module))
        assert_read(file, averaged.module, ", entry 'state_dict_ema'")
    else:
        assert_read(file, original, ", entry 'state_dict'")


class Module(L.LightningModule):
    """As people write them: the network under a name, and a loss with weights of its own."""

    def __init__(self, model: nn.Module, name: str, folder: Path) -> None:
        super().__init__()
        self.save_hyperparameters({"folder": folder, "lr": 0.1})
        setattr(self, name, model)
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(7))
        self.register_buffer("shift", torch.zeros(1))


@pytest.mark.parametrize(("name", "compiled"), [("model", False), ("net", False), ("model", True)])
def test_checkpoints_of_lightning(name, compiled, original, tmp_path):
    network = torch.compile(original) if compiled else original
    trainer = L.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.strategy.connect(Module(network, name, tmp_path))
    trainer.save_checkpoint(tmp_path / "epoch=3.ckpt", weights_only=True)
    prefix = f"{name}._orig_mod." if compiled else f"{name}."
    said = f", entry 'state_dict', names without '{prefix}'"
    assert_read(tmp_path / "epoch=3.ckpt", original, said)


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (nn.DataParallel, "module."),
        (torch.compile, "_orig_mod."),
        (lambda model: nn.DataParallel(torch.compile(model)), "module._orig_mod."),
        (lambda model: torch.compile(nn.DataParallel(model)), "_orig_mod.module."),
        (lambda model: nn.ModuleDict({"model": nn.DataParallel(model)}), "model.module."),
        (AveragedModel, "module."),
        (lambda model: nn.DataParallel(AveragedModel(model)), "module.module."),
        (lambda model: nn.ModuleDict({"model": AveragedModel(model)}), "model.module."),
    ],
)
def test_what_wrappers_put_before_the_names_is_taken_off(wrap, prefix, original, tmp_path):
    torch.save(wrap(original).state_dict(), tmp_path / "w.pth")
    assert_read(tmp_path / "w.pth", original, f", names without {prefix!r}")


class Wrapped(nn.Module):
    """A network whose own names all begin as those of a wrapped one do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.pretrained_cfg = {**model.pretrained_cfg, "classifier": "model.classifier"}


@pytest.mark.parametrize("removed", ["", "module."])
def test_what_the_network_itself_has_before_its_names_stays(
    removed, original, tmp_path, monkeypatch
):
    ours = Wrapped(timm.create_model(MODEL.removeprefix("timm/"), num_classes=7))
    monkeypatch.setattr(timm, "create_model", lambda *_, **options: ours)
    state = {removed + name: value for name, value in Wrapped(original).state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    network = build_network(MODEL, 7, str(tmp_path / "w.pth"), "SE")
    assert torch.equal(features(ours.model), features(original))
    assert network.source.endswith(f"names without {removed!r}" if removed else "w.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda s: {f"backbone.{k}": s[k] for k in s}, "names begin with 'backbone.'"),
        (lambda s: {f"module.enc.net.{k}": s[k] for k in s}, "names begin with 'enc.net.'"),
        (
            lambda s: {"fc.weight": torch.ones(7, 9), **{f"encoder.{k}": s[k] for k in s}},
            "names begin with 'encoder.'",
        ),
        (lambda s: {"weights": s, "epoch": 3}, "holds no state dict .* it has 'weights', 'epoch'"),
        (lambda s: {"state_dict": None, "model": {}}, "it has 'state_dict', 'model'"),
        (lambda s: {}, "it has nothing"),
        (lambda s: {"n_averaged": torch.tensor(3)}, "is missing"),
        (lambda s: {"state_dict": s, "net": nn.ReLU()}, r"weights: torch\.nn.*ReLU, which"),
        (lambda s: {**s, "model.x": torch.ones(1)}, r"network: model\.x is unknown$"),
        (lambda s: {"fc.weight": torch.ones(7, 9)}, "do not fit the network: .* is missing"),
        (lambda s: {k: v for k, v in s.items() if "classifier" in k}, "do not fit the network: "),
        (lambda s: {f"a.{k}": v for k, v in s.items() if "conv_s" in k}, "do not fit the network"),
        (lambda s: {**s, "bn1.bias": s["bn1.bias"] / 0}, r"w\.pth have NaN or inf in bn1\.bias"),
        (lambda s: {**s, "bn1.bias": torch.ones(5)}, r"bn1\.bias has shape \(5,\), not \("),
        (
            lambda s: {"extra.weight" if k == "conv_stem.weight" else k: s[k] for k in s},
            r"the network: conv_stem\.weight is missing; extra\.weight is unknown$",
        ),
        (lambda s: {f"{k}.x": s[k] for k in s if "num" not in k}, r"is missing and \d+ more$"),
    ],
)
def test_what_cannot_be_read_is_named(content, message, original, tmp_path):
    torch.save(content(original.state_dict()), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=message):
        build_network(MODEL, 7, str(tmp_path / "w.pth"), "SE")


class Exploit:
    """A pickle that would run code when it is loaded."""

    def __reduce__(self):
        return (open, ("executed", "w"))


def test_files_that_are_no_weights_are_refused_and_run_nothing(original, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = safetensors.torch.save(original.state_dict())
    for name, content in {
        "pickle.pth": pickle.dumps(Exploit()),
        "truncated.safetensors": whole[: len(whole) // 2],
        "text.safetensors": b"not weights",
        "empty.pth": b"",
    }.items():
        Path(name).write_bytes(content)
        with pytest.raises(ValueError, match=f"--weights {name} cannot be loaded"):
            build_network(MODEL, 7, name, "SE")
    for content, message in (
        ({"model": Exploit()}, r"more than weights: \w*io\.open, which"),
        ([1, 2], "it is no checkpoint"),
    ):
        torch.save(content, "w.pth")
        with pytest.raises(ValueError, match=rf"w\.pth cannot be loaded.*: .*{message}"):
            build_network(MODEL, 7, "w.pth", "SE")
    assert not Path("executed").exists()


@pytest.mark.parametrize("attention", ["SE", "CaCo", "identity"])
def test_files_of_save_model_with_and_without_blocks(attention, original, tmp_path):
    if attention == "CaCo":
        randomized(replace_se(original, "CaCo"))
    elif attention == "identity":
        replace_se(original, nn.Identity)
    save_model(original, tmp_path / "w.safetensors", base=None)
    assert_read(tmp_path / "w.safetensors", original, attention=attention)
    found = build_network(MODEL, 7, str(tmp_path / "w.safetensors"), attention)
    assert found.loaded == (attention != "SE")


def test_blocks_of_other_arguments_are_no_blocks_that_were_asked_for(original, tmp_path):
    """They have the same names and shapes, and compute something else."""
    replace_se(original, lambda site: Eca(site.channels, gate_layer=nn.Hardsigmoid))
    save_model(original, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"'gate_layer': 'Hardsigmoid'.* is in the file alone"):
        build_network(MODEL, 7, str(tmp_path / "w.safetensors"), "Eca")


@pytest.mark.parametrize(
    ("has", "asked", "message"),
    [
        ("CaCo", "SeCo", r"w\.\w+ holds CaCo .* 2 SE sites; --attention SeCo .* --attention CaCo,"),
        ("CaCo", "SE", "holds CaCo blocks at 2 SE sites; --attention SE was asked for"),
        ("Eca", "none", "holds Eca blocks at 2 SE sites; --attention none"),
        ("identity", "CaCo", "holds no blocks at 2 SE sites; .* give --attention identity"),
    ],
)
def test_other_blocks_than_those_asked_for_are_named(has, asked, message, original, tmp_path):
    replace_se(original, nn.Identity if has == "identity" else has)
    for save, name in ((torch.save, "w.pth"), (save_model, "w.safetensors")):
        of_file = original.state_dict() if save is torch.save else original
        save(of_file, tmp_path / name)
        with pytest.raises(ValueError, match=message):
            build_network(MODEL, 7, str(tmp_path / name), asked)


def test_blocks_that_a_file_does_not_have_are_not_loaded(original, tmp_path):
    torch.save(original.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="has no block CaCo: leave --init out"):
        build_network(MODEL, 7, str(tmp_path / "w.pth"), "CaCo", "loaded")


@pytest.mark.usefixtures("undrawn")
def test_a_run_goes_on_from_the_weights_of_another(run, tmp_path, capsys):
    out = tmp_path / "r"
    file = run / "best.ckpt"
    options = [*QUICK, "--image-size", "48", "--weights", str(file), "--out", str(out)]
    options += ["--data", str(run / "synthetic"), "--lr", "1e-30"]
    assert main(options) == 0
    printed = capsys.readouterr().out
    assert f"Weights: {file}, entry 'state_dict', names without 'model.', with its bl" in printed
    assert f"{MODEL}, attention CaCo (loaded)" in printed
    assert read_options(out).init == "loaded"
    assert not (out / "warm_start.json").exists()
    theirs, own = (dict(load_best(r).model.named_parameters()) for r in (run, out))
    sites = [site.name for site in find_se(load_best(run).model)]
    blocks = [name for name in own if name.startswith(tuple(sites))]
    assert len(blocks) > 9
    assert all(torch.equal(own[name], theirs[name]) for name in blocks)
