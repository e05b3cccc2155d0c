"""Frozen segmenters: what each makes of frames, prompts and memories. The driver over them is ``steerseg.tracking``."""
