"""The card of a dataset: ``README.md`` in its folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ml_backend.exporting.formats import Export
from ml_backend.exporting.omissions import Omission, is_complete

CARD_FILE = "README.md"
_MOST_LISTED = 100
"""Lines of what is left out; ``provenance.json`` has all."""

_MEANINGS = {
    "human": "drawn or changed by an annotator",
    "propagated": "made by SAM 2 from other frames",
    "proposed": "accepted as it was",
}

_UNDECIDED = {
    "coco": "such frames are left out",
    "yolo-seg": "such frames are left out",
    "youtube-vos": "such frames have a picture but no annotation",
    "davis": "pixels that may hide the object are 255",
    "mots": "a region of class 10 marks what may hide the object",
}


def dataset_card(
    export: Export, format_: str, numbers: Mapping[str, int | None], omissions: Sequence[Omission]
) -> str:
    """The text of the card, in Markdown.

    Args:
        export: What was written.
        format_: In which format.
        numbers: The format's number of each class; ``None`` where it has none.
        omissions: What is not in it.
    """
    sequences = export.sequences
    frames = sum(sequence.num_frames for sequence in sequences)
    objects = [object_ for sequence in sequences for object_ in sequence.objects]
    undecided = sum(len(sequence.undecided()) for sequence in sequences)
    lines = [
        f"# Label Studio project {export.project_id} as {format_}",
        "",
        f"{len(sequences)} tasks, {frames} frames, {len(objects)} objects. Written by `steerseg-backend export`.",
        "",
        *_table(("class", "number", "objects"), _classes(export, numbers)),
        "",
        *_table(("masks from", "number", "meaning"), _origins(export)),
        "",
        f"{undecided} frames are undecided: nobody knows where every object is; {_UNDECIDED[format_]}.",
        "",
        *_splits(export),
        *_left_out(omissions),
        "",
        "`provenance.json` names the origin and the confidence of the mask of each object and frame.",
    ]
    return "".join(f"{line}\n" for line in lines)


def _classes(export: Export, numbers: Mapping[str, int | None]) -> list[tuple[object, ...]]:
    counted = Counter(object_.category for sequence in export.sequences for object_ in sequence.objects)
    return [
        (_escaped(name), "–" if number is None else number, counted[name]) for name, number in numbers.items()
    ]


def _origins(export: Export) -> list[tuple[object, ...]]:
    counted = Counter(
        str(mask.provenance)
        for sequence in export.sequences
        for object_ in sequence.objects
        for mask in object_.masks.values()
        if mask.visible
    )
    return [(name, counted[name], meaning) for name, meaning in _MEANINGS.items()]


def _splits(export: Export) -> list[str]:
    if not export.is_split:
        return ["Nothing is held out. Frames of one video are alike: hold out whole videos (`--split`).", ""]
    rows = [
        (part, len(sequences), sum(sequence.num_frames for sequence in sequences))
        for part, sequences in ((part, export.of_part(part)) for part in export.parts)
    ]
    return [
        "A hash of its video puts a task into a part.",
        "",
        *_table(("part", "tasks", "frames"), rows),
        "",
    ]


def _left_out(omissions: Sequence[Omission]) -> list[str]:
    if not omissions:
        return ["Nothing is left out."]
    missing = [omission for omission in omissions if not omission.expected]
    by_rule = [omission for omission in omissions if omission.expected]
    lines = ["## Left out", ""]
    if not is_complete(omissions):
        lines += ["**This dataset is incomplete.**", "", *_listed(missing)]
    if by_rule:
        lines += [*([""] if missing else []), "By rule:", "", *_listed(by_rule)]
    return lines


def _listed(omissions: Sequence[Omission]) -> list[str]:
    lines = [f"- {_escaped(str(omission))}" for omission in omissions[:_MOST_LISTED]]
    if len(omissions) > _MOST_LISTED:
        lines.append(f"- and {len(omissions) - _MOST_LISTED} more, which `provenance.json` lists")
    return lines


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows),
    ]


def _escaped(text: str) -> str:
    """Text that no label can turn into a table's border, a line of its own or HTML."""
    for character in "\\|<`*_[":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
