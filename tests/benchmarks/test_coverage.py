"""The walk over all names of timm and torchvision, and whether its checks can fail."""

import pytest
import timm
import torchvision
from torch import nn

from attnblocks import SE, CaCo, Eca, find_se, replace_se
from benchmarks import coverage

# version, all names, names with SE blocks
COUNTS = {"timm": ("1.0.31", 1371, 353), "torchvision": ("0.29", 121, 27)}
VERSIONS = {"timm": timm.__version__, "torchvision": torchvision.__version__}
QUANTIZABLE = "quantized_mobilenet_v3_large"


def silent(_: str) -> None:
    pass


@pytest.mark.slow
@pytest.mark.parametrize("library", COUNTS)
def test_all_names(library):
    result = coverage.walk(library, report=silent)
    assert result.failures == {}
    assert result.swapped == result.found
    assert result.refused == ([QUANTIZABLE] if library == "torchvision" else [])
    version, names, found = COUNTS[library]
    if not VERSIONS[library].startswith(version):
        pytest.skip(f"nothing failed; the counts are those of {library} {version}")
    assert (result.names, len(result.found)) == (names, found)
    if library == "torchvision":  # the others are for detection and segmentation
        classifiers = torchvision.models.list_models(module=torchvision.models)
        assert len(set(result.found) & set(classifiers)) == 22


@pytest.mark.parametrize(
    ("library", "name"), [("timm", "mobilenetv3_small_050"), ("torchvision", "mobilenet_v3_small")]
)
def test_a_network_with_se_is_found_and_swapped(library, name):
    result = coverage.walk(library, name, report=silent)
    assert result == coverage.Coverage(library, names=1, found=[name], swapped=[name])
    assert str(result) == f"{library}: 1 of 1 names have SE blocks, 1 swapped, 0 failed"


def test_a_network_without_se_and_a_quantizable_one_are_refused():
    result = coverage.walk("torchvision", "mnasnet0_5", report=silent)
    assert result == coverage.Coverage("torchvision", names=1)
    result = coverage.walk("torchvision", QUANTIZABLE, report=silent)
    assert result == coverage.Coverage("torchvision", names=1, refused=[QUANTIZABLE])


def test_a_network_whose_builder_reads_values_is_named_and_checked():
    name = "regnet_y_400mf"
    result = coverage.walk("torchvision", name, report=silent)
    assert (result.off_meta, result.swapped, result.failures) == ([name], [name], {})


def leaves_one(model, block, **kwargs):
    return replace_se(model, block, where=[s.name for s in find_se(model)][1:], **kwargs)


def ignores_the_width(model, block, match_rd_channels=False, **kwargs):
    return replace_se(model, block, **kwargs, **({"rd_channels": 5} if match_rd_channels else {}))


def takes_another_block(model, block, **kwargs):
    return replace_se(model, Eca if block is CaCo else block)


def halves_the_channels(model, block, **kwargs):
    return replace_se(model, lambda site: SE(site.channels // 2))


def changes_something_else(model, block, **kwargs):
    model.features[0] = nn.Identity()
    return replace_se(model, block, **kwargs)


def does_nothing(model, block, **kwargs):
    return model


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (leaves_one, "mobilenet_v3_small"),
        (ignores_the_width, "mobilenet_v3_small"),
        (takes_another_block, "mobilenet_v3_small"),
        (halves_the_channels, "mobilenet_v3_small"),
        (changes_something_else, "mobilenet_v3_small"),
        (does_nothing, "mobilenet_v3_small"),
        (does_nothing, "mnasnet0_5"),
        (does_nothing, QUANTIZABLE),
    ],
)
def test_a_swap_that_goes_wrong_is_a_failure(wrong, name, monkeypatch):
    monkeypatch.setattr(coverage, "replace_se", wrong)
    lines = []
    result = coverage.walk("torchvision", name, report=lines.append)
    assert (list(result.failures), result.swapped, result.refused) == ([name], [], [])
    assert [line.split(": ")[:2] for line in lines] == [[f"torchvision {name}", "CheckError"]]


def test_se_that_find_se_does_not_find_is_a_failure(monkeypatch):
    monkeypatch.setattr(coverage, "find_se", lambda model: ())
    result = coverage.walk("torchvision", "mobilenet_v3_small", report=silent)
    assert "'features.1.block.1': 'SqueezeExcitation'" in result.failures["mobilenet_v3_small"]


def test_exit_code_and_last_lines(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["coverage", "--library", "torchvision", "--filter", "mnas*5"])
    with pytest.raises(SystemExit) as stop:
        coverage.main()
    assert not stop.value.code
    expected = "torchvision: 0 of 2 names have SE blocks, 0 swapped, 0 failed\n"
    assert capsys.readouterr().out == expected
    monkeypatch.setattr(coverage, "replace_se", does_nothing)
    with pytest.raises(SystemExit) as stop:
        coverage.main()
    assert stop.value.code == 1
