"""Finds the controls of a project's labelling configuration that can hold proposals.

Controls are found by their tag and by the object that they point to (``toName``), never by fixed names. A
configuration may have a *frames* side (``<Image valueList="$frames">`` with a mask control), a *video* side
(``<Video value="$video">`` with a ``VideoRectangle``), or both.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Literal, TypeVar

from ml_backend.label_studio.config_xml import FRAMES_EXAMPLE, ControlsByTarget, Tag, read_tags
from ml_backend.label_studio.controls import (
    ChoicesControl,
    Controls,
    FramesSide,
    MaskControl,
    MaskKind,
    PromptControl,
    TaskControls,
    VideoSide,
    are_numbered,
    frame_rate,
    verdict_word,
)
from steerseg.errors import ConfigError

_T = TypeVar("_T")
_Side = TypeVar("_Side", FramesSide, VideoSide)

MASK_PREFERENCE: tuple[MaskKind, ...] = ("brush", "bitmask", "polygon", "vector")
"""Which control gets the predictions where a configuration has several. Brush first: it is exact, compact
(run lengths), and Label Studio marks an edited brush region as ``prediction-changed`` for each page. Bitmask
is as exact and marked alike, but a PNG a page is larger. Polygon and vector outlines only approximate."""

_SHOWN = 10  # names or problems that a message lists

VIDEO_EXAMPLE = """<View>
  <TextArea name="expression" toName="video" smart="true" rows="1" showSubmitButton="true"/>
  <Labels name="labels" toName="video"><Label value="object"/></Labels>
  <VideoRectangle name="box" toName="video" smart="false"/>
  <Video name="video" value="$video" frameRate="$fps"/>
</View>"""


def parse_controls(label_config: str) -> Controls:
    """Find the controls that proposals can be written to.

    Args:
        label_config: The project's labelling configuration (XML).

    Raises:
        ConfigError: The XML is malformed or declares a document type, or no side is usable; the message says
            which control to add.
    """
    tags = read_tags(label_config)
    controls = ControlsByTarget(tag for tag in tags if tag.get("name") and tag.get("toname"))
    problems: list[str] = []
    notes: list[str] = []
    beside = _messages_beside(tags, controls)
    frames = [_frames_side(tag, controls, beside, problems, notes) for tag in tags if tag.kind == "image"]
    videos = [_video_side(tag, controls, beside, problems, notes) for tag in tags if tag.kind == "video"]
    frames_side = _only([side for side in frames if side is not None], "<Image valueList>")
    video_side = _only([side for side in videos if side is not None], "<Video>")
    if frames_side is None and video_side is None:
        raise ConfigError(_unusable(problems))
    _refuse_unread_masks(
        tags, controls, {side.name for side in (frames_side, video_side) if side is not None}
    )
    return Controls(frames=frames_side, video=video_side, notes=tuple(dict.fromkeys(notes)))


def _only(sides: Sequence[_Side], kind: str) -> _Side | None:
    """The side of one kind.

    Raises:
        ConfigError: There are several, of which all but one would be passed over.
    """
    if len(sides) > 1:
        names = _listed(repr(side.name) for side in sides)
        raise ConfigError(
            f"the labelling configuration has {len(sides)} {kind} objects with controls for regions ({names}), and "
            "one is read. Keep the controls of one and make a project for each of the others; a further object "
            "without masks or boxes may stay beside it"
        )
    return sides[0] if sides else None


def _refuse_unread_masks(tags: Iterable[Tag], controls: ControlsByTarget, read: Collection[str]) -> None:
    """Refuse controls whose masks or boxes nobody would read.

    Raises:
        ConfigError: There is one; the message says what to change.
    """
    for target in tags:
        if target.kind not in ("image", "video") or target.name in read:
            continue
        for control in controls.of(target.name):
            if control.kind.removesuffix("labels") not in (*MASK_PREFERENCE, "videorectangle"):
                continue
            raise ConfigError(
                f'the labelling configuration lets annotators draw with <{control.element.tag} name="{control.name}"> '
                f'on <{target.element.tag} name="{target.name}">, which is not read beside the other media: remove '
                'that control, or list the pictures with valueList="$frames" in a project of their own'
            )


def label_categories(label_config: str) -> tuple[tuple[str, str], ...]:
    """The labels of instances with their attribute ``category``, in the configuration's order.

    Labels of controls that hold masks or box tracks count; those of prompts do not.

    Args:
        label_config: The project's labelling configuration (XML).

    Returns:
        (label, category) of every ``<Label>``, the category empty where there is none. A label that stands in
        several controls appears several times.

    Raises:
        ConfigError: See :func:`parse_controls`.
    """
    controls = parse_controls(label_config)
    names = {
        control.labels_name or control.name for control in (controls.frames.masks if controls.frames else ())
    }
    names |= {controls.video.labels_name} if controls.video and controls.video.labels_name else set()
    return tuple(
        (label.get("alias") or label.get("value"), label.get("category"))
        for tag in read_tags(label_config)
        if tag.name in names
        for label in map(Tag, tag.element.iter("*"))
        if label.kind == "label" and (label.get("alias") or label.get("value"))
    )


def _listed(names: Iterable[str]) -> str:
    """Names for a message: the first ones, and how many follow."""
    every = list(names)
    rest = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + rest


def _messages_beside(tags: Iterable[Tag], controls: ControlsByTarget) -> tuple[str, str] | None:
    """The control called *status* that points to a ``<Text>``, and that object; ``None`` without one."""
    return _first(
        (control.name, tag.name)
        for tag in tags
        if tag.kind in ("text", "hypertext")
        for control in controls.of(tag.name)
        if control.kind == "textarea" and _called(control, "status")
    )


def _frames_side(
    image: Tag,
    controls: ControlsByTarget,
    beside: tuple[str, str] | None,
    problems: list[str],
    notes: list[str],
) -> FramesSide | None:
    where = f'<Image name="{image.name}">'
    if not image.get("valuelist"):
        problems.append(
            f'{where} shows a single image; list the frames with valueList="$frames" in place of value'
        )
        return None
    data_key = _data_key(image, "valuelist", where, problems)
    if data_key is None:
        return None
    mine = controls.of(image.name)
    masks = _mask_controls(mine, where, problems)
    if not masks:
        problems.append(
            f"{where} has no control that holds masks; add <BrushLabels>, <BitmaskLabels>, <PolygonLabels> "
            f'or <VectorLabels closable="true"> with toName="{image.name}" and at least one <Label>'
        )
        return None
    names = {mask.name for mask in masks if mask.kind == "vector"}
    notes += [_lines_alone(tag, where) for tag in mine if tag.name in names and not tag.flag("closable")]
    return FramesSide(
        name=image.name,
        data_key=data_key,
        mask=masks[0],
        masks=masks,
        click=_prompt_control(mine, "keypoint"),
        box=_prompt_control(mine, "rectangle"),
        task=_task_controls(mine, masks[0].labels, beside, where, notes),
    )


def _video_side(
    video: Tag,
    controls: ControlsByTarget,
    beside: tuple[str, str] | None,
    problems: list[str],
    notes: list[str],
) -> VideoSide | None:
    where = f'<Video name="{video.name}">'
    data_key = _data_key(video, "value", where, problems)
    if data_key is None:
        return None
    mine = controls.of(video.name)
    boxes = [tag for tag in mine if tag.kind == "videorectangle"]
    if not boxes:
        problems.append(
            f'{where} has no control that holds box tracks; add <VideoRectangle name="box" '
            f'toName="{video.name}"/> and <Labels name="labels" toName="{video.name}">'
        )
        return None
    labels = _first(tag for tag in mine if tag.kind == "labels" and tag.children("label"))
    rate = video.get("framerate")
    task = _task_controls(mine, labels.children("label") if labels else (), beside, where, notes)
    if task.status is not None and task.status_target is None:
        notes.append(
            f"{where}: Label Studio lists the messages of {task.status!r} as a region of the video; let that control "
            'point to a <Text name="message" value="$video"/>, as label_config/video.xml does'
        )
    if labels is not None and not (labels.flag("smart", default=True) or labels.flag("smartonly")):
        notes.append(
            f'{where}: drawn boxes are not tracked when they get a label of {labels.name!r}; give it smart="true"'
        )
    return VideoSide(
        name=video.name,
        data_key=data_key,
        box=boxes[0].name,
        labels=labels.children("label") if labels else (),
        labels_name=labels.name if labels else None,
        frame_rate=None if rate.startswith("$") else frame_rate(rate),
        frame_rate_key=rate[1:] if rate.startswith("$") and len(rate) > 1 else None,
        task=task,
    )


def _mask_controls(mine: Sequence[Tag], where: str, problems: list[str]) -> tuple[MaskControl, ...]:
    labels_tag = _first(tag for tag in mine if tag.kind == "labels" and tag.children("label"))
    found = []
    for kind in MASK_PREFERENCE:
        for tag in mine:
            if tag.kind == f"{kind}labels":
                labels = tag.children("label")
                if labels:
                    found.append(MaskControl(kind=kind, name=tag.name, labels=labels))
                else:
                    problems.append(
                        f'<{tag.element.tag} name="{tag.name}"> of {where} has no <Label>; add one'
                    )
            elif tag.kind == kind:
                found.append(
                    MaskControl(
                        kind=kind,
                        name=tag.name,
                        labels=labels_tag.children("label") if labels_tag else (),
                        labels_name=labels_tag.name if labels_tag else None,
                        combined=False,
                    )
                )
    return tuple(found)


def _lines_alone(vector: Tag, where: str) -> str:
    """Why nothing that annotators draw with a vector control is read."""
    return (
        f"{where}: a path drawn with {vector.name!r} cannot be closed, and an open one is no mask; give it "
        'closable="true", and curves="true" for curves'
    )


def _prompt_control(mine: Iterable[Tag], kind: Literal["keypoint", "rectangle"]) -> PromptControl | None:
    candidates = [tag for tag in mine if tag.kind in (f"{kind}labels", kind)]
    # A configuration may have plain boxes beside the prompts; the smart one is the prompt.
    chosen = _first(tag for tag in candidates if tag.flag("smart", default=True)) or _first(candidates)
    if chosen is None:
        return None
    return PromptControl(
        kind=kind,
        name=chosen.name,
        labels=chosen.children("label"),
        smart=chosen.flag("smart", default=True) or chosen.flag("smartonly"),
    )


def _task_controls(
    mine: Sequence[Tag],
    labels: Sequence[str],
    beside: tuple[str, str] | None,
    where: str,
    notes: list[str],
) -> TaskControls:
    texts = [tag for tag in mine if tag.kind == "textarea"]
    whole = [tag for tag in texts if not tag.flag("perregion") and not tag.flag("peritem")]
    shown = [tag for tag in whole if _read_only(tag)]
    expression = _meant_for_expression([tag for tag in whole if not _read_only(tag)], where, notes)
    status = _first(tag for tag in shown if _called(tag, "status")) or _first(shown)
    own = (status.name, None) if status else None
    message, target = own or beside or (None, None)
    region_text = _meant_for_expression([tag for tag in texts if tag.flag("perregion")], where, notes)
    choices = [tag for tag in mine if tag.kind == "choices" and not tag.flag("perregion")]
    which = _first(tag for tag in choices if _chooses_object(tag, labels, where, notes))
    verdict = _verdict_control([tag for tag in choices if tag is not which], where, notes)
    return TaskControls(
        expression=expression.name if expression else None,
        status=message,
        status_target=target,
        region_text=region_text.name if region_text else None,
        verdict=_choices_control(verdict),
        object=_choices_control(which),
    )


def _choices_control(tag: Tag | None) -> ChoicesControl | None:
    return None if tag is None else ChoicesControl(tag.name, tag.children("choice"), tag.flag("peritem"))


def _meant_for_expression(texts: Sequence[Tag], where: str, notes: list[str]) -> Tag | None:
    """The text that is called *expression*, else the one with ``smart="true"``, else the only one there is.

    A text with ``smart="false"`` asks something else.
    """
    named = [tag for tag in texts if _called(tag, "expression")]
    smart = [tag for tag in texts if tag.flag("smart") or tag.flag("smartonly")]
    unmarked = [tag for tag in texts if tag.flag("smart", default=True)]
    candidates = named or smart or unmarked
    if len(candidates) > 1:
        names = _listed(repr(tag.name) for tag in candidates)
        notes.append(
            f"{where} has several texts that may be the expression ({names}), and none is read as it: call one "
            '"expression", and give the others smart="false"'
        )
    elif candidates and not named and not smart:
        notes.append(
            f"{where}: the text {candidates[0].name!r} is read as the expression, being the only one; call it "
            '"expression", or give it smart="false" if it asks something else'
        )
    if len(named) == 1 and not (named[0].flag("smart", default=True) or named[0].flag("smartonly")):
        notes.append(f'{where}: texts typed into {named[0].name!r} ask nothing; give it smart="true"')
    return candidates[0] if len(candidates) == 1 else None


def _verdict_control(choices: Sequence[Tag], where: str, notes: list[str]) -> Tag | None:
    """The choices called *verdict*, if their words are those of a verdict."""
    named = [tag for tag in choices if _called(tag, "verdict")]
    usable = [tag for tag in named if _verdict_words(tag)]
    for tag in named:
        unknown = [choice for choice in tag.children("choice") if verdict_word(choice) is None]
        if unknown:
            notes.append(
                f"{where}: the verdict {tag.name!r} has choices that are no verdict ({_listed(unknown)}); expected "
                "Accept, Reject and Not visible, or an alias of these words"
            )
    if len(usable) > 1:
        names = _listed(repr(tag.name) for tag in usable)
        notes.append(f"{where} has several verdicts ({names}), and none is read; keep one of them")
        return None
    if not usable:
        for tag in choices:
            if {"accept", "reject"} <= _verdict_words(tag):
                notes.append(
                    f'{where}: the answers to {tag.name!r} are no verdict; call that control "verdict" if they accept '
                    "or reject the masks"
                )
    return usable[0] if usable else None


def _verdict_words(tag: Tag) -> set[str]:
    return {word for choice in tag.children("choice") if (word := verdict_word(choice)) is not None}


def _chooses_object(tag: Tag, labels: Sequence[str], where: str, notes: list[str]) -> bool:
    """Whether choices select the object that a prompt is about: those called *which* object.

    Their words are a check: they are all labels, or numbered.
    """
    choices = tag.children("choice")
    fits = bool(choices) and (
        set(choices) <= set(labels) or are_numbered([f" {choice}" for choice in choices])
    )
    if _called(tag, "which") and not tag.flag("peritem"):
        if not fits:
            notes.append(
                f"{where}: {tag.name!r} does not choose an object, since its choices are neither the labels of the "
                'masks nor numbered, such as "1", "2" and "3"'
            )
        return fits
    if fits and set(choices) <= set(labels):
        notes.append(
            f'{where}: the answers to {tag.name!r} are labels, but choose no object; call that control "which_object" '
            "if they do"
        )
    return False


def _read_only(tag: Tag) -> bool:
    """Whether annotators cannot write into a ``<TextArea>``.

    Label Studio has no switch for it: ``maxSubmissions="0"`` hides the input. A control called *status*
    counts as well, however it is written.
    """
    return tag.flag("readonly") or tag.get("maxsubmissions") == "0" or _called(tag, "status")


def _called(tag: Tag, word: str) -> bool:
    names = (tag.name.lower(), tag.get("alias").lower())
    return any(word in re.split(r"[^a-z0-9]+", re.sub(r"\d+", "", name)) for name in names if name)


def _data_key(tag: Tag, attribute: str, where: str, problems: list[str]) -> str | None:
    value = tag.get(attribute)
    shown = "valueList" if attribute == "valuelist" else attribute
    if not tag.name:
        problems.append(f"<{tag.element.tag}> has no name; give it one so that controls can point to it")
        return None
    if not value.startswith("$") or len(value) < 2:
        problems.append(
            f'{where} has {shown}="{value}"; it must name a key of the task\'s data, '
            'such as "$frames" or "$video"'
        )
        return None
    return value[1:]


def _unusable(problems: Sequence[str]) -> str:
    if not problems:
        problems = ['it has neither <Image valueList="$frames"> nor <Video value="$video">']
    more = len(problems) - _SHOWN
    return (
        "the labelling configuration cannot hold proposals: "
        + "; ".join(problems[:_SHOWN])
        + (f"; and {more} more problems" if more > 0 else "")
        + f".\nA configuration for masks on frames:\n{FRAMES_EXAMPLE}\n"
        + f"or for box tracks on a video:\n{VIDEO_EXAMPLE}"
    )


def _first(items: Iterable[_T | None]) -> _T | None:
    return next((item for item in items if item is not None), None)
