"""Campaigns that try to break a running backend; short in continuous integration, hours long by option."""
