"""Runs made by hand, and comparisons made once more: no counts, lesions drawn one by one."""

import csv
import json
from collections import defaultdict
from dataclasses import replace
from math import comb

import numpy as np
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from examples.ham10000.arguments import parse
from examples.ham10000.config import options_for_json
from examples.ham10000.data.index import CLASSES
from examples.ham10000.data.layouts import ISIC_CLASSES
from examples.ham10000.given import train_config
from examples.ham10000.metrics import summarise

OPTIONS = train_config(vars(parse(["train", "--data", "x"])))


def some_truth(generator):
    """Image, lesion, class: one to four images of a lesion, more lesions in higher classes."""
    keys = [
        (f"{label}-{lesion}", label)
        for label in range(7)
        for lesion in range(10 + 2 * label)
        for _ in range(generator.integers(1, 5))
    ]
    order = generator.permutation(len(keys))
    return [(f"ISIC_{number:04}", *keys[key]) for number, key in enumerate(order)]


def guesses(generator, truth, accuracy):
    """Classes that are right with some probability, for all images of a lesion alike."""
    right = {lesion: generator.random() < accuracy for _, lesion, _ in truth}
    return [label if right[lesion] else int(generator.choice(7)) for _, lesion, label in truth]


def some_changed(generator, guessed, truth, share, accuracy):
    """The same classes, drawn anew for a share of the images."""
    fresh = guesses(generator, truth, accuracy)
    return [f if generator.random() < share else g for g, f in zip(guessed, fresh, strict=True)]


def write_run(folder, truth, guessed, *, data="HAM10000 at 600x450", digest="f00", **options):
    """A finished run with such predictions."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(1)
    probabilities = generator.dirichlet(np.ones(7), len(truth)) * 0.4
    probabilities[np.arange(len(truth)), guessed] += 0.6
    description = {
        "options": options_for_json(replace(OPTIONS, **options)),
        "images_sha256": {"train": "a", "val": "b", "test": digest},
        "leak": 0.0,
        "parameters": 1234567,
    }
    (folder / "config.json").write_text(json.dumps(description))
    with (folder / "split.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(("image_id", "lesion_id", "dx", "split"))
        writer.writerow(("ISIC_9999", "other", "nv", "train"))
        writer.writerows((i, lesion, CLASSES[label], "test") for i, lesion, label in truth)
    order = [CLASSES.index(name.lower()) for name in ISIC_CLASSES]
    with (folder / "test.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(("image", *ISIC_CLASSES))
        rows = zip(truth, probabilities[:, order].tolist(), strict=True)
        writer.writerows((image, *row) for (image, _, _), row in rows)
    _, lesions, labels = zip(*truth, strict=True)
    summary = summarise(torch.from_numpy(probabilities), torch.tensor(labels), lesions)
    (folder / "test.json").write_text(json.dumps({"data": data, **summary}))
    return folder


def hand_mcnemar(truth, first, other):
    """Images that only one has right, by run, and the exact p-value from binomial coefficients."""
    rows = list(zip(truth, first, other, strict=True))
    only_first = sum(a == t[2] != b for t, a, b in rows)
    only_other = sum(b == t[2] != a for t, a, b in rows)
    return only_first, only_other, binomial(only_first, only_other)


def binomial(heads, tails):
    """The two-sided p-value of a fair coin."""
    ways = sum(comb(heads + tails, k) for k in range(min(heads, tails) + 1))
    return min(1, 2 * ways / 2 ** (heads + tails))


def hand_figures(labels, guessed):
    """The headline figures, computed without confusion counts."""
    labels, guessed = np.array(labels), np.array(guessed)
    rates = []
    for c in range(7):
        rates += [(guessed[labels == c] == c).mean(), (guessed[labels != c] != c).mean()]
    return {
        "accuracy": accuracy_score(labels, guessed),
        "mean_recall": balanced_accuracy_score(labels, guessed),
        "bacc_formula": np.mean(rates),
        "macro_f1": f1_score(labels, guessed, average="macro", zero_division=0),
    }


def hand_bootstrap(truth, first, other, resamples):
    """Differences of accuracy and mean recall, with every drawn lesion's images laid out."""
    images_of, lesions_of = defaultdict(list), defaultdict(set)
    for position, (_, lesion, label) in enumerate(truth):
        images_of[lesion].append(position)
        lesions_of[label].add(lesion)
    generator = np.random.default_rng(123)
    right = [
        np.array([g == t[2] for g, t in zip(guessed, truth, strict=True)], float)
        for guessed in (first, other)
    ]
    values = {"accuracy": [], "mean_recall": []}
    for _ in range(resamples):
        drawn = [generator.choice(sorted(of), len(of)) for _, of in sorted(lesions_of.items())]
        positions = [[i for lesion in of for i in images_of[lesion]] for of in drawn]
        by_class = [[of_run[i] for i in positions] for of_run in right]
        accuracy = [np.concatenate(hits).mean() for hits in by_class]
        recall = [np.mean([hits.mean() for hits in run]) for run in by_class]
        values["accuracy"].append(accuracy[1] - accuracy[0])
        values["mean_recall"].append(recall[1] - recall[0])
    return values
