"""J&F, dataset readers, the evaluation runner and its tables."""

from steerseg.evaluation.metrics import Interval, Scores, bootstrap_mean, boundary_f, region_iou, score
from steerseg.evaluation.readers import Sample, open_dataset, read_ref_youtube_vos
from steerseg.evaluation.runner import (
    Prediction,
    Result,
    evaluate,
    evaluate_method,
    fingerprint,
    mean_of,
    paired_gain,
    table,
)

__all__ = [
    "Interval",
    "Prediction",
    "Result",
    "Sample",
    "Scores",
    "bootstrap_mean",
    "boundary_f",
    "evaluate",
    "evaluate_method",
    "fingerprint",
    "mean_of",
    "open_dataset",
    "paired_gain",
    "read_ref_youtube_vos",
    "region_iou",
    "score",
    "table",
]
