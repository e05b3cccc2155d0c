"""Several objects of one expression: instances are sought one after the other, on maps of one of them (our choice)."""
