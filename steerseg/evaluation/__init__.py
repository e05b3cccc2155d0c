"""J&F, dataset readers, the variants that are measured, how they are run, and the report."""

from steerseg.evaluation.metrics import Interval, Scores, bootstrap_mean, boundary_f, region_iou, score
from steerseg.evaluation.readers import Sample, open_dataset, read_ref_youtube_vos
from steerseg.evaluation.results import Measured, Result, ResultFolder, fingerprint, mean_of, paired_gain
from steerseg.evaluation.runner import Models, describe_runs, evaluate, in_processes, in_this_process
from steerseg.evaluation.variants import ABLATIONS, MAIN, Variant, choose_variants

__all__ = [
    "ABLATIONS",
    "MAIN",
    "Interval",
    "Measured",
    "Models",
    "Result",
    "ResultFolder",
    "Sample",
    "Scores",
    "Variant",
    "bootstrap_mean",
    "boundary_f",
    "choose_variants",
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
]
