"""Tools of development; they ship in no wheel."""
