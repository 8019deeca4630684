"""What the benchmarks print, write, draw and compare."""

import dataclasses
import json
import platform
from pathlib import Path

import pytest
import torch

from benchmarks import blocks, models, report
from benchmarks.compare import compare
from benchmarks.compare import main as compare_files
from benchmarks.results import Result, Row, load_result, save_result
from benchmarks.settings import Settings

TINY = ["--image-size", "32", "--batch", "1", "--rounds", "2", "--min-run-time", "0.0001"]
TINY_NETWORK = ("--network", "timm/test_efficientnet")
ROUNDS = [0.010, 0.012, 0.011, 0.013, 0.009]  # median 11 ms, quartiles 10 and 12


def row(name: str, seconds: list[float], **figures: float) -> Row:
    return Row(name, "contiguous", 4, 224, "all sites", None, seconds, figures)


def result(rows: list[Row], benchmark: str = "blocks", **settings) -> Result:
    machine = {"processor": "Example", "threads": 2, "torch": "2.99"}
    return Result(benchmark, machine, Settings("mobilenet_v3_small", **settings), rows)


def cells(text: str) -> dict[str, dict[str, str]]:
    """The cells of the only table of a text in Markdown, by row and column."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    head, _, *body = [[cell.strip() for cell in line] for line in lines]
    assert all(len(line) == len(head) + 1 or len(line) == len(head) for line in body)
    return {line[0]: dict(zip(head[-len(line) + 1 :], line[1:], strict=True)) for line in body}


def test_the_table_of_blocks_holds_ratios_and_bandwidth():
    rows = [
        row("torchvision SE", [s / 2 for s in ROUNDS], maps=3.0, map_bytes=1e6, parameters=1000),
        row("CaCo", ROUNDS, maps=7.0, map_bytes=1e6, parameters=1234567),
        row("published CaCo", [s * 2 for s in ROUNDS], maps=10.0, map_bytes=1e6, parameters=7),
        row("copy", [s / 11 for s in ROUNDS], maps=2.0, map_bytes=1e6, parameters=0),
    ]
    table = cells(report.tables(result(rows), markdown=True))
    assert list(table) == [r.name for r in rows]
    assert table["CaCo"] == {
        "ms": "11.0",
        "quartiles": "10.0 to 12.0",
        "x SE": "2.00",
        "x published": "0.50",
        "x copy": "11.00",
        "maps": "7.0",
        "GB/s": "0.6",  # 7 MB in 11 ms
        "parameters": "1,234,567",
    }
    assert table["published CaCo"]["x published"] == ""
    assert table["copy"]["GB/s"] == "2.0"


def test_blocks_are_set_against_their_published_forms_in_one_figure():
    ratios = {"CBAM": 1 / 2, "CoordAtt": 1 / 4, "SeCo": 1, "CaCo": 1 / 8}
    ours = [row(name, [s * ratio for s in ROUNDS]) for name, ratio in ratios.items()]
    peers = [row(f"published {name}", ROUNDS) for name in ratios]
    text = report.tables(result([*ours, *peers]))
    assert "geometric mean of CBAM, CoordAtt, SeCo, CaCo: 0.35" in text  # the fourth root of 1/64
    assert "geometric mean" not in report.tables(result([*ours, *peers[1:]]))


def test_the_table_of_models_holds_shares_round_by_round():
    floor = [0.010, 0.020, 0.030]
    rows = [
        row("own SE", [0.012, 0.022, 0.032], saved_bytes=30 * 2**20, flops=1e9),
        row("CaCo", [0.015, 0.023, 0.034], saved_bytes=45 * 2**20, flops=2.5e9),  # 5, 3 and 4 more
        row("identity", floor, saved_bytes=20 * 2**20, flops=1e9),
    ]
    table = cells(report.tables(result(rows, "models", backward=True), markdown=True))
    assert table["CaCo"] == {
        "ms": "23.0",
        "quartiles": "19.0 to 28.5",
        "images/s": "174",
        "share ms": "4.00",
        "its quartiles": "3.50 to 4.50",
        "x SE's": "2.00",
        "saved MiB": "45.0",
        "share saved, x SE's": "2.50",
        "GFLOPs": "2.5000",
    }
    assert table["own SE"]["x SE's"] == table["own SE"]["share saved, x SE's"] == "1.00"
    assert table["identity"]["share ms"] == ""


def test_the_terminal_shows_the_same_cells_in_columns():
    rows = [row("torchvision SE", ROUNDS), row("CaCo", [2 * s for s in ROUNDS])]
    head, _, names, *body = report.tables(result(rows)).rstrip().splitlines()
    assert head == (
        "all sites, contiguous, batch 4, 224 px: "
        "mobilenet_v3_small, forward, float32, cpu, 2 threads"
    )
    assert names.split() == ["ms", "quartiles", "x", "SE"]
    assert body[1].split() == ["CaCo", "22.0", "20.0", "to", "24.0", "2.00"]
    assert len({len(line) for line in (names, *body)}) == 1


def test_a_file_holds_the_result_whole(tmp_path):
    saved = result([row("CaCo", ROUNDS, maps=7.0)], backward=True, rounds=5)
    save_result(saved, tmp_path / "a.json")
    assert load_result(tmp_path / "a.json") == saved
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "no result of a benchmark"),
        ("[]", "no result"),
        ("{}", "no result"),
        ('{"version": 0}', "version"),
        ({"benchmark": "other"}, "benchmark is 'other'"),
        ({"rows": []}, r"rows is \[\]"),
        ({"rows": [{"name": "CaCo"}]}, "no result"),
        ({"machine": 3}, "machine is 3"),
        ({"settings": {"speed": "high"}}, "speed"),
        ({"seconds": []}, "seconds of 'CaCo' are"),
        ({"seconds": [0.1, 0.0]}, "seconds of 'CaCo' are"),
        ({"seconds": ["1"]}, "seconds of 'CaCo' are"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "a.json"
    save_result(result([row("CaCo", ROUNDS)]), path)
    good = json.loads(path.read_text())
    if isinstance(content, str):
        path.write_text(content)
    elif "seconds" in content:
        path.write_text(json.dumps({**good, "rows": [{**good["rows"][0], **content}]}))
    else:
        path.write_text(json.dumps({**good, **content}))
    with pytest.raises(ValueError, match=message):
        load_result(path)


def times(factor: float, **figures: float) -> list[Row]:
    return [
        row("SE", ROUNDS, maps=3.0),
        row("CaCo", [factor * s for s in ROUNDS], **{"maps": 7.0, **figures}),
    ]


def run_compare(tmp_path: Path, old: Result, new: Result, *arguments: str) -> object:
    for name, value in (("old", old), ("new", new)):
        save_result(value, tmp_path / f"{name}.json")
    with pytest.raises(SystemExit) as stopped:
        compare_files([str(tmp_path / "old.json"), str(tmp_path / "new.json"), *arguments])
    return stopped.value.code


@pytest.mark.parametrize(
    ("new", "arguments", "regressions"),
    [
        (times(1.0), (), []),
        (times(0.5), (), []),
        (times(1.15), (), []),  # beyond the threshold, but the quartiles overlap
        (times(1.15), ("--threshold", "1.01"), []),
        (times(1.5), (), ["CaCo: 11 to 16.5 ms, ratio 1.500"]),
        (times(1.5), ("--threshold", "1.6"), []),
        (times(1.0, maps=10.0), (), ["CaCo maps: 7 to 10, ratio 1.429"]),
        (times(1.0, maps=7.5), (), []),
        (times(1.3, maps=5.0), (), ["CaCo: 11 to 14.3 ms, ratio 1.300"]),
    ],
)
def test_regressions_are_named(tmp_path, capsys, new, arguments, regressions):
    code = run_compare(tmp_path, result(times(1.0)), result(new), *arguments)
    count, *named = capsys.readouterr().out.split(" only\n")[1].splitlines()
    assert count.startswith(f"{len(regressions)} regressions")
    assert named == [f"  all sites, contiguous, batch 4, 224 px: {line}" for line in regressions]
    assert code == bool(regressions)


def test_rows_are_joined_by_group_and_name(capsys, tmp_path):
    other = dataclasses.replace(row("CaCo", ROUNDS), batch=32)
    old = result([row("CaCo", ROUNDS), row("SE", ROUNDS)])
    new = result([other, row("SE", [2 * s for s in ROUNDS])])
    (change,) = compare(old, new)
    assert (change.name, change.figure, change.ratio) == ("SE", "seconds", pytest.approx(2.0))
    assert run_compare(tmp_path, old, new) == 1
    assert "1 rows compared, 2 are in one file only" in capsys.readouterr().out


OTHER_MACHINE = dataclasses.replace(result(times(1.0)), machine={"processor": "B", "threads": 2})


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (OTHER_MACHINE, "the machines differ: processor 'Example' and 'B', torch '2.99' and None"),
        (result(times(1.0), dtype="float16"), "settings differ: dtype 'float32' and 'float16'"),
        (result(times(1.0), "models"), "one is a result of blocks, the other of models"),
        (result([row("Eca", ROUNDS)]), "no row in common"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, capsys, new, message):
    assert run_compare(tmp_path, result(times(1.0)), new) == 2
    assert message in capsys.readouterr().err


def test_machines_and_efforts_may_differ_if_that_is_said(tmp_path):
    other = dataclasses.replace(OTHER_MACHINE, settings=Settings("mobilenet_v3_small", rounds=9))
    assert run_compare(tmp_path, result(times(1.0)), other, "--across-machines") == 0


def test_a_report_into_no_folder_is_refused(tmp_path, capsys):
    save_result(result([row("CaCo", ROUNDS)]), tmp_path / "a.json")
    with pytest.raises(SystemExit, match="2"):
        report.main([str(tmp_path / "a.json"), "--plots", str(tmp_path / "none")])
    assert "argument --plots: there is no folder" in capsys.readouterr().err


def test_a_missing_file_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        compare_files([str(tmp_path / "none.json"), str(tmp_path / "none.json")])
    assert "none.json: No such file" in capsys.readouterr().err


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


def test_compiled_blocks_are_measured_and_not_counted(tmp_path):
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
    assert float(table["CaCo"]["share saved, x SE's"]) > 1
    assert drawn(tmp_path) == [
        "models-channels-last-2-32-network",
        "models-contiguous-2-32-network",
    ]


def test_models_in_onnx_runtime(tmp_path):
    found = run_cli(models.main, tmp_path, "--onnx", "--only", "identity", *TINY_NETWORK)
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
    module = blocks if main is blocks.main else models
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
        main, tmp_path, *("--backward", "--dtype", "bfloat16", "--batch", "2", "3", "--only", "SE")
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
