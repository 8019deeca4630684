"""The scoring program of the ISIC challenges."""

import warnings
from pathlib import Path
from unittest import mock

import pandas as pd
from isic_challenge_scoring.classification import ClassificationMetric, ClassificationScore


def isic_score(truth_csv: Path, prediction_csv: Path) -> ClassificationScore:
    """Score a prediction file; both have the columns image, MEL, NV, BCC, AKIEC, BKL, DF, VASC."""
    # isic-challenge-scoring 5.6, its newest, calls applymap, which pandas 3 renamed to map.
    applymap = mock.patch.object(pd.DataFrame, "applymap", pd.DataFrame.map, create=True)
    with applymap, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what pandas 4 will drop
        return ClassificationScore.from_file(
            truth_csv, prediction_csv, ClassificationMetric.BALANCED_ACCURACY
        )
