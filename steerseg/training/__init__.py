"""Soft prompts from scratch on a dataset: what is seen in which order, the loop, its log, and the preset it makes."""

from steerseg.training.examples import Examples, data_order
from steerseg.training.loop import train
from steerseg.training.preset import write_preset
from steerseg.training.record import Record

__all__ = ["Examples", "Record", "data_order", "train", "write_preset"]
