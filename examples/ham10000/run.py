"""Everything before the first step: run folder, index, split, pixels, network."""

import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import timm
import torch
import torchvision
from torch import Tensor

import attnblocks
from attnblocks import recipe, warm_start
from examples.ham10000 import processes
from examples.ham10000.attention import hold_means
from examples.ham10000.callbacks import recomputes_bn
from examples.ham10000.config import NOTICE, Config, options_for_json, read_description
from examples.ham10000.data.batches import FACTORS, SkinLesions, canvas_size, center_crop
from examples.ham10000.data.images import damage, map_files
from examples.ham10000.data.index import ATTRIBUTION, CLASSES, Image, is_synthetic, read_index
from examples.ham10000.data.load import Data, cache_beside, load_data
from examples.ham10000.data.splits import count_classes, draw_split, leak, read_split, write_split
from examples.ham10000.data.synthetic import write_synthetic
from examples.ham10000.data.tables import some
from examples.ham10000.files import moved_into_place, write_csv, write_json
from examples.ham10000.model import Network, build_network, check_trains, new_network
from examples.ham10000.seen import check_unseen

IMAGES = 2048
"""So many training images, or all of fewer, show what the blocks replace."""
BATCH = 64


def create_run(config: Config) -> None:
    """Make the run folder with ``config.json`` in it, both at once.

    ValueError for an option out of range; FileExistsError if something is at ``config.out``.
    """
    config.check()
    out = config.out
    if out.exists():
        raise FileExistsError(f"--out {out} exists: name a new folder, or --resume it")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with moved_into_place(out) as partial:
            partial.mkdir()
            write_json(partial / "config.json", {"options": options_for_json(config)})
    except OSError as error:
        if out.exists():
            raise FileExistsError(
                f"--out {out} was made by another run meanwhile: name a new folder"
            ) from error
        raise


def prepare(config: Config) -> tuple[Data, Network]:
    """Build the network, read, split and decode the data; what is done already is read back.

    ValueError or OSError for whatever training would stumble over.
    """
    count, begun = processes.count(), read_description(config.out)
    if begun.get("processes", count) != count:
        raise ValueError(
            f"the run {config.out} was begun by {begun['processes']} processes and cannot be "
            f"resumed by {count}: their draws differ"
        )
    if config.batch_size % count:
        raise ValueError(f"--batch-size {config.batch_size} cannot be shared by {count} processes")
    if config.precision == "16-mixed" and not torch.cuda.is_available():
        raise ValueError("--precision 16-mixed needs a GPU: use bf16-mixed or 32-true")
    # A checkpoint has all weights: what the run began with is not needed any more.
    resumed = (config.out / "last.ckpt").exists()
    network = new_network(config, empty=resumed)
    if network.source:
        processes.say(f"Weights: {network.source}{', with its blocks' if network.loaded else ''}")
    recomputes_bn(config, network.model)
    check_trains(network, len(CLASSES), config.image_size, config.batch_size // count)
    folder, file = data_folder(config), config.out / "split.csv"
    if config.data is None:
        processes.once(lambda: _draw(folder))
    table = config.same_lesion_copy if file.exists() else config.same_lesion
    images = read_index(folder, allow_missing=config.skip_bad, same_lesion=table)
    processes.once(lambda: _write_run_split(config, images, file, network.of_run))
    data = load_data(images, file, config.image_size, cache_beside(config.out))
    if begun.get("images_sha256", data.digests) != data.digests:
        raise ValueError(f"the images of {folder} have changed since the run {config.out} began")
    if not resumed:
        _start(config, data.part("train"), network)
    processes.once(lambda: _write_description(config, data, network))
    return data, network


def _write_description(config: Config, data: Data, network: Network) -> None:
    """Write what is derived from the options, unless an earlier start or version has done it."""
    if read_description(config.out).keys() == {"options"}:
        write_json(config.out / "description.json", describe(config, data, network))


def data_folder(config: Config) -> Path:
    """Where the images of a run lie; synthetic ones are in its own folder."""
    return config.data or config.out / "synthetic"


def _start(config: Config, part: SkinLesions, network: Network) -> None:
    """Give blocks a start that takes training images, in place: fitted to SE, or its mean gates."""
    if config.init != "fitted" and config.attention != "Constant":
        return
    device = f"cuda:{processes.rank_here()}" if torch.cuda.is_available() else "cpu"
    original = build_network(config.model, len(CLASSES), config.weights, "SE").model.to(device)
    images = _shown(config, part, network)
    if config.attention == "Constant":
        hold_means(network.model, original, [batch.to(device) for batch in images])
        return
    first, model = processes.rank() == 0, network.model.to(device)
    bar = first and processes.shows_bars()
    fit = warm_start(model, original, images, seed=config.seed, progress=bar)
    model.cpu()
    if first:
        print(fit)
        write_json(config.out / "warm_start.json", asdict(fit))


def _shown(config: Config, part: SkinLesions, network: Network) -> tuple[Tensor, ...]:
    """Some training images, which the seed draws, as the networks see them, in batches."""
    count = min(IMAGES, len(part))
    drawn = np.random.default_rng(config.seed).choice(len(part), count, replace=False)
    pixels = center_crop(torch.stack([part[i][0] for i in drawn]), config.image_size)
    mean, std = (torch.tensor(v)[:, None, None] for v in (network.mean, network.std))
    return torch.split((pixels / 255 - mean) / std, BATCH)


def _draw(folder: Path) -> None:
    """Draw the synthetic set, unless an earlier start has done it."""
    if not folder.exists():
        with moved_into_place(folder) as partial:
            write_synthetic(partial)


def _write_run_split(config: Config, images: Sequence[Image], file: Path, of_run: bool) -> None:
    """Split the images and leave out the bad ones, unless an earlier start has done it.

    The table of lesions is copied first: where there is a split, there is what it was made with.
    """
    if file.exists():
        return
    if config.split_file is None:
        split = draw_split(images, config.seed, config.protocol, config.folds, config.fold)
    else:
        split = read_split(config.split_file, images)
    if config.skip_bad:
        found = map_files(damage, [image.path for image in images], "looking for bad images")
        bad = {i: problem for i, problem in enumerate(found) if problem is not None}
        split = {part: [i for i in split[part] if i not in bad] for part in split}
        rows = [(images[i].image_id, images[i].lesion_id, bad[i]) for i in bad]
        write_csv(config.out / "left_out.csv", ("image_id", "lesion_id", "problem"), rows)
        listed = some([f"{name} ({problem})" for name, _, problem in rows])
        print(f"left out {len(rows)} of {len(images)} images{': ' if rows else ''}{listed}")
    count_classes(images, split)
    check_unseen(config, images, split, of_run=of_run)
    if config.same_lesion is not None and config.same_lesion_copy is not None:
        with moved_into_place(config.same_lesion_copy) as partial:
            shutil.copyfile(config.same_lesion, partial)
    write_split(file, images, split)


def describe(config: Config, data: Data, network: Network) -> dict[str, Any]:
    """What is needed to understand a run beside its options, for JSON."""
    size = config.image_size
    resized = f"resize the shorter side to {canvas_size(size)} (bilinear, antialias)"
    versions = {m.__name__: str(m.__version__) for m in (attnblocks, torch, torchvision, timm, L)}
    return {
        "data": data.name,
        "attribution": None if is_synthetic(data.images) else ATTRIBUTION,
        "notice": NOTICE,
        "images": count_classes(data.images, data.split),
        "images_sha256": data.digests,
        "leak": leak(data.images, data.split),
        "evaluation_transform": [
            resized,
            f"centre crop {size}x{size}",
            f"(x / 255 - {list(network.mean)}) / {list(network.std)}",
        ],
        "training_transform": [
            f"{resized}, centre square",
            f"random crop {size}x{size}",
            "horizontal and vertical flip with probability 1/2, rotation by 0, 90 or 180 degrees",
            f"brightness, contrast or saturation times one of {list(FACTORS)}, or none of them",
        ],
        "batch_norm_recomputed": recomputes_bn(config, network.model),
        "recipe": None if config.insert is None else recipe(network.model),
        "parameters": sum(p.numel() for p in network.model.parameters()),
        "processes": processes.count(),
        "versions": {**versions, "python": platform.python_version()},
    }
