"""J&F, dataset readers, the variants that are measured, how they are run, and the report."""

from steerseg.evaluation.datasets import DATASETS, Dataset, default_split, open_dataset
from steerseg.evaluation.metrics import Interval, Scores, bootstrap_mean, boundary_f, region_iou, score
from steerseg.evaluation.readers import read_ref_youtube_vos
from steerseg.evaluation.results import (
    Result,
    ResultFolder,
    VariantResults,
    fingerprint,
    mean_of,
    paired_gain,
)
from steerseg.evaluation.runner import Models, describe_runs, evaluate, in_processes, in_this_process
from steerseg.evaluation.sample import Sample
from steerseg.evaluation.submission import MaskFolder, write_submission
from steerseg.evaluation.variants import ABLATIONS, MAIN, Variant, choose_variants

__all__ = [
    "ABLATIONS",
    "DATASETS",
    "MAIN",
    "Dataset",
    "Interval",
    "MaskFolder",
    "Models",
    "Result",
    "ResultFolder",
    "Sample",
    "Scores",
    "Variant",
    "VariantResults",
    "bootstrap_mean",
    "boundary_f",
    "choose_variants",
    "default_split",
    "describe_runs",
    "evaluate",
    "fingerprint",
    "in_processes",
    "in_this_process",
    "mean_of",
    "open_dataset",
    "paired_gain",
    "read_ref_youtube_vos",
    "region_iou",
    "score",
    "write_submission",
]
