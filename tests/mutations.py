"""Small faults put into the library, to see whether the tests notice: python -m tests.mutations.

Each is a piece of text that stands once in a file, and what takes its place. The files are copied
to a temporary folder and changed there. Takes about half an hour on two cores; prints the survivors
and exits with 1 if there are any.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]

BLOCKS = (
    "blocks/test_blocks.py",
    "blocks/test_properties.py",
    "blocks/test_gradients.py",
    "blocks/test_called_layers.py",
)
EXPORT = ("blocks/test_export.py",)
SWAP = (
    "swap/test_replace.py",
    "swap/test_properties.py",
    "swap/test_refusals.py",
    "swap/test_inherit.py",
    "test_users_block.py",
)


class Mutation(NamedTuple):
    """A fault, and the tests that should see it."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS = [
    *(
        Mutation(file, old, new, BLOCKS)
        for file, old, new in [
            ("blocks/se.py", "self.gate(self.fc2(y))", "self.fc2(y)"),
            ("blocks/se.py", "max(8, (width + 4) // 8 * 8)", "max(8, (width + 3) // 8 * 8)"),
            ("blocks/se.py", "rounded < 0.9 * width", "rounded < 0.8 * width"),
            ("blocks/se.py", "rd_ratio: float = 1 / 4", "rd_ratio: float = 1 / 8"),
            ("blocks/se.py", "= nn.Hardsigmoid", "= nn.Sigmoid"),
            ("blocks/eca.py", "self.gate(self.conv(y))", "self.conv(y)"),
            ("blocks/eca.py", "padding=size // 2", 'padding=size // 2, padding_mode="circular"'),
            ("blocks/eca.py", "/ 2 + 1 / 2", "/ 2 - 1 / 2"),
            ("blocks/eca.py", "t if t % 2 else t + 1", "t if t % 2 else t - 1"),
            ("blocks/eca.py", "max(3, t", "max(5, t"),
            (
                "blocks/cbam.py",
                "self.gate(of_means + of_maxima)",
                "self.gate(of_means * of_maxima)",
            ),
            (
                "blocks/cbam.py",
                "torch.cat([means, maxima], dim=2)",
                "torch.cat([means, means], dim=2)",
            ),
            ("blocks/cbam.py", "self.fc2(self.act(self.fc1(both)))", "self.fc2(self.fc1(both))"),
            (
                "blocks/cbam.py",
                "self.gate(self.bn(self.conv(statistics)))",
                "self.gate(self.conv(statistics))",
            ),
            ("blocks/cbam.py", "F.position_statistics(x, channel)", "F.position_statistics(x)"),
            ("blocks/cbam.py", "momentum=0.01", "momentum=0.1"),
            ("blocks/coord_att.py", "self.act(self.bn1(", "self.bn1(("),
            ("blocks/coord_att.py", "self.gate(logits).split", "(self.gate(logits) * 0.99).split"),
            ("blocks/coord_att.py", "self.conv_w(y_w)]", "self.conv_h(y_w)]"),
            (
                "blocks/coord_att.py",
                "sizes = [height, means.shape[2] - height]",
                "sizes = [means.shape[2] - height, height]",
            ),
            ("blocks/coord_att.py", "coordinate_gates(means * channel", "coordinate_gates(means"),
            ("blocks/coord_att.py", "MIN_WIDTH = 8", "MIN_WIDTH = 4"),
            ("blocks/caco.py", "F.channel_maxima(x))", "F.channel_means(x))"),
            (
                "blocks/caco.py",
                "self.se(F.channel_means(x, means))",
                "self.se(F.channel_maxima(x))",
            ),
            ("blocks/layers.py", "channels * rd_ratio + 1e-6", "channels * rd_ratio"),
            ("blocks/layers.py", "size % 2 == 0", "size % 2 == 1"),
            ("blocks/base.py", "x.shape[1] != channels", "x.shape[1] < channels"),
            (
                "blocks/se_layers.py",
                "if isinstance(width := getattr",
                "if False and isinstance(width := getattr",
            ),
            ("ops/eager.py", "return x.mean(dim, keepdim=True)", "return x.sum(dim, keepdim=True)"),
            ("ops/eager.py", "(grad / ctx.count).expand", "grad.expand"),
            (
                "ops/eager.py",
                "torch.cat([rows, columns], dim=1)",
                "torch.cat([columns, rows], dim=1)",
            ),
            (
                "ops/eager.py",
                "rows, columns = mean(x, (3,)), mean(x, (2,))",
                "rows, columns = mean(x, (3,)), mean(x, (3,)).transpose(2, 3)",
            ),
            (
                "ops/eager.py",
                "return x.amax((2, 3), keepdim=True)",
                "return x.amax((2, 3), keepdim=True).abs()",
            ),
            ("ops/eager.py", "_multiply(hits, (grad / count)", "_multiply(hits, (grad)"),
            ("ops/eager.py", ".add_(grad_mean / x.shape[1])", ".add_(grad_mean)"),
            (
                "ops/eager.py",
                "return y.amax(1, keepdim=True), y.mean(1, keepdim=True)",
                "return y.mean(1, keepdim=True), y.amax(1, keepdim=True)",
            ),
            ("ops/eager.py", "grad_product = grad * x", "grad_product = grad"),
            ("ops/eager.py", "small[:i] + small[i + 1 :]", "small[: i + 1] + small[i + 2 :]"),
            (
                "ops/eager.py",
                "x * factor if torch.is_grad_enabled()",
                "x if torch.is_grad_enabled()",
            ),
        ]
    ),
    *(
        Mutation(file, old, new, (*BLOCKS, *EXPORT))
        for file, old, new in [
            (
                "ops/functional.py",
                "means.narrow(2, 0, x.shape[2])",
                "means.narrow(2, 0, x.shape[3])",
            ),
            (
                "ops/functional.py",
                "        return formulas\n    return eager",
                "        return eager\n    return eager",
            ),
            (
                "ops/formulas.py",
                "torch.cat([rows, columns.transpose(2, 3)], dim=2)",
                "torch.cat([columns.transpose(2, 3), rows], dim=2)",
            ),
            (
                "ops/formulas.py",
                "return x.amax((2, 3), keepdim=True)",
                "return x.amin((2, 3), keepdim=True)",
            ),
            ("ops/formulas.py", "y = x if gate is None else x * gate", "y = x"),
            ("ops/formulas.py", "product = product * gate", "product = product + gate"),
        ]
    ),
    *(
        Mutation(file, old, new, SWAP)
        for file, old, new in [
            ("swap/replace.py", "if not inplace:", "if inplace:"),
            ("swap/replace.py", "makers.setdefault(name, make)", "makers[name] = make"),
            ("swap/replace.py", "return new.get(model, model)", "return model"),
            ("swap/replace.py", "if where(site)", "if not where(site)"),
            ("swap/sites.py", "if module in sites:", "if False:"),
            (
                "swap/sites.py",
                "return overrides <= 0 and cls.forward is speaker.forward",
                "return True",
            ),
            (
                "swap/adapters.py",
                "if m.add_maxpool:\n        return None\n    return SELayers(m.fc1",
                "if False:\n        return None\n    return SELayers(m.fc1",
            ),
            ("swap/build.py", ".train(training)", ".train(True)"),
            (
                "swap/build.py",
                "new.to(memory_format=torch.channels_last)",
                "new.to(memory_format=torch.contiguous_format)",
            ),
            ("blocks/se.py", "se.fc2.weight.mul_(2)", "se.fc2.weight.mul_(1)"),
            (
                "blocks/se_layers.py",
                "requires_grad_(old_bias.requires_grad)",
                "requires_grad_(trained)",
            ),
            ("blocks/coord_att.py", "return gate**2", "return gate"),
            ("swap/inherit.py", "scale * mlp.b2 + shift", "scale * mlp.b2"),
            ("swap/inherit.py", "w1 * 2 / (1 + MAX_OVER_MEAN)", "w1"),
            ("swap/inherit.py", "scale * b1 + shift", "b1 + shift"),
        ]
    ),
]


def main() -> int:
    """Try all mutations, or those of one file; 1 if the tests miss any."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument(
        "--file", help="only those of this file of attnblocks/, such as blocks/se.py"
    )
    chosen = parser.parse_args().file
    mutations = [m for m in MUTATIONS if chosen in (None, m.file)]
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("attnblocks", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("conftest.py", "pyproject.toml"):
            shutil.copy(ROOT / name, copy)
        if not passes(copy, (*BLOCKS, *EXPORT, *SWAP)):
            print("the tests fail without any mutation")
            return 1
        for number, mutation in enumerate(mutations, start=1):
            caught = not passes(mutate(copy, mutation), mutation.tests)
            file = Path("attnblocks", mutation.file)
            shutil.copy(ROOT / file, copy / file)
            print(f"{number}/{len(mutations)} {'caught' if caught else 'MISSED'}: ", end="")
            print(f"{mutation.file}: {mutation.old!r} -> {mutation.new!r}", flush=True)
            if not caught:
                survivors.append(mutation)
    print(f"{len(mutations)} mutations, {len(survivors)} missed")
    return 1 if survivors else 0


def mutate(copy: Path, mutation: Mutation) -> Path:
    """Put a fault into the copy, which is returned."""
    file = copy / "attnblocks" / mutation.file
    text = file.read_text()
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.file} has {mutation.old!r} {text.count(mutation.old)} times")
    file.write_text(text.replace(mutation.old, mutation.new))
    return copy


def passes(copy: Path, tests: tuple[str, ...]) -> bool:
    """Whether the tests pass in a copy of the repository; they stop at the first failure."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *(f"tests/{name}" for name in tests)], cwd=copy, capture_output=True
    )
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
