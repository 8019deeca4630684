"""A runtime that is torch, with a fault for each of some blocks."""

import os
import signal
from collections import Counter

import torch

from benchmarks.runtimes.runtime import ConversionError, Converted, conversion

NAME = "Fake"
PACKAGES = ("torch",)


def convert(model, example, free):
    classes = {type(module).__name__ for module in model.modules()}
    if "PublishedSE" in classes:
        with conversion():
            raise RuntimeError("wrapped") from ValueError("no such operator\nand a stack")
    if "PublishedEca" in classes and "height" in free:
        raise ConversionError("only the batch may be free")
    if "PublishedSpatialGate" in classes:
        os.kill(os.getpid(), signal.SIGKILL)

    def run(x):
        if "CaCo" in classes and len(x) == 1:
            raise RuntimeError("no single image")
        with torch.no_grad():
            y = model(x)
        if "SeCo" in classes:
            return y * float("nan")
        return y * 1.01 if "PublishedCoordAtt" in classes and x.shape[2] == 161 else y

    return Converted(run, lambda x: lambda: run(x), Counter(conv=2, add=1), delegates=1)
