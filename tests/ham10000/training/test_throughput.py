"""The images per second, and what measuring them leaves alone."""

from pathlib import Path
from types import SimpleNamespace

from examples.ham10000 import throughput
from examples.ham10000.callbacks import EpochLog
from examples.ham10000.module import LesionClassifier
from examples.ham10000.throughput import Throughput


def test_the_network_alone_is_no_time_of_the_epoch(monkeypatch, capsys):
    """Two steps of eight images in 4 s; then 6 s for the network alone, of which 2 s are timed."""
    moments = iter((110.0, 114.0, 120.0))
    monkeypatch.setattr(throughput, "_now", lambda: next(moments))
    monkeypatch.setattr(throughput, "_time_alone", lambda *_: 2.0)
    log = EpochLog(Path("metrics.csv"))
    log.start = 100.0
    callback = Throughput(log, steps=2, warm_up=1)
    trainer = SimpleNamespace(num_training_batches=9, current_epoch=0)
    module = object.__new__(LesionClassifier)
    for step in range(9):
        callback.on_train_batch_end(trainer, module, None, ([], [0] * 8, []), step)
    printed = capsys.readouterr().out
    assert "4 in the loop, 8 by the network alone on the same batches, ratio 0.50" in printed
    assert log.start == 106.0
