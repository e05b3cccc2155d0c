"""The model class for the stock 2.x server, on a stand-in for that server's base class."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from tests.support.backend import VERSION, Backend, recorded

pytestmark = pytest.mark.timeout(120)


class StockBase:
    """What the stock server's base class does when it makes a model for a request."""

    cache: ClassVar[dict[tuple[str, str], Any]] = {}

    def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
        self.project_id = project_id or ""
        self.set("label_config", label_config)
        self.setup()

    def setup(self) -> None:
        raise NotImplementedError

    def get(self, key: str) -> Any:
        return self.cache[self.project_id, key]

    def set(self, key: str, value: Any) -> None:
        self.cache[self.project_id, key] = value

    @property
    def label_config(self) -> Any:
        return self.get("label_config")


@pytest.fixture
def model_class(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    package, module = types.ModuleType("label_studio_ml"), types.ModuleType("label_studio_ml.model")
    module.LabelStudioMLBase = StockBase  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "label_studio_ml", package)
    monkeypatch.setitem(sys.modules, "label_studio_ml.model", module)
    sys.modules.pop("ml_backend.model", None)
    loaded = importlib.import_module("ml_backend.model")
    monkeypatch.setattr(loaded, "shared_service", lambda: backend.service)
    yield loaded.SteerSegModel
    sys.modules.pop("ml_backend.model", None)


def test_it_delegates_everything(backend: Backend, model_class: Any) -> None:
    body = recorded("predict_batch_video")
    model = model_class("1", body["label_config"])
    assert model.get("model_version") == VERSION
    model.set_extra_params({"expression": "the ball"})
    # The stock server makes a new model for each request.
    results = model_class("1", body["label_config"]).predict(body["tasks"], context=None, login=None)
    assert [len(item) for item in results] == [2, 2, 2]
    assert results[0][0]["result"][0]["meta"]["text"][0] == "the ball"
    event = recorded("webhook_annotation_updated")
    action = event.pop("action")
    assert model.fit(action, event) == {"event": 1}


def test_without_the_stock_server_it_says_what_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "label_studio_ml.model", None)
    sys.modules.pop("ml_backend.model", None)
    with pytest.raises(ImportError, match="steerseg-backend serve"):
        importlib.import_module("ml_backend.model")
