"""The wheel, and what `import attnblocks` costs."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


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
    source = {str(p.relative_to(ROOT)) for p in (ROOT / "attnblocks").rglob("*.py")}
    assert {n for n in names if n.endswith(".py")} == source


def test_the_wheel_needs_torch_and_einops_only(wheel):
    archive = zipfile.ZipFile(wheel)
    name = next(n for n in archive.namelist() if n.endswith("/METADATA"))
    lines = archive.read(name).decode().splitlines()
    needs = [line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert [line.split(">")[0] for line in needs] == [
        "Requires-Dist: einops",
        "Requires-Dist: torch",
    ]


def test_the_wheel_works_in_an_environment_of_its_own(wheel, tmp_path):
    """A new environment that sees the torch of this one, and nothing of the checkout."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    site = Path(run(python, "import sysconfig; print(sysconfig.get_path('purelib'))", tmp_path))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(wheel)], check=True)
    (site / "torch_of_the_tests.pth").write_text(sysconfig.get_path("purelib"))
    code = (
        "import attnblocks, torch; print(attnblocks.__file__); "
        "print(tuple(attnblocks.CaCo(64)(torch.rand(2, 64, 7, 5)).shape))"
    )
    file, shape = run(python, code, tmp_path).splitlines()
    assert Path(file).parents[1] == site
    assert shape == "(2, 64, 7, 5)"


def test_import_is_quiet_and_loads_nothing_but_einops(tmp_path):
    code = (
        "import sys, torch; before = set(sys.modules); import attnblocks; "
        "print(*{m.split('.')[0] for m in set(sys.modules) - before})"
    )
    loaded = set(run(sys.executable, code, tmp_path).split())
    assert {"attnblocks", "einops"} <= loaded
    assert not {"torchvision", "timm", "lightning", "numpy"} & loaded


def test_the_version_is_the_one_of_the_wheel(wheel, tmp_path):
    version = run(sys.executable, "import attnblocks; print(attnblocks.__version__)", tmp_path)
    assert wheel.name.startswith(f"attnblocks-{version}-")
