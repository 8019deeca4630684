"""What commands print, a server for the download, a folder for it, and files of images."""

import threading

import numpy as np
import pytest
from PIL import Image

from examples.ham10000.cli import main
from tests.ham10000.data.dataverse import Server


@pytest.fixture
def command(capsys):
    """Runs a command, whose exit code has to be the given one: what it prints."""

    def run(code, *words):
        capsys.readouterr()
        assert main([*map(str, words)]) == code
        return "".join(capsys.readouterr())

    return run


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def out(tmp_path):
    return tmp_path / "new" / "ham10000"


@pytest.fixture
def paths(tmp_path):
    """Eight images of 16x12 pixels."""
    generator = np.random.default_rng(0)
    files = [tmp_path / f"{i}.png" for i in range(8)]
    for file in files:
        Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(file)
    return files
