"""Controls are found by tag and target, and a configuration that cannot hold proposals says what to add."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ml_backend.label_studio.config import FRAMES_EXAMPLE, VIDEO_EXAMPLE, parse_controls
from ml_backend.label_studio.controls import choose_label
from ml_backend.label_studio.task import task_value
from steerseg.errors import ConfigError

FIXTURES = Path(__file__).parents[2] / "fixtures" / "label-studio-1.23.2"
SHIPPED = Path(__file__).parents[3] / "label_config"


def captured_config(name: str) -> str:
    return json.loads((FIXTURES / name).read_text())["json"]["label_config"]


def test_reads_a_captured_frames_config() -> None:
    controls = parse_controls(captured_config("predict_interactive_text_frames.json"))
    assert controls.video is None
    frames = controls.frames
    assert frames is not None
    assert (frames.name, frames.data_key) == ("frames", "frames")
    assert (frames.mask.kind, frames.mask.name, frames.mask.labels) == ("brush", "mask", ("object", "other"))
    assert frames.mask.result_type == "brushlabels"
    assert frames.click is not None
    assert (frames.click.name, frames.click.labels, frames.click.smart) == (
        "click",
        ("object", "negative"),
        True,
    )
    assert frames.box is None
    assert frames.task.expression == "expression"


def test_reads_a_captured_video_config() -> None:
    controls = parse_controls(captured_config("predict_batch_video.json"))
    assert controls.frames is None
    video = controls.video
    assert video is not None
    assert (video.name, video.data_key, video.box) == ("video", "video", "box")
    assert (video.labels_name, video.labels) == ("videoLabels", ("object", "other"))
    assert (video.frame_rate, video.frame_rate_key) == (None, "fps")
    assert video.task.expression == "expression"
    assert video.task.region_text == "region_text"
    assert video.task.verdict is not None
    assert video.task.verdict.choices == ("good", "bad")


@pytest.mark.parametrize("example", [FRAMES_EXAMPLE, VIDEO_EXAMPLE])
def test_the_examples_of_the_error_are_usable(example: str) -> None:
    controls = parse_controls(example)
    side = controls.frames or controls.video
    assert side is not None
    assert side.task.expression == "expression"


def test_names_and_case_do_not_matter() -> None:
    controls = parse_controls(
        """<View><IMAGE NAME="pic" VALUELIST="$shots.pages"/><polygonlabels Name="poly" toname="other,pic">
        <label VALUE="a" alias="A"/></polygonlabels><Text name="other" value="$t"/>
        <TextArea name="say" toName="pic"/><TextArea name="note" toName="pic" maxSubmissions="0"/>
        <TextArea name="free" toName="pic" perRegion="true"/></View>"""
    )
    frames = controls.frames
    assert frames is not None
    assert (frames.mask.kind, frames.mask.labels, frames.data_key) == ("polygon", ("A",), "shots.pages")
    assert (frames.task.expression, frames.task.status, frames.task.region_text) == ("say", "note", "free")
    assert task_value({"shots": {"pages": [1]}}, frames.data_key) == [1]
    assert task_value({"shots": []}, frames.data_key) is None


def test_a_text_area_named_expression_is_preferred_and_status_never_taken() -> None:
    controls = parse_controls(
        """<View><Image name="i" valueList="$f"/>
        <BrushLabels name="m" toName="i"><Label value="o"/></BrushLabels>
        <TextArea name="status" toName="i"/><TextArea name="remark" toName="i"/>
        <TextArea name="the_expression" toName="i"/></View>"""
    )
    assert controls.frames is not None
    assert controls.frames.task.expression == "the_expression"
    assert controls.frames.task.status == "status"


def test_brush_is_preferred_and_pairs_with_labels() -> None:
    controls = parse_controls(
        """<View><Image name="i" valueList="$f"/>
        <VectorLabels name="v" toName="i"><Label value="o"/></VectorLabels>
        <BitmaskLabels name="b" toName="i"><Label value="o"/></BitmaskLabels>
        <Brush name="m" toName="i"/>
        <Labels name="l" toName="i"><Label value="x"/><Label value="y"/></Labels></View>"""
    )
    assert controls.frames is not None
    mask = controls.frames.mask
    assert (mask.kind, mask.combined, mask.result_type) == ("brush", False, "brush")
    assert (mask.labels_name, mask.labels) == ("l", ("x", "y"))
    assert [control.kind for control in controls.frames.masks] == ["brush", "bitmask", "vector"]


def test_both_sides_keep_their_own_controls() -> None:
    controls = parse_controls(
        """<View><Image name="i" valueList="$frames"/><Video name="v" value="$video" frameRate="12.5"/>
        <BrushLabels name="m" toName="i"><Label value="o"/></BrushLabels><VideoRectangle name="r" toName="v"/>
        <TextArea name="e1" toName="i"/><TextArea name="e2" toName="v"/></View>"""
    )
    assert controls.frames is not None
    assert controls.video is not None
    assert (controls.frames.task.expression, controls.video.task.expression) == ("e1", "e2")
    assert controls.video.labels == ()
    assert controls.video.fps({"fps": 99}) == 12.5


@pytest.mark.parametrize(
    ("value", "fps"),
    [(30, 30.0), ("29.97", 29.97), (None, 24.0), ("x", 24.0), (0, 24.0), (float("nan"), 24.0)],
)
def test_frame_rate_comes_from_the_task_or_is_label_studios(value: object, fps: float) -> None:
    video = parse_controls(VIDEO_EXAMPLE).video
    assert video is not None
    assert video.fps({"fps": value}) == fps
    assert video.fps({}) == 24.0


@pytest.mark.parametrize(
    ("config", "hint"),
    [
        ("<View><Text name='t' value='$t'/></View>", 'nor <Video value="$video">'),
        ("<View><Image name='i' value='$image'/></View>", 'valueList="$frames"'),
        ("<View><Image name='i' valueList='$f'/></View>", "add <BrushLabels>"),
        (
            "<View><Image name='i' valueList='$f'/><BrushLabels name='m' toName='i'/></View>",
            '<BrushLabels name="m">',
        ),
        ("<View><Video name='v' value='$v'/></View>", "add <VideoRectangle"),
        ("<View><Video name='v' value='http://x/y.mp4'/></View>", "key of the task's data"),
        (
            "<View><Image name='i' valueList='$f'/><BrushLabels name='m' toName='j'><Label value='o'/>"
            "</BrushLabels></View>",
            "add <BrushLabels>",
        ),
    ],
)
def test_unusable_configs_say_what_to_add(config: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_controls(config)
    assert hint in str(caught.value)
    assert FRAMES_EXAMPLE in str(caught.value)
    assert VIDEO_EXAMPLE in str(caught.value)


@pytest.mark.parametrize("config", ["", "   ", "<View>", "not xml", "<View/><View/>"])
def test_malformed_configs_are_refused(config: str) -> None:
    with pytest.raises(ConfigError, match="labelling configuration"):
        parse_controls(config)


def test_entities_are_refused_unread(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("password")
    config = f'<!DOCTYPE v [<!ENTITY e SYSTEM "file://{secret}">]><View><Label value="a"/>&e;</View>'
    with pytest.raises(ConfigError, match="document type") as caught:
        parse_controls(config)
    assert "password" not in str(caught.value)


def test_label_follows_the_expression() -> None:
    labels = ("object", "Dog", "cat")
    assert choose_label(labels, "the brown dog") == "Dog"
    assert choose_label(labels, "the doggy", ["cat", "on the left"]) == "cat"
    assert choose_label(labels, "whatever") == "object"
    assert choose_label((), "the dog") is None


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.xml")), ids=lambda path: path.name)
def test_a_shipped_config_names_every_control_once(path: Path) -> None:
    """Label Studio refuses to make a project of any other."""
    names = [element.get("name") for element in ElementTree.parse(path).iter() if element.get("name")]
    assert len(names) == len(set(names))
    assert parse_controls(path.read_text(encoding="utf-8"))


IMAGE = '<Image name="i" valueList="$frames"/>'
MASK = '<BrushLabels name="m" toName="i"><Label value="car"/><Label value="bus"/></BrushLabels>'


def test_all_configurations_share_one_desk() -> None:
    def rules(name: str) -> list[str]:
        text = (Path("label_config") / f"{name}.xml").read_text(encoding="utf-8")
        return [line.strip() for line in text.split("<Style>")[1].split("</Style>")[0].splitlines()]

    for side in ("frames", "video", "video_and_frames"):
        assert rules(side) == rules(f"{side}_classes")
    assert rules("frames") == rules("video_and_frames")
    assert set(rules("video")) < set(rules("frames"))


@pytest.mark.parametrize("name", ["frames_classes", "video_classes", "video_and_frames_classes"])
def test_the_configurations_of_classes_are_unambiguous(name: str) -> None:
    controls = parse_controls((Path("label_config") / f"{name}.xml").read_text())
    assert controls.notes == ()
    if controls.frames is not None:
        assert not controls.frames.labels_name_instances
        assert controls.frames.instance_names == ("1", "2", "3", "4")
        assert set(controls.frames.box.labels if controls.frames.box else ()) == set(
            controls.frames.mask.labels
        )


@pytest.mark.parametrize(
    ("controls", "part"),
    [
        ('<TextArea name="a" toName="i"/><TextArea name="b" toName="i"/>', "several texts that may be"),
        ('<TextArea name="caption" toName="i"/>', "the text 'caption' is read as the expression"),
        (
            '<Choices name="review" toName="i"><Choice value="Accept"/><Choice value="Reject"/></Choices>',
            "the answers to 'review' are no verdict",
        ),
        (
            '<Choices name="verdict" toName="i"><Choice value="Accept"/><Choice value="Perhaps"/></Choices>',
            "choices that are no verdict (Perhaps)",
        ),
        (
            '<Choices name="main" toName="i"><Choice value="car"/><Choice value="bus"/></Choices>',
            "the answers to 'main' are labels",
        ),
        (
            '<TextArea name="expression" toName="i" smart="false"/>',
            "texts typed into 'expression' ask nothing",
        ),
        (
            '<VectorLabels name="path" toName="i"><Label value="car"/></VectorLabels>',
            "a path drawn with 'path' cannot be closed",
        ),
        ('<Vector name="path" toName="i" closable="false"/>', 'give it closable="true"'),
    ],
)
def test_an_ambiguous_configuration_is_told_so(controls: str, part: str) -> None:
    (note,) = parse_controls(f"<View>{IMAGE}{MASK}{controls}</View>").notes
    assert part in note


def test_a_vector_control_that_closes_paths_is_unambiguous() -> None:
    vector = '<VectorLabels name="path" toName="i" closable="true"><Label value="car"/></VectorLabels>'
    assert parse_controls(f"<View>{IMAGE}{MASK}{vector}</View>").notes == ()


def test_a_verdict_is_known_by_its_name_and_its_words() -> None:
    def verdict(control: str) -> object:
        side = parse_controls(f"<View>{IMAGE}{MASK}{control}</View>").frames
        assert side is not None
        return None if side.task.verdict is None else (side.task.verdict.name, side.task.verdict.per_item)

    yes_no = '<Choice value="Yes"/><Choice value="No"/></Choices>'
    assert verdict(f'<Choices name="sky_visible" toName="i">{yes_no}') is None
    assert verdict(f'<Choices name="verdict" toName="i" perItem="true">{yes_no}') == ("verdict", True)


def test_masks_that_nobody_would_read_are_refused() -> None:
    second = '<Image name="j" valueList="$others"/><BrushLabels name="n" toName="j"><Label value="car"/></BrushLabels>'
    with pytest.raises(ConfigError, match="has 2 <Image valueList> objects"):
        parse_controls(f"<View>{IMAGE}{MASK}{second}</View>")
    with pytest.raises(ConfigError, match="is not read beside the other media"):
        parse_controls(f"<View>{IMAGE}{MASK}{second.replace('valueList', 'value')}</View>")
    assert parse_controls(f'<View>{IMAGE}{MASK}<Image name="j" value="$map"/></View>').frames is not None
