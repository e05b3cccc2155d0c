"""Whether Label Studio really holds usable predictions for the tasks of a project."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from label_studio_sdk.label_interface import LabelInterface

from ml_backend.label_studio.client import LabelStudioClient

_SHAPES = frozenset({"brushlabels", "bitmasklabels", "polygonlabels", "vectorlabels", "videorectangle"})


def verify_project(
    client: LabelStudioClient, project: int, *, model_version: str, without: Collection[int] = ()
) -> list[str]:
    """What is wrong with a project's predictions of one version, a line for each problem.

    Args:
        client: Connection to Label Studio.
        project: The project's id.
        model_version: The version that every task should have.
        without: Tasks that are known to have none.
    """
    interface = LabelInterface(str(client.projects.get(project)["label_config"]))
    tasks = list(client.tasks.of_project(project))
    problems = [] if tasks else [f"project {project} has no tasks"]
    for task in tasks:
        number = int(task["id"])
        if number in without:
            continue
        found = [p for p in client.predictions.of_task(number) if p["model_version"] == model_version]
        if not found:
            problems.append(f"task {number} has no prediction of {model_version}")
        for prediction in found:
            problems += [
                f"task {number}, prediction {prediction['id']}: {problem}"
                for problem in problems_of(interface, prediction)
            ]
    return problems


def problems_of(interface: LabelInterface, prediction: Mapping[str, Any]) -> list[str]:
    """What is wrong with one stored prediction."""
    checked = {key: prediction[key] for key in ("result", "score", "model_version")}
    problems = interface.validate_prediction(checked, return_errors=True)
    assert isinstance(problems, list)
    if not shapes_of(prediction["result"]):
        problems = [*problems, "it has neither masks nor boxes"]
    return problems


def shapes_of(result: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The regions that have a place in the picture: masks and box tracks, without texts and choices."""
    return [region for region in result if region["type"] in _SHAPES]
