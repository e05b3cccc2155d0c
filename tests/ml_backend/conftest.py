"""Fixtures for every test of the backend."""

from tests.support.backend import backend, fake_label_studio, make_backend
from tests.support.completing import executor

__all__ = ["backend", "executor", "fake_label_studio", "make_backend"]
