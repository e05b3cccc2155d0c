"""The motion that an expression states: read from its words, and held against how candidates move (our choice)."""
