"""What is written of the evaluation of a part."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.ham10000.data.index import CLASSES
from examples.ham10000.data.layouts import ISIC_CLASSES
from examples.ham10000.evaluate import Evaluation, isic_rows
from examples.ham10000.files import moved_into_place, write_csv, write_json
from examples.ham10000.report.attention import gates_of_part
from examples.ham10000.report.plots import confusion, save_picture
from examples.ham10000.report.report import write_report

LOG_PROBABILITIES = "log_probabilities_{}.npz"
"""File of the log-probabilities of a part."""


def write_results(folder: Path, evaluation: Evaluation, *, drawn: bool = True) -> None:
    """Write probabilities (CSV), confusion matrix (PNG), report (HTML), and then figures (JSON).

    The figures come last: where they are, everything is. The logarithms of the probabilities, as
    float32 (NPZ), are beside the CSV, in which a very small one can be 0.

    Args:
        folder: which there is.
        evaluation: of the part.
        drawn: False leaves out confusion matrix and report; the gates on images of the part are
            then figures of their own (JSON), where the network has blocks of the library.
    """
    data, config, summary = evaluation.data, evaluation.config, evaluation.summary
    part = evaluation.part
    images = [data.images[i].image_id for i in data.split[part]]
    rows = isic_rows(images, evaluation.probabilities)
    write_csv(folder / f"{part}.csv", ("image", *ISIC_CLASSES), rows)
    file, found = folder / LOG_PROBABILITIES.format(part), evaluation.log_probabilities.numpy()
    with moved_into_place(file) as partial, partial.open("xb") as stream:
        np.savez_compressed(stream, image=np.array(images), log_probability=found)
    if drawn:
        title = f"{data.name}\n{config.network_name}"
        if summary["split"] is not None:
            title = f"{data.name}, {summary['split']}\n{config.network_name}, {part} part"
        save_picture(confusion(summary, title), folder / f"confusion_matrix_{part}.png")
        write_report(folder / "report.html", evaluation)
    elif config.init is not None:
        gates = gates_of_part(evaluation.module, data, part, evaluation.folder, config.batch_size)
        write_json(folder / f"gates_{part}.json", asdict(gates))
    write_json(folder / f"{part}.json", summary)


def read_log_probabilities(folder: Path, part: str) -> tuple[list[str], NDArray[np.float32]]:
    """The ids of the images of a part, and the logarithms of their probabilities, (N, 7).

    Raises:
        OSError: there is no such file.
        ValueError: it is damaged.
    """
    file = folder / LOG_PROBABILITIES.format(part)
    try:
        with np.load(file, allow_pickle=False) as content:
            images, found = content["image"], content["log_probability"]
    except OSError:
        raise
    except Exception as error:  # a damaged file has many kinds
        raise ValueError(f"{file} is damaged: {error}") from error
    if images.ndim != 1 or found.shape != (len(images), len(CLASSES)) or found.dtype != np.float32:
        raise ValueError(f"{file} is damaged: {found.dtype} of shape {found.shape}")
    return images.tolist(), found
