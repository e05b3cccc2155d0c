"""Fixtures for every test of the backend."""

from backend_fixtures import backend, fake_label_studio, make_backend

__all__ = ["backend", "fake_label_studio", "make_backend"]
