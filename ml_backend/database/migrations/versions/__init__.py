"""One module a layout, each from the one before."""
