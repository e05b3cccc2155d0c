"""Soft prompts from scratch on a dataset: samples, their order, the loop, its log, and the preset that it makes."""

from steerseg.training.batches import BatchPlan, data_order
from steerseg.training.examples import Examples
from steerseg.training.log import TrainingLog
from steerseg.training.loop import train
from steerseg.training.preset import write_preset

__all__ = ["BatchPlan", "Examples", "TrainingLog", "data_order", "train", "write_preset"]
