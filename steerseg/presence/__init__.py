"""Checks on a proposal that the LVLM itself makes: whether an expression is of anything in the video, and where."""
