"""The invented words that the loop is measured with, each for another group of objects.

They were written down before anything was measured with them, and none was ever exchanged. The method was developed
with :data:`OPEN`; :data:`SEALED` were measured once, at the end.
"""

from __future__ import annotations

from benchmarks.refinement.domain import Convention

OPEN = (
    Convention("blick", "fruit"),
    Convention("dax", "animal"),
    Convention("wug", "instrument"),
    Convention("fep", "clothing"),
    Convention("modi", "vehicle"),
    Convention("zorp", "building"),
)

SEALED = (
    Convention("gazzer", "tool"),
    Convention("koba", "drink"),
)

WORDS = (*OPEN, *SEALED)
