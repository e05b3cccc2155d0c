"""A team's own words: named by the frozen model, learned from corrections, and rewritten by a glossary."""
