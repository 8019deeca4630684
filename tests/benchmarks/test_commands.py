"""The commands from their options to the files that they write."""

import dataclasses
import platform
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import blocks, index, models, report
from benchmarks.results import Result, load_result, save_result
from benchmarks.settings import Settings
from tests.benchmarks.made import ROUNDS, cells, result, row, tiny_network

TINY = ["--image-size", "32", "--batch", "1", "--rounds", "2", "--min-run-time", "0.0001"]
TINY_NETWORK = ("--network", "timm/test_efficientnet")


def test_a_report_into_no_folder_is_refused(tmp_path, capsys):
    save_result(result([row("CaCo", ROUNDS)]), tmp_path / "a.json")
    with pytest.raises(SystemExit, match="2"):
        report.main([str(tmp_path / "a.json"), "--plots", str(tmp_path / "none")])
    assert "argument --plots: there is no folder" in capsys.readouterr().err


def run_cli(main, tmp_path: Path, *arguments: str) -> Result:
    file = tmp_path / "result.json"
    device = [] if "--device" in arguments else ["--device", "cpu"]
    main([*TINY, *device, *arguments, "--out", str(file), "--plots", str(tmp_path)])
    found = load_result(file)
    assert all(len(r.seconds) == 2 and min(r.seconds) > 0 for r in found.rows)
    for private in (platform.node(), str(Path.home()), str(Path.cwd()), str(tmp_path)):
        assert private not in file.read_text()
    return found


def drawn(folder: Path) -> list[str]:
    files = sorted(folder.glob("*.png"))
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    return [file.stem for file in files]


def test_blocks_end_to_end(tmp_path, capsys):
    found = run_cli(blocks.main, tmp_path)
    printed = capsys.readouterr().out
    assert [title.split(":")[0] for title in printed.splitlines() if title.startswith("all")] == [
        "all sites, contiguous, batch 1, 32 px",
        "all sites, channels_last, batch 1, 32 px",
    ]
    assert {r.name for r in found.rows} == set(blocks.at_sites())
    assert found.settings == Settings("mobilenet_v3_small", rounds=2, min_run_time=1e-4)
    assert {"processor", "threads", "torch", "timm", "torchvision"} < set(found.machine)
    assert drawn(tmp_path) == [
        "blocks-channels-last-1-32-all-sites",
        "blocks-contiguous-1-32-all-sites",
    ]
    report.main([str(tmp_path / "result.json"), "--markdown"])
    assert len(cells(capsys.readouterr().out.split("channels_last")[0])) == len(blocks.at_sites())


def test_a_step_of_every_site_in_half_precision(tmp_path):
    found = run_cli(
        blocks.main,
        tmp_path,
        *("--per-site", "--backward", "--dtype", "bfloat16", "--only", "*CaCo"),
        *("--batch", "2", "--memory-format", "channels_last"),
    )
    sites = [(r.where, r.channels) for r in found.rows if r.name == "CaCo"]
    assert len(set(sites)) == len(sites) == 9
    assert sites[0] == ("features.1.block.1", 16)
    assert {r.name for r in found.rows} == {"torchvision SE", "CaCo", "published CaCo", "copy"}
    first = {r.name: r.figures for r in found.rows if r.where == sites[0][0]}
    assert first["copy"]["map_bytes"] == 2 * 16 * 8 * 8 * 2  # batch, C, H, W, bytes
    assert first["torchvision SE"]["saved_bytes"] > first["copy"]["saved_bytes"] == 0


@pytest.mark.parametrize(
    ("axis", "arguments", "values"),
    [
        ("image_size", ["--image-size", "32", "48"], [32, 48]),
        ("batch", ["--batch", "1", "3", "4"], [1, 3, 4]),
        ("channels", ["--channels", "24", "40"], [24, 40]),
    ],
)
def test_sweeps_grow_one_thing_at_one_site(tmp_path, axis, arguments, values):
    found = run_cli(
        blocks.main,
        tmp_path,
        *("--sweep", axis, "--site", "features.4.block.2", "--only", "Eca", *arguments),
    )
    ours = [r for r in found.rows if r.name == "Eca" and r.memory_format == "contiguous"]
    assert [getattr(r, axis) for r in ours] == values
    assert {r.where for r in ours} == {"features.4.block.2"}
    fixed = {"image_size", "batch", "channels"} - {axis}
    assert all(len({getattr(r, name) for r in ours}) == 1 for name in fixed)
    sizes = [r.figures["map_bytes"] for r in ours]
    pixels = [(r.image_size // 16) ** 2 for r in ours]  # the site's stride
    assert sizes == [4 * r.batch * r.channels * p for r, p in zip(ours, pixels, strict=True)]
    values_that_stay = {
        "image_size": "1-features.4.block.2-96",
        "batch": "32-features.4.block.2-96",
        "channels": "1-32-features.4.block.2",
    }
    by = f"blocks-by-{axis.replace('_', '-')}"
    assert drawn(tmp_path) == [
        f"{by}-{name}-{values_that_stay[axis]}" for name in ("channels-last", "contiguous")
    ]


def test_compiled_blocks_are_measured_and_not_counted(tmp_path, monkeypatch):
    # As much of the compiler as says that it ran: code for the processor takes half a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    found = run_cli(
        blocks.main,
        tmp_path,
        *("--compile", "--only", "identity", "--memory-format", "contiguous"),
        *("--sweep", "batch", "--batch", "2"),  # compiles one site
    )
    assert found.settings.compile
    assert all("maps" not in r.figures for r in found.rows)


def test_models_end_to_end(tmp_path, capsys):
    found = run_cli(
        models.main,
        tmp_path,
        *("--backward", "--batch", "2", "--only", "*CaCo", *TINY_NETWORK),
    )
    assert {r.name for r in found.rows} == {"own SE", "CaCo", "published CaCo", "identity"}
    table = cells(report.tables(dataclasses.replace(found, rows=found.rows[:4]), markdown=True))
    assert float(table["published CaCo"]["share saved, x SE's"]) > 1
    assert drawn(tmp_path) == [
        "models-channels-last-2-32-network",
        "models-contiguous-2-32-network",
    ]


def test_models_in_onnx_runtime(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "build_network", lambda name: tiny_network())
    found = run_cli(models.main, tmp_path, "--onnx", "--only", "identity")
    assert [(r.name, r.memory_format) for r in found.rows] == [
        ("own SE", "contiguous"),
        ("identity", "contiguous"),
    ]


@pytest.mark.parametrize(
    ("main", "arguments", "message"),
    [
        (blocks.main, ["--flush-l2"], "argument --flush-l2: needs --device cuda, got 'cpu'"),
        (blocks.main, ["--cuda-graph"], "argument --cuda-graph: needs --device cuda, got 'cpu'"),
        (blocks.main, ["--dtype", "int8"], "argument --dtype: invalid choice: 'int8'"),
        (blocks.main, ["--batch", "0"], "argument --batch: must be at least 1, got 0"),
        (blocks.main, ["--rounds", "x"], "argument --rounds: invalid positive value: 'x'"),
        (blocks.main, ["--min-run-time", "0"], "argument --min-run-time: must be above 0"),
        (blocks.main, ["--only", "Nix*"], "argument --only: 'Nix*' fits none of"),
        (blocks.main, ["--out", "nowhere/a.json"], "argument --out: there is no folder 'nowhere'"),
        (blocks.main, ["--plots", "nowhere"], "argument --plots: there is no folder 'nowhere'"),
        (blocks.main, ["--site", "a"], "argument --site: goes with --sweep, got 'a'"),
        (blocks.main, ["--sweep", "batch", "--site", "a"], "argument --site: 'a' is none of feat"),
        (blocks.main, ["--sweep", "batch", "--per-site"], "argument --per-site: does not go with"),
        (blocks.main, ["--channels", "8"], "argument --channels: goes with --sweep channels"),
        (models.main, ["--channels", "8"], "unrecognized arguments: --channels 8"),
        (models.main, ["--network", "nix"], "argument --network: 'nix' is no network of"),
        (models.main, ["--network", "resnet18"], "argument --network: 'resnet18' has no SE block"),
        (models.main, ["--onnx", "--compile"], "argument --onnx: runs float32 forward on the CPU"),
        (models.main, ["--onnx", "--dtype", "float16"], "but --dtype is 'float16'"),
        (models.main, ["--onnx", "--memory-format", "channels_last"], "takes contiguous images"),
    ],
)
def test_options_that_cannot_be_followed_are_named(capsys, main, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        main(["--device", "cpu", *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("main", [blocks.main, models.main])
def test_what_runs_has_the_format_dtype_and_mode_of_its_rows(tmp_path, monkeypatch, main):
    module, network = (blocks, ()) if main is blocks.main else (models, TINY_NETWORK)
    seen = []

    def new_run(run_of, inputs, *arguments):
        x = inputs if isinstance(inputs, torch.Tensor) else inputs[0]
        run = make(run_of, inputs, *arguments)
        training = {m.training for m in (run_of if isinstance(run_of, list) else [run_of])}
        last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        seen.append(("channels_last" if last else "contiguous", len(x), x.dtype, training))
        return run

    make = module.new_run
    monkeypatch.setattr(module, "new_run", new_run)
    found = run_cli(
        main,
        tmp_path,
        *("--backward", "--dtype", "bfloat16", "--batch", "2", "3", "--only", "SE", *network),
    )
    assert seen == [(r.memory_format, r.batch, torch.bfloat16, {True}) for r in found.rows]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("main", [blocks.main, models.main])
def test_cuda_end_to_end(tmp_path, main):
    found = run_cli(
        main, tmp_path, *("--device", "cuda", "--cuda-graph", "--flush-l2", "--dtype", "bfloat16")
    )
    assert {"gpu", "cuda"} < set(found.machine)
    assert all(r.figures["peak_bytes"] > 0 for r in found.rows if r.name == "CaCo")


@pytest.mark.parametrize("main", [blocks.main, models.main])
def test_cuda_without_a_device_is_refused(capsys, monkeypatch, main):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        main(["--device", "cuda"])
    assert "argument --device: 'cuda', but torch finds no CUDA device" in capsys.readouterr().err


def test_the_example_splits_the_folder_that_is_written(capfd):
    index.main(["--images", "400"])
    rows = [line.rpartition(":") for line in capfd.readouterr().out.splitlines()]
    about = "400 SYNTHETIC rows indexed and split, "
    assert [row[0] for row in rows] == [f"{about}lesion", f"{about}paper"]
    assert all(float(row[2].removesuffix(" s")) > 0 for row in rows)
