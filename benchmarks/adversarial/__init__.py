"""Storms and bombs against the backend, measured."""
