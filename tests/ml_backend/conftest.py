"""Fixtures for every test of the backend."""

from tests.support.backend import backend, fake_label_studio, make_backend

__all__ = ["backend", "fake_label_studio", "make_backend"]
