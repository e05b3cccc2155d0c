"""The demo preset's world: rendered referring videos, and the tiny models that are trained on them."""
