"""The errors of the library. A message says what was wrong, what was expected and what to do."""


class SteerSegError(Exception):
    """Base of every error that a caller may show to a person."""


class VideoError(SteerSegError):
    """A video is missing, unreadable, empty or beyond a limit."""


class ExpressionError(SteerSegError):
    """An expression is missing, empty or too long."""


class ConfigError(SteerSegError):
    """A preset, a setting or a labelling configuration cannot be used."""


class NoLanguageModelError(SteerSegError):
    """An expression or soft prompts are of no use, since the preset has no language model."""


class ModelError(SteerSegError):
    """A model or its weights cannot be loaded or do not fit each other."""


class ArtefactError(SteerSegError):
    """A file cannot be written: the disk is full, or its folder is not writable."""


class Cancelled(SteerSegError):  # noqa: N818 - a cancellation is not a fault
    """The caller asked for the work to stop."""
