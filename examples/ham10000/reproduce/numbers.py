"""The numbers of a table for other programs: CSV with a line per row, and with a line per run.

All figures are in percent, as their names say; what there is not is an empty field.
"""

from pathlib import Path

from examples.ham10000.evaluation.metrics import HEADLINES
from examples.ham10000.files import write_csv
from examples.ham10000.reproduce.results import Results, headline, summary


def write_numbers(results: Results) -> list[Path]:
    """Write both files of a table, and give them.

    Args:
        results: of a table.
    """
    by_row, by_run = results.file(".csv"), results.file("-runs.csv")
    _write_rows(by_row, results)
    _write_runs(by_run, results)
    return [by_row, by_run]


def _write_rows(file: Path, results: Results) -> None:
    """A line per row, finished or not."""
    header = ["row", "accuracy_percent_paper", "bacc_percent_paper", "parameters_million_paper"]
    for name in HEADLINES:
        header += [f"{name}_percent{end}" for end in ("", "_sd", "_low", "_high")]
    header += ["parameters", "validation_mean_recall_percent", "validation_mean_recall_percent_sd"]
    lines: list[list[object]] = []
    for row, runs in results.rows.items():
        line: list[object] = [row.name, row.accuracy, row.bacc, row.parameters]
        if runs:
            for name in HEADLINES:
                value = headline(runs, name)
                line += [value.mean, value.sd, *(value.interval or (None, None))]
            value = summary([run.validation for run in runs])
            line += [runs[0].description["parameters"], value.mean, value.sd]
        lines.append([*line, *[None] * (len(header) - len(line)), len(runs)])
    write_csv(file, [*header, "seeds"], lines)


def _write_runs(file: Path, results: Results) -> None:
    """A line per finished run."""
    header = ["row", "seed", "run", "chosen_epoch", "validation_mean_recall_percent"]
    for name in HEADLINES:
        header += [f"{name}_percent{end}" for end in ("", "_low", "_high")]
    lines: list[list[object]] = []
    for row, runs in results.rows.items():
        for run in runs:
            line: list[object] = [row.name, run.config.seed, run.config.out.name]
            line += [run.epoch, run.validation]
            for name in HEADLINES:
                value = headline([run], name)
                line += [value.mean, *(value.interval or (None, None))]
            data = (run.test["data"], run.test["leak"], run.test["images"])
            lines.append([*line, run.description["parameters"], *data])
    write_csv(file, [*header, "parameters", "data", "leak", "test_images"], lines)
