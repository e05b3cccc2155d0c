"""Measurements that take more than a test: each folder says by which command its numbers are made."""
