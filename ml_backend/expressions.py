"""Which words a task is about, where its annotator has not typed any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_backend.label_studio.config import task_value
from ml_backend.settings import Settings
from steerseg.errors import ExpressionError
from steerseg.reasoning import check_expression


def task_expression(data: Mapping[str, Any], extra_params: Mapping[str, Any], settings: Settings) -> str:
    """What to track in a task: its own expression, else the project's, else the settings'.

    Args:
        data: The task's data.
        extra_params: The parameters of the project's model connection.
        settings: The settings in force.

    Raises:
        ExpressionError: There is none, or it is unusable.
    """
    key = extra_params.get("expression_key", settings.expression_key)
    value = task_value(data, str(key))
    if value is None:
        value = extra_params.get("expression", settings.default_expression)
    if value is None:
        raise ExpressionError(
            f"the task's data has no {str(key)!r} and the project no default expression; add "
            f'"{key}" to the data, or {{"expression": "..."}} to the extra parameters of the model'
        )
    return check_expression(value)
