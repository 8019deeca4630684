"""What has to be said beside the figures: settings that differ from the paper's, and their meaning.

Everything is read from the runs, so that it holds for whatever options they had.
"""

from collections.abc import Iterable
from pathlib import Path

from examples.ham10000.config import DEFAULTS, PAPER, PAPER_MODELS, Config
from examples.ham10000.paper.finished import Finished
from examples.ham10000.paper.results import SPLITS, Results
from examples.ham10000.paper.rows import BACKBONE
from examples.ham10000.rules import flag

_STATED = {
    "image_size": "image size",
    "epochs": "epochs",
    "batch_size": "batch size",
    "lr": "learning rate",
    "weight_decay": "weight decay",
}
"""Options that the paper gives; its values are our defaults."""

_UNSAID = {
    **dict.fromkeys(("init", "schedule", "monitor", "recompute_bn")),
    **{name: DEFAULTS[name] for name in ("class_weights", "focal_weight", "ldam_weight")},
    **{name: DEFAULTS[name] for name in ("drw_start", "warmup", "clip_grad_norm", "precision")},
}
"""Options that it does not give, with the value that need not be named."""


def caption(results: Results) -> list[str]:
    """Paragraphs on what the figures come from: the data, what differs, and what is unknown."""
    runs = results.runs
    if not runs:
        return ["No run is finished."]
    images, data = (_listed(run.test[name] for run in runs) for name in ("images", "data"))
    differ = "; ".join(_differences(results))
    return [
        f"{data}, split {SPLITS[results.protocol]} (leak {_leak(runs)}), test part of {images} "
        "images.",
        f"Not as in the paper: {differ}. So the two are not comparable as equals."
        if differ
        else "All settings that can be read in the paper are as there.",
        _choices([run.config for run in runs]),
    ]


def _differences(results: Results) -> list[str]:
    """The settings that differ from those that the paper gives, with both values."""
    runs, paper = results.runs, DEFAULTS | PAPER
    own = [r.config for row, found in results.rows.items() for r in found if row.model == BACKBONE]
    models = [BACKBONE if c.model == PAPER_MODELS[BACKBONE] else c.model for c in own]
    files = [Path(c.weights).name for c in own if c.weights not in ("none", "imagenet")]
    splits = [f"by lesion, leak {_leak(runs)}"] if results.protocol == "lesion" else []
    counts = [sum(sum(of.values()) for of in run.description["images"].values()) for run in runs]
    settings = [
        ("", [run.test["data"] for run in runs], "HAM10000 at 600x450"),
        ("images", [f"{count:,}" for count in counts], "10,015"),
        *(
            (text, [f"{getattr(run.config, name):g}" for run in runs], f"{paper[name]:g}")
            for name, text in _STATED.items()
        ),
        ("network", models, BACKBONE),
        ("weights from", files, "those of PyTorch"),
        ("split", splits, "most likely by image, leak 0.39"),
    ]
    return [
        f"{name} {_listed(ours)} (paper: {papers})".strip()
        for name, ours, papers in settings
        if set(ours) - {papers}
    ]


def _choices(configs: list[Config]) -> str:
    """The settings that the paper does not give, as options of ``train``."""
    chosen: dict[str, list[object]] = {}
    for config in configs:
        # Named where they are not those of the other layers.
        of_gates = {"gate_lr": config.lr, "gate_weight_decay": config.weight_decay}
        for name, unnamed in {**_UNSAID, **of_gates}.items():
            value = getattr(config, name)
            chosen.setdefault(name, []).extend([] if value in (None, unnamed) else [value])
    said = [f"{flag(name)} {_listed(values)}" for name, values in chosen.items() if values]
    sentences = [f"Chosen here, because the paper does not say: {', '.join(said)}."]
    if any(config.init == "fitted" for config in configs):
        sentences.append("Fitted blocks start as near to the network's own SE as they get.")
    if any(config.loss == "joint" for config in configs):
        sentences.append("The joint loss is read as focal loss plus LDAM.")
    return " ".join(sentences)


def notes(results: Results) -> list[str]:
    """How to read the columns of a table."""
    counts = {len(runs) for runs in results.rows.values()}
    one_seed = (
        "In brackets, where a row has one seed: 95 % interval from a bootstrap over the lesions of "
        "the test part. It says nothing of another seed."
    )
    several = (
        "±, where a row has several seeds: mean and sample standard deviation over the seeds, each "
        "of which draws a split of its own."
    )
    return [
        *([one_seed] if 1 in counts else []),
        *([several] if counts - {0, 1} else []),
        "The paper's BACC stands beside our mean recall. That is an inference: by the formula that "
        "the paper prints, (sensitivity + specificity) / 2, here bacc_formula, its best row of "
        "86.35 % would have a mean recall of only about 74 %.",
        "Parameters: the paper counts the 1000 classes of ImageNet for MobileNetV3, GhostNetV2 and "
        "EfficientNetB0, and 7 classes for the others; ours have 7 everywhere. Its 2.18 M for "
        "MobileNetV3 with SE are wrong: with 1000 classes the network has 2.543 M.",
        "Validation: mean recall on the validation part in the epoch that was chosen there.",
    ]


def _leak(runs: list[Finished]) -> str:
    leaks = [run.test["leak"] for run in runs]
    return " to ".join(dict.fromkeys(f"{leak:.3f}" for leak in (min(leaks), max(leaks))))


def _listed(values: Iterable[object]) -> str:
    """Each value once, in the order of their first appearance."""
    return " and ".join(dict.fromkeys(str(value) for value in values))
