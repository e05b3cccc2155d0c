"""The wordings of expressions, as data. In every pair the second tuple is held out of training.

``{s}``, ``{es}``, ``{is}``, ``{does}`` take the form of the noun's number; ``{n}`` is the noun, ``{m}``
another object, ``{ns}`` the noun's plural, ``{np}`` a whole noun phrase.
"""

from __future__ import annotations

from functools import lru_cache

from steerseg.demo.catalogue import TRAITS

Wordings = tuple[tuple[str, ...], tuple[str, ...]]

WRAPPERS: Wordings = (
    (
        "track {np}",
        "find {np}",
        "segment {np}",
        "select {np}",
        "show me {np}",
        "where {is} {np}",
        "please track {np}",
        "please segment {np}",
        "follow {np}",
        "mark {np}",
        "look for {np}",
        "i want {np}",
        "can you find {np}",
        "which one {is} {np}",
    ),
    (
        "please find {np}",
        "can you track {np}",
        "show me where {np} {is}",
        "please select {np}",
        "i want to find {np}",
    ),
)

GENERIC_NOUNS = ("one", "object", "thing", "item")


def _sideways(way: str, other: str) -> tuple[Wordings, Wordings]:
    """Participles and finite clauses of a motion to the left or right."""
    return (
        (
            (
                f"moving {way}",
                f"moving to the {way}",
                f"going {way}",
                f"going to the {way}",
                f"heading {way}",
                f"travelling to the {way}",
                f"moving from {other} to {way}",
                f"moving towards the {way}",
                f"sliding to the {way}",
            ),
            (f"heading to the {way}", f"travelling from {other} to {way}", f"going towards the {way}"),
        ),
        (
            (
                f"move{{s}} {way}",
                f"move{{s}} to the {way}",
                f"go{{es}} {way}",
                f"go{{es}} to the {way}",
                f"go{{es}} from {other} to {way}",
                f"head{{s}} {way}",
                f"travel{{s}} to the {way}",
                f"run{{s}} to the {way}",
            ),
            (
                f"travel{{s}} from {other} to {way}",
                f"head{{s}} towards the {way}",
                f"move{{s}} from {other} to {way}",
            ),
        ),
    )


def _upright(way: str, verb: str, second: str, edge: str) -> tuple[Wordings, Wordings]:
    """Participles and finite clauses of a motion up or down."""
    return (
        (
            (
                f"moving {way}",
                f"going {way}",
                f"moving {way}wards",
                f"heading {way}",
                f"{verb}ing",
                f"{second}ing",
                f"moving to the {edge}",
                f"travelling {way}",
            ),
            (f"going {way}wards", f"heading to the {edge}", f"travelling {way}wards"),
        ),
        (
            (
                f"move{{s}} {way}",
                f"go{{es}} {way}",
                f"{verb}{{s}}",
                f"{second}{{s}}",
                f"move{{s}} {way}wards",
                f"move{{s}} towards the {edge}",
                f"travel{{s}} {way}",
            ),
            (f"go{{es}} towards the {edge}", f"travel{{s}} {way}wards", f"head{{s}} {way}"),
        ),
    )


_LEFT, _RIGHT = _sideways("left", "right"), _sideways("right", "left")
_UP, _DOWN = _upright("up", "climb", "float", "top"), _upright("down", "fall", "sink", "bottom")

PARTICIPLES: dict[str, Wordings] = {
    "left": _LEFT[0],
    "right": _RIGHT[0],
    "up": _UP[0],
    "down": _DOWN[0],
    "still": (
        ("standing still", "not moving", "staying in place", "staying where it is", "resting", "at rest"),
        ("staying still", "resting in place"),
    ),
    "moving": (("moving", "moving around", "in motion", "on the move"), ("going around",)),
    "circling": (
        ("circling", "moving in circles", "moving in a circle", "going round and round", "going in circles"),
        ("going in a circle", "moving round and round"),
    ),
    "back and forth": (
        ("moving back and forth", "going back and forth", "swinging back and forth", "going to and fro"),
        ("swinging to and fro", "moving to and fro"),
    ),
    "bouncing": (
        ("bouncing", "bouncing around", "bouncing off the edges", "moving around and bouncing"),
        ("bouncing around the picture",),
    ),
    "growing": (("growing", "getting bigger", "getting larger", "becoming bigger"), ("becoming larger",)),
    "shrinking": (("shrinking", "getting smaller", "becoming smaller"), ("shrinking in size",)),
    "spinning": (("spinning", "rotating", "spinning around", "turning around"), ("rotating around",)),
    "fast": (("moving fast", "moving quickly"), ("going fast",)),
    "slow": (("moving slowly", "moving slow"), ("going slowly",)),
}
"""Motion → phrases that follow "the dog" or "that is"."""

CLAUSES: dict[str, Wordings] = {
    "left": _LEFT[1],
    "right": _RIGHT[1],
    "up": _UP[1],
    "down": _DOWN[1],
    "still": (
        (
            "stay{s} still",
            "{does} not move",
            "never move{s}",
            "stay{s} in place",
            "stand{s} still",
            "rest{s}",
        ),
        ("rest{s} in place", "never go{es} around"),
    ),
    "moving": (("move{s}", "move{s} around", "go{es} around"), ("keep{s} moving",)),
    "circling": (
        (
            "circle{s}",
            "move{s} in circles",
            "move{s} in a circle",
            "go{es} round and round",
            "circle{s} around",
        ),
        ("go{es} in circles", "go{es} in a circle"),
    ),
    "back and forth": (
        ("move{s} back and forth", "go{es} back and forth", "swing{s} to and fro", "keep{s} turning back"),
        ("swing{s} back and forth",),
    ),
    "bouncing": (("bounce{s}", "bounce{s} around", "bounce{s} off the edges"), ("keep{s} bouncing",)),
    "starts": (
        (
            "start{s} moving",
            "start{s} to move",
            "begin{s} to move",
            "wait{s} and then move{s}",
            "first stand{s} still and then move{s}",
            "start{s} moving later",
        ),
        ("begin{s} moving later", "wait{s} and then start{s} to move"),
    ),
    "stops": (
        ("stop{s}", "stop{s} moving", "come{s} to a stop", "move{s} and then stop{s}", "come{s} to rest"),
        ("first move{s} and then stop{s}",),
    ),
    "leaves": (
        (
            "leave{s}",
            "leave{s} the picture",
            "go{es} out of the picture",
            "disappear{s}",
            "move{s} out of view",
            "go{es} away",
        ),
        ("disappear{s} from the picture", "go{es} out of view"),
    ),
    "enters": (
        (
            "enter{s}",
            "enter{s} the picture",
            "come{s} in",
            "appear{s}",
            "come{s} into view",
            "appear{s} later",
        ),
        ("come{s} into the picture", "enter{s} later"),
    ),
    "returns": (
        (
            "leave{s} and come{s} back",
            "go{es} away and come{s} back",
            "disappear{s} and return{s}",
            "leave{s} and return{s}",
        ),
        ("disappear{s} and come{s} back", "go{es} away and return{s}"),
    ),
    "growing": (("grow{s}", "get{s} bigger", "get{s} larger", "become{s} bigger"), ("become{s} larger",)),
    "shrinking": (("shrink{s}", "get{s} smaller", "become{s} smaller"), ("shrink{s} in size",)),
    "spinning": (("spin{s}", "rotate{s}", "spin{s} around", "turn{s} around"), ("rotate{s} around",)),
    "fast": (("move{s} fast", "move{s} quickly", "go{es} fast"), ("go{es} quickly",)),
    "slow": (("move{s} slowly", "go{es} slowly"), ("go{es} slow",)),
    "overtakes": (
        (
            "overtake{s} the other",
            "overtake{s} the others",
            "pass{es} the other",
            "overtake{s} the {m}",
            "pass{es} the {m}",
        ),
        ("pass{es} the others",),
    ),
}
"""Motion → phrases that follow "the dog that"."""

ADJECTIVES: dict[str, tuple[str, ...]] = {
    "still": ("still", "motionless", "resting"),
    "moving": ("moving",),
    "circling": ("circling",),
    "bouncing": ("bouncing",),
    "growing": ("growing",),
    "shrinking": ("shrinking",),
    "spinning": ("spinning", "rotating"),
}
"""Motion → words before the noun."""

POSITIONS: dict[str, Wordings] = {
    "left": (
        ("on the left", "on the left side", "at the left", "in the left half", "on the left of the picture"),
        ("at the left side", "in the left part of the picture"),
    ),
    "right": (
        (
            "on the right",
            "on the right side",
            "at the right",
            "in the right half",
            "on the right of the picture",
        ),
        ("at the right side", "in the right part of the picture"),
    ),
    "top": (
        ("at the top", "near the top", "in the upper part", "in the upper half", "at the top of the picture"),
        ("in the upper part of the picture", "near the top of the picture"),
    ),
    "bottom": (
        (
            "at the bottom",
            "near the bottom",
            "in the lower part",
            "in the lower half",
            "at the bottom of the picture",
        ),
        ("in the lower part of the picture", "near the bottom of the picture"),
    ),
    "middle": (
        ("in the middle", "in the center", "in the centre", "in the middle of the picture"),
        ("in the center of the picture", "near the middle"),
    ),
}
_CORNERS = {
    f"{v} {h}": (
        (f"at the {v} {h}", f"in the {v} {h} corner", f"in the {u} {h}", f"on the {v} {h}"),
        (f"in the {u} {h} corner", f"near the {v} {h} corner"),
    )
    for v, u in (("top", "upper"), ("bottom", "lower"))
    for h in ("left", "right")
}
POSITIONS.update(_CORNERS)

FURTHEST: dict[str, Wordings] = {
    "left": (
        ("leftmost {n}", "{n} furthest to the left", "{n} on the far left", "first {n} from the left"),
        ("{n} that {is} furthest left",),
    ),
    "right": (
        ("rightmost {n}", "{n} furthest to the right", "{n} on the far right", "first {n} from the right"),
        ("{n} that {is} furthest right",),
    ),
    "top": (
        ("highest {n}", "topmost {n}", "upper {n}", "{n} closest to the top"),
        ("{n} nearest to the top",),
    ),
    "bottom": (
        ("lowest {n}", "lower {n}", "{n} closest to the bottom", "{n} furthest down"),
        ("{n} nearest to the bottom",),
    ),
}

RELATIONS: dict[str, Wordings] = {
    "left": (("left of {m}", "to the left of {m}", "on the left of {m}"), ("on the left side of {m}",)),
    "right": (("right of {m}", "to the right of {m}", "on the right of {m}"), ("on the right side of {m}",)),
    "above": (("above {m}", "over {m}", "higher than {m}"), ("higher up than {m}",)),
    "below": (("below {m}", "under {m}", "beneath {m}", "lower than {m}"), ("further down than {m}",)),
    "near": (
        ("next to {m}", "near {m}", "beside {m}", "close to {m}", "closest to {m}", "nearest to {m}"),
        ("right next to {m}",),
    ),
}

SUPERLATIVES: dict[str, Wordings] = {
    "big": (("biggest {n}", "largest {n}", "{n} that {is} the biggest"), ("{n} that {is} the largest",)),
    "small": (("smallest {n}", "tiniest {n}", "{n} that {is} the smallest"), ("{n} that {is} the tiniest",)),
    "fast": (
        ("fastest {n}", "quickest {n}", "{n} that move{s} the fastest", "{n} moving fastest"),
        ("{n} that go{es} the fastest", "{n} moving quickest"),
    ),
    "slow": (
        ("slowest {n}", "{n} that move{s} the slowest", "{n} moving slowest"),
        ("{n} that go{es} the slowest",),
    ),
}
"""Of three or more (also of two)."""

COMPARATIVES: dict[str, Wordings] = {
    "big": (
        ("bigger {n}", "larger {n}", "bigger of the two {ns}", "{n} that {is} bigger"),
        ("larger of the two {ns}",),
    ),
    "small": (
        ("smaller {n}", "smaller of the two {ns}", "{n} that {is} smaller"),
        ("smaller one of the two {ns}",),
    ),
    "fast": (
        ("faster {n}", "quicker {n}", "faster of the two {ns}", "{n} that move{s} faster"),
        ("quicker of the two {ns}",),
    ),
    "slow": (
        ("slower {n}", "slower of the two {ns}", "{n} that move{s} slower"),
        ("{n} that go{es} slower",),
    ),
}
"""Of exactly two."""

THAN: dict[str, Wordings] = {
    "big": (("bigger than {m}", "larger than {m}"), ("a lot bigger than {m}",)),
    "small": (("smaller than {m}", "tinier than {m}"), ("a lot smaller than {m}",)),
    "fast": (("faster than {m}", "quicker than {m}"), ("a lot faster than {m}",)),
}

SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "big": ("big", "large", "huge"),
    "small": ("small", "little", "tiny"),
}

PLURALS: Wordings = (
    ("all the {ns}", "all {ns}", "the {ns}", "every {n}", "both {ns}", "the two {ns}", "all of the {ns}"),
    ("each {n}", "both of the {ns}"),
)

EXTRA_WORDS = ("each", "lot", "a")
"""Words that only held-out wordings use; a vocabulary must know them all the same."""

MOTION_ATTRIBUTES = {
    "left": "moving left",
    "right": "moving right",
    "up": "moving up",
    "down": "moving down",
    "still": "still",
    "circling": "circling",
    "bouncing": "bouncing",
    "back and forth": "moving back and forth",
    "unclear": "moving",
}
POSITION_ATTRIBUTES = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "middle": "in the middle",
}
EVENT_ATTRIBUTES = {
    "starts": "starts moving",
    "stops": "stops moving",
    "leaves": "leaves the picture",
    "enters": "enters the picture",
    "returns": "leaves and comes back",
    "growing": "getting bigger",
    "shrinking": "getting smaller",
    "spinning": "spinning",
}
"""The few fixed phrases that attributes are made of."""

UNCOUNTED = frozenset(
    {
        "food",
        "clothing",
        "furniture",
        "bread",
        "rice",
        "corn",
        "wheat",
        "cheese",
        "fruit",
        "broccoli",
        "garlic",
    }
    | {
        "popcorn",
        "sushi",
        "honey",
        "chocolate",
        "milk",
        "coffee",
        "tea",
        "wine",
        "beer",
        "soda",
        "toilet paper",
    }
    | {"soap", "lotion", "yarn", "fire", "lightning", "luggage", "champagne", "ginger", "sunshine"}
)
"""Nouns that take no "a"."""

IRREGULAR_PLURALS = {
    "mouse": "mice",
    "computer mouse": "computer mice",
    "sheep": "sheep",
    "deer": "deer",
    "fish": "fish",
    "tropical fish": "tropical fish",
    "wolf": "wolves",
    "knife": "knives",
    "maple leaf": "maple leaves",
    "tooth": "teeth",
    "scarf": "scarves",
    "aircraft": "aircraft",
    "clothing": "pieces of clothing",
    "furniture": "pieces of furniture",
    "food": "foods",
    "bread": "breads",
    "bow and arrow": "bows and arrows",
    "luggage": "pieces of luggage",
}


def plural(noun: str, already: bool) -> str:
    """The plural of a noun; ``already`` says that it is one."""
    if already:
        return noun
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun in ("potato", "tomato", "mango"):
        return noun + "es"
    return noun + "s"


@lru_cache(maxsize=1)
def trait_wordings() -> dict[str, Wordings]:
    """Trait → training and held-out phrases: the last one is held out where training uses all its words."""
    every = [set(phrase.split()) for trait in TRAITS.values() for phrase in trait.phrases]
    wordings: dict[str, Wordings] = {}
    for name, trait in TRAITS.items():
        last = trait.phrases[-1]
        others = [w for w in every if w != set(last.split())]
        known = set().union(*others)
        held = len(trait.phrases) >= 3 and set(last.split()) <= known
        wordings[name] = (trait.phrases[:-1], (last,)) if held else (trait.phrases, ())
    return wordings
