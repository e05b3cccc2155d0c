"""End-to-end tests: a real Label Studio, the real backend with the preset `demo`, a real browser."""
