"""The figures of a part in words."""

from typing import Any

from examples.ham10000.evaluation.metrics import CHALLENGE_HEADLINES, HEADLINES


def format_summary(summary: dict[str, Any]) -> str:
    """The figures of a part as a table for the terminal."""
    over, lesions = summary["bootstrap_over"], f" of {summary['lesions']} lesions"
    if summary["split"] is None:
        headlines, title = CHALLENGE_HEADLINES, f"Ground truth file {summary['data']}"
        title += f"{lesions if over == 'lesions' else ''}, {summary['network']}"
    else:
        headlines, title = HEADLINES, f"{summary['part'].capitalize()} part, {summary['data']}, "
        title += f"{summary['split']}, leak {summary['leak']:.3f}, {summary['network']}, "
        title += f"{summary['images']} images{lesions}"
    lines = [f"{title}; 95 % intervals from a bootstrap over {over}"]
    for name in headlines:
        low, high = summary["interval_95"][name]
        lines.append(f"  {name:18}{summary[name]:.3f}   [{low:.3f}, {high:.3f}]")
    lines.append(f"  {'calibration_error':18}{summary['calibration_error']:.3f}")
    columns = ("sensitivity", "specificity", "bacc_formula", "f1", "roc_auc")
    lines.append(f"  {'class':6}{'images':>8}" + "".join(f"{name:>14}" for name in columns))
    for name, row in summary["per_class"].items():
        values = "".join(f"{row[column]:14.3f}" for column in columns)
        lines.append(f"  {name:6}{row['images']:8}{values}")
    return "\n".join(lines)
