"""The wheel, the archive of sources, and what `import attnblocks` costs."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import torch

from attnblocks.ops import forms

ROOT = Path(__file__).parents[1]


def build(kind: str, source: Path, out: Path, **environment: str) -> Path:
    """Build a wheel or an archive of sources ("sdist")."""
    command = ["-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(out), str(source)]
    env = {**os.environ, **environment}
    subprocess.run([sys.executable, *command], check=True, capture_output=True, env=env)
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """The archive of sources, unpacked."""
    out = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", ROOT, out)) as archive:
        archive.extractall(out)
    (path,) = (path for path in out.iterdir() if path.is_dir())
    return path


def in_package(*patterns: str) -> set[str]:
    """The files of the library that match; in the checkout its kernels lie there too."""
    files = [file for pattern in patterns for file in (ROOT / "attnblocks").rglob(pattern)]
    return {file.relative_to(ROOT).as_posix() for file in files}


def run(python: str | Path, code: str, cwd: Path) -> str:
    """Run code in a new interpreter, away from the checkout, and return all that it prints."""
    done = subprocess.run(
        [str(python), "-c", code],
        cwd=cwd,
        text=True,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.stdout.strip()


def test_the_wheel_holds_the_library_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    folders = {name.split("/")[0] for name in names}
    assert folders == {"attnblocks", next(f for f in folders if f.endswith(".dist-info"))}
    assert "attnblocks/py.typed" in names
    package = {name for name in names if name.startswith("attnblocks/")}
    assert package == in_package("*.py", "py.typed", "kernels_*")


def test_the_wheel_is_for_one_platform_and_every_python(wheel):
    assert wheel.name.split("-", 2)[2].startswith("py3-none-")
    assert not wheel.name.endswith("-any.whl")


def test_the_sources_hold_what_is_built(sources):
    names = {p.relative_to(sources).as_posix() for p in sources.rglob("*") if p.is_file()}
    beside = {"CHANGELOG.md", "CITATION.cff", "CMakeLists.txt", "LICENSE", "README.md"}
    package = in_package("*.py", "py.typed", "*.cpp", "*.h")
    assert names == {"PKG-INFO", "pyproject.toml", *beside, *package}


@pytest.mark.skipif(sys.platform == "win32", reason="Visual Studio does not read CXX")
def test_the_sources_build_without_a_compiler(sources, tmp_path):
    wheel = build("wheel", sources, tmp_path, CXX=str(tmp_path / "no_compiler"))
    names = zipfile.ZipFile(wheel).namelist()
    assert {n for n in names if n.startswith("attnblocks/")} == in_package("*.py", "py.typed")


def test_the_wheel_needs_torch_and_einops_only(wheel):
    archive = zipfile.ZipFile(wheel)
    name = next(n for n in archive.namelist() if n.endswith("/METADATA"))
    lines = archive.read(name).decode().splitlines()
    needs = [line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert {line.split(">")[0] for line in needs} == {
        "Requires-Dist: einops",
        "Requires-Dist: torch",
    }


def test_the_wheel_works_in_an_environment_of_its_own(wheel, tmp_path):
    """A new environment that sees the torch of this one, and nothing of the checkout."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    site = Path(run(python, "import sysconfig; print(sysconfig.get_path('purelib'))", tmp_path))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(wheel)], check=True)
    (site / "torch_of_the_tests.pth").write_text(str(Path(torch.__file__).parents[1]))
    code = (
        "import attnblocks, torch; print(attnblocks.__file__); "
        "print(tuple(attnblocks.CaCo(64)(torch.rand(2, 64, 7, 5)).shape)); "
        "print(attnblocks.ops.forms().cpu)"
    )
    file, shape, form = run(python, code, tmp_path).splitlines()
    assert Path(file).parents[1] == site
    assert shape == "(2, 64, 7, 5)"
    assert form == forms().cpu


def test_import_is_quiet_and_loads_nothing_but_einops(tmp_path):
    code = (
        "import sys, torch; before = set(sys.modules); import attnblocks; "
        "print(*{m.split('.')[0] for m in set(sys.modules) - before}); "
        "from attnblocks.ops.native import library; print(library._load.cache_info().currsize)"
    )
    modules, kernels = run(sys.executable, code, tmp_path).splitlines()
    loaded = set(modules.split())
    assert {"attnblocks", "einops"} <= loaded
    assert not {"torchvision", "timm", "lightning", "numpy"} & loaded
    assert kernels == "0"


def test_the_version_is_the_one_of_the_wheel(wheel, tmp_path):
    version = run(sys.executable, "import attnblocks; print(attnblocks.__version__)", tmp_path)
    assert wheel.name.startswith(f"attnblocks-{version}-")
