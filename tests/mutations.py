"""Small faults put into the library, to see whether the tests notice: python -m tests.mutations.

Each is a piece of code that stands once in the library, wherever it is, and what takes its place.
Two copies of the library in a temporary folder are changed and tested at a time, with one thread
each. Takes about an hour on two cores; prints the survivors and exits with 1 if there are any.
"""

import argparse
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
COPIES = 2

BLOCKS = (
    "ops",
    "blocks/test_blocks.py",
    "blocks/test_gradients.py",
    "blocks/test_called_layers.py",
    "blocks/test_properties.py",
)
EXPORT = ("blocks/test_export.py",)
SWAP = (
    "swap/test_replace.py",
    "swap/test_sites.py",
    "swap/test_refusals.py",
    "swap/test_inherit.py",
    "swap/test_properties.py",
    "test_users_block.py",
)

GAINS = (
    "blocks/test_waking.py",
    "swap/test_inherit_gains.py",
    "blocks/test_identity.py",
    "blocks/test_gains.py",
)
FIT = ("fit/test_gains.py", "fit/test_param_groups.py")
GATES = ("gates",)

BLOCK_FAULTS = [
    ("self.gate(self.fc2(y))", "self.fc2(y)"),
    ("max(8, (width + 4) // 8 * 8)", "max(8, (width + 3) // 8 * 8)"),
    ("rounded < 0.9 * width", "rounded < 0.8 * width"),
    (
        "class SE(AttentionBlock, GainedStage) ... «rd_ratio: float = 1 / 4»",
        "rd_ratio: float = 1 / 8",
    ),
    ("class SE(AttentionBlock, GainedStage) ... «= nn.Hardsigmoid»", "= nn.Sigmoid"),
    ("self.gate(self.conv(y))", "self.conv(y)"),
    ("nn.Conv1d(1, 1, size, «padding=size // 2»", 'padding=size // 2, padding_mode="circular"'),
    ("math.log2(channels) «/ 2 + 1 / 2»", "/ 2 - 1 / 2"),
    ("t if t % 2 else t + 1", "t if t % 2 else t - 1"),
    ("max(3, t", "max(5, t"),
    ("logits = 2 * self.fc2", "logits = self.fc2"),
    ("torch.cat([means, maxima], dim=2)", "torch.cat([means, means], dim=2)"),
    ("self.fc2(self.act(self.fc1(both)))", "self.fc2(self.fc1(both))"),
    ("self.gate(self.bn(self.conv(statistics)))", "self.gate(self.conv(statistics))"),
    ("F.position_statistics(x, channel)", "F.position_statistics(x)"),
    ("momentum=0.01", "momentum=0.1"),
    ("self.act(self.bn1(self.conv1(means)))", "self.bn1(self.conv1(means))"),
    ("F.cut(self.times_gain(self.gate(logits)), height)", "F.cut(self.gate(logits), height)"),
    ("self.conv_w(y_w)]", "self.conv_h(y_w)]"),
    ("[rows, x.shape[2] - rows]", "[x.shape[2] - rows, rows]"),
    ("return x[:, :, :rows], x[:, :, rows:]", "return x[:, :, : rows + 1], x[:, :, rows + 1 :]"),
    ("return plain and not hooked and pointwise and", "return plain and not hooked and"),
    ("return plain and not hooked and pointwise and", "return pointwise and"),
    ("self.gates_apart(rows * channel, columns * channel)", "self.gates_apart(rows, columns)"),
    ("avg_pool2d(x, (height, 1))", "avg_pool2d(x, (1, height))"),
    ("not all(isinstance(size, int)", "all(isinstance(size, int)"),
    ("coordinate_gates(means * channel", "coordinate_gates(means"),
    ("MIN_WIDTH = 8", "MIN_WIDTH = 4"),
    ("class CaCo ... self.channel(means, «maxima»)", "means"),
    ('means = self.statistics(x, «"channel_means"»)', '"channel_maxima"'),
    ("channels * rd_ratio + 1e-6", "channels * rd_ratio"),
    ("size % 2 == 0", "size % 2 == 1"),
    ("x.shape[1] != channels", "x.shape[1] < channels"),
    ("if isinstance(width := getattr", "if False and isinstance(width := getattr"),
    ('grads["channel_means"] / (height * width)', 'grads["channel_means"]'),
    ("[rows / width, columns.transpose(2, 3) / height]", "[rows / height, columns.mT / width]"),
    ("hits * (grad / count)", "hits * (grad)"),
    ("«hits.sum(dim, keepdim=True, dtype=torch.float32)» # half", "hits.to(grad).sum(dim, True)"),
    ("+ of_means / x.shape[1]", "+ of_means"),
    ("return «product * gate», (product * x)", "product"),
    ("return product * gate, «(product * x)»", "product"),
    ("product = grad * x", "product = grad"),
    ("small[:i] + small[i + 1 :]", "small[: i + 1] + small[i + 2 :]"),
    ("_sum_to(product * last, fold", "_sum_to(product, fold"),
    ("_sum_to(product * fold, last)", "_sum_to(product, last)"),
]
FORM_FAULTS = [
    ("«return formulas» return eager", "return eager"),
    ("if not found else «rows.mean(2, keepdim=True)»", "columns.mean(2, keepdim=True)"),
    (
        "torch.cat([rows, columns.transpose(2, 3)], dim=2)",
        "torch.cat([columns.transpose(2, 3), rows], dim=2)",
    ),
    ("x.amax((2, 3), keepdim=True)", "x.amin((2, 3), keepdim=True)"),
    ("y = x if gate is None else x * gate", "y = x"),
    (
        "torch.cat([y.amax(1, keepdim=True) ... «product = product * gate»",
        "product = product + gate",
    ),
]
NATIVE_FAULTS = [
    ("_are_functorch_transforms_active() or", ""),
    ("or _len_torch_dispatch_stack()", ""),
    ("or _len_torch_function_stack()", ""),
    ("or x.is_neg()", ""),
    ("x.data_ptr() != 0", "True"),
    ("elif of_image < size", "elif False"),
    ("of_column == 1 or width == 1", "True"),
    ("(of_channel == height * width or channels == 1)", "True"),
    ("(of_row == width * channels or height == 1)", "True"),
    ("if grad.dtype is x.dtype and grad.stride() == fitting.stride()", "if True"),
    ("«torch.is_grad_enabled() or» not all(map(kernels.is_plain", ""),
    ("else not kernels.observed()", "else True"),
    ("«given.keys() == {...} or» not _computes(*saved[:1]", ""),
    ("and role not in roles", ""),
    ("exclusive = «...» return None", "False"),
    ("map_gradient(where, x, grad, *packed) «if of_map else None» wanted", ""),
    ("if want}", "}"),
    ("torch.ones_like(x.narrow", "torch.zeros_like(x.narrow"),
]
SWAP_FAULTS = [
    ("if not inplace:", "if inplace:"),
    ("{**dict.fromkeys(chosen, maker), **makers}", "{**makers, **dict.fromkeys(chosen, maker)}"),
    ("return new.get(model, model)", "return model"),
    ("if where(site)", "if not where(site)"),
    ("if module in sites:", "if False:"),
    ("return overrides <= 0 and cls.forward is speaker.forward", "return True"),
    ("if «m.add_maxpool»: return None return SELayers(m.fc1", "False"),
    (".train(training)", ".train(True)"),
    ("new.to(memory_format=torch.channels_last)", "new.to(memory_format=torch.contiguous_format)"),
    ("se.fc2.weight.mul_(2)", "se.fc2.weight.mul_(1)"),
    ("requires_grad_(old_bias.requires_grad)", "requires_grad_(trained)"),
    ("return gate**2", "return gate"),
    ("scale * mlp.b2 + shift", "scale * mlp.b2"),
    ("w1 * 2 / (1 + MAX_OVER_MEAN)", "w1"),
    ("scale * b1 + shift", "b1 + shift"),
]

GAIN_FAULTS = [
    ("(rounded > 0) &", "(rounded >= 0) &"),
    ("and len(values) != channels", "and False"),
    ("return gate * self.gain.view(", "return gate + self.gain.view("),
    ("return self.times_gain(self.gate(logits))", "return self.gate(logits)"),
    ("if self.gain is None or self.gain.shape != saved.shape", "if self.gain is None"),
    ("and self.takes(saved)", ""),
    ("«state_dict»[key] = state_dict[own[0]].new_ones", "state_dict.copy()"),
    ("state_dict.keys() >= {*own}", "state_dict.keys() & {*own}"),
    ("return self.gain is None or self.gain.dim() == 0", "return True"),
    ('class SeCo ... «name="coord_gain"»', 'name="gain"'),
    ("parameter.zero_()", "pass"),
    ("self.set_gain(wanted", "self.set_gain(2"),
    ("if not 0 < middle < math.inf", "if not 0 <= middle < math.inf"),
    ("for stage in stages: stage.start_at_one()", "stages[0].start_at_one()"),
    ("stage.gain_to_start_at_one()", "pass"),
    ("self.conv if getattr(self.bn", "self.conv if not getattr(self.bn"),
    ("asleep = ~_has_slope(act, values)", "asleep = (values <= 0).all(1)"),
    ("(asleep & _has_slope(act, -values))", "asleep"),
    ("bias.mul_(sign)«.masked_fill_(asleep & (values == 0).all(1), SMALL)»", ""),
    ("if len(x) == 0: «return»", "pass"),
    ("«block.eval()» try:", "block"),
    ("for stage in block.modules(): ... «module.training = training»", "pass"),
    ("(gain ** (1 / count))", "gain"),
    ("stage.take_gain(old_stage.gain)", "pass"),
    ("se.take_gain(layers.stage.gain)", "pass"),
    ("others *= old.gain_ratio(", "old.gain_ratio("),
    ("float((new**count).mean() / old.mean())", "float((new**count).mean() * old.mean())"),
    ("(new**count).mean()", "new.mean()"),
    ("return all(«stage.gain is None» or", "True"),
    ("gate**2 «* self.mean_gain(2)»", ""),
    ("return gate «* self.mean_gain()»", ""),
    ("return self.gate_at_zero() «* self.mean_gain()»", ""),
    ("open_logit(self.gate «, self.mean_gain()») self._start_at", ""),
    ("usual_logits(self.gate, count=2, gain=self.gain)", "usual_logits(self.gate, count=2)"),
    ("layers.stage.take_gain(old.gain)", "pass"),
    ("old.usual_gates() / self.gate_at_zero())", "old.usual_gates())"),
    ("old.usual_gates() / self.gate_at_zero() ** 2, count=2", "old.usual_gates(), count=2"),
    ("usual if self.gain is None else usual * self.gain", "usual"),
]
FIT_FAULTS = [
    ("ratio.clamp(LEAST, 1 / LEAST).log()", "ratio.clamp(1, 1).log()"),
    ("/ len(stage.gate_names)", ""),
    ("logarithm.detach().exp()", "logarithm.exp()"),
    ("self._before, strict=True): «stage.gain = gain»", "pass"),
    ("groups[2 * (p in of_gates) + (p in no_decay)]", "groups[2 * (p in of_gates)]"),
    ("set(names) <= set(gates)", "set(names) & set(gates)"),
]
GATE_FAULTS = [
    ("gate[(None,) * (4 - gate.ndim)]«.expand(count, -1, -1, -1)»", ""),
    ("eval_mode(model), «same_random_state(*tensors),» torch.compiler", ""),
    ("gate.abs() < 0.1 * self.top", "gate < 0.1 * self.top"),
    ("shift.square() * (self.images * n / total)", "shift.square() * (n / total)"),
    ("if (on_image < 0).any()", "if False"),
    ("images = images.to(next(dtypes, images.dtype))", "pass"),
]


class Mutation(NamedTuple):
    """A fault, and the tests that should see it.

    ``old`` is code in which spaces, line breaks and trailing commas do not matter, and in which
    `` ... `` stands for anything. Only what is between « and » is replaced, where they are.
    """

    old: str
    new: str
    tests: tuple[str, ...]

    def place(self, library: Path) -> tuple[Path, str]:
        """The file that has the code, and its text with the fault.

        Raises:
            ValueError: the code stands nowhere, or more than once.
        """
        found = []
        for file in sorted(library.rglob("*.py")):
            text = file.read_text(encoding="utf-8")
            for match in self._pattern().finditer(text):
                start, end = match.span(1)
                found.append((file, text[:start] + self.new + text[end:]))
        if len(found) != 1:
            files = [str(file.relative_to(library)) for file, _ in found]
            raise ValueError(f"{self.old!r} must stand once in the library; it stands in {files}")
        return found[0]

    def _pattern(self) -> re.Pattern[str]:
        code = self.old if "«" in self.old else f"«{self.old}»"
        parts = {"«": r"\s*(", "»": ")", "...": ".*?"}
        for token in (tokens := re.findall(r"\.\.\.|\w+|[^\w\s]", code)):
            comma = ",?" if token in ")]}" else ""
            parts.setdefault(token, rf"{comma}\s*{re.escape(token)}")
        return re.compile("".join(parts[token] for token in tokens), re.DOTALL)


MUTATIONS = [
    *(Mutation(old, new, BLOCKS) for old, new in BLOCK_FAULTS),
    *(Mutation(old, new, (*BLOCKS, *EXPORT)) for old, new in FORM_FAULTS),
    *(Mutation(old, new, ("ops",)) for old, new in NATIVE_FAULTS),
    *(Mutation(old, new, SWAP) for old, new in SWAP_FAULTS),
    *(Mutation(old, new, GAINS) for old, new in GAIN_FAULTS),
    *(Mutation(old, new, FIT) for old, new in FIT_FAULTS),
    *(Mutation(old, new, GATES) for old, new in GATE_FAULTS),
]


def main() -> int:
    """Try all mutations, or some; 1 if the tests miss any."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("--only", default="", help="those whose old or new code has this text")
    chosen = parser.parse_args().only
    mutations = [m for m in MUTATIONS if chosen in m.old or chosen in m.new]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(COPIES) as pool:
        copies: queue.Queue[Path] = queue.Queue()
        for number in range(COPIES):
            copies.put(copy_of_all(Path(folder, str(number))))

        def catches(mutation: Mutation) -> bool:
            copy = copies.get()
            try:
                return not passes(copy, mutation)
            finally:
                copies.put(copy)

        untouched = [Mutation("", "", tests) for tests in {m.tests for m in mutations}]
        if any(pool.map(catches, untouched)):
            print("the tests fail without any mutation")
            return 1
        survivors = 0
        results = zip(mutations, pool.map(catches, mutations), strict=True)
        for number, (mutation, caught) in enumerate(results, start=1):
            survivors += not caught
            print(f"{number}/{len(mutations)} {'caught' if caught else 'MISSED'}: ", end="")
            print(f"{mutation.old!r} -> {mutation.new!r}", flush=True)
    print(f"{len(mutations)} mutations, {survivors} missed")
    return 1 if survivors else 0


def copy_of_all(copy: Path) -> Path:
    """What the tests need, in a folder of its own, which is returned."""
    for name in ("attnblocks", "benchmarks", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    return copy


def passes(copy: Path, mutation: Mutation) -> bool:
    """Whether its tests pass with a mutation in the copy; they stop at the first failure."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    if mutation.old:
        file, text = mutation.place(copy / "attnblocks")
        before = file.read_bytes()
        file.write_text(text, encoding="utf-8")
    try:
        done = subprocess.run(
            [*command, *(f"tests/{name}" for name in mutation.tests)],
            cwd=copy,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
        )
    finally:
        if mutation.old:
            file.write_bytes(before)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
