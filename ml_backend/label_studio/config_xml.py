"""The XML of a labelling configuration: its tags as Label Studio reads them, and the sizes that are accepted."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence

from steerseg.errors import ConfigError

MAX_CONFIG_LENGTH = 1_000_000
"""Characters; a longer configuration is refused unread."""

MAX_TAGS = 10_000
"""Tags; a configuration with more is refused."""

MAX_CONFIG_DEPTH = 100
"""Levels of tags within each other; a deeper configuration is refused."""

MAX_MEDIA = 100
"""``<Image>`` and ``<Video>`` tags; a configuration with more is refused."""

FRAMES_EXAMPLE = """<View>
  <TextArea name="expression" toName="frames" smart="true" rows="1" showSubmitButton="true"/>
  <BrushLabels name="mask" toName="frames" smart="false"><Label value="object"/></BrushLabels>
  <Image name="frames" valueList="$frames"/>
</View>"""


class Tag:
    """An XML element as Label Studio reads it: names of tags and attributes without regard to case."""

    def __init__(self, element: ET.Element) -> None:
        self.element = element
        self.kind = element.tag.lower()
        self._attributes = {name.lower(): value.strip() for name, value in element.attrib.items()}

    def get(self, name: str) -> str:
        """An attribute; empty where it is not given."""
        return self._attributes.get(name, "")

    @property
    def name(self) -> str:
        """Its name; empty without one."""
        return self.get("name")

    def flag(self, name: str, default: bool = False) -> bool:
        """An attribute that is on or off."""
        value = self.get(name).lower()
        return default if not value else value in ("true", "1", "yes")

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the objects that it points to (``toName``)."""
        return tuple(dict.fromkeys(target.strip() for target in self.get("toname").split(",")))

    def children(self, kind: str) -> tuple[str, ...]:
        """The values of the children of one kind, as they appear in results (an alias replaces its value)."""
        found = (Tag(child) for child in self.element.iter() if isinstance(child.tag, str))
        values = (tag.get("alias") or tag.get("value") for tag in found if tag.kind == kind)
        return tuple(dict.fromkeys(value for value in values if value))


class ControlsByTarget:
    """Controls by the names of the objects that they point to, each list in the configuration's order."""

    def __init__(self, controls: Iterable[Tag]) -> None:
        self._controls: dict[str, list[Tag]] = {}
        for control in controls:
            for target in control.targets:
                self._controls.setdefault(target, []).append(control)

    def of(self, name: str) -> Sequence[Tag]:
        """The controls that point to an object."""
        return self._controls.get(name, ())


def read_tags(label_config: str) -> list[Tag]:
    """The tags of a labelling configuration, in its order.

    Raises:
        ConfigError: It is empty, too large, no XML, or declares a document type.
    """
    root = _parse_xml(label_config)
    _check_size(root)
    tags = [Tag(element) for element in root.iter() if isinstance(element.tag, str)]
    media = sum(tag.kind in ("image", "video") for tag in tags)
    if media > MAX_MEDIA:
        raise ConfigError(
            f"the labelling configuration has {media} <Image> and <Video> tags; at most {MAX_MEDIA} are read. List "
            'the pages of one with valueList="$frames"'
        )
    return tags


def _parse_xml(label_config: str) -> ET.Element:
    if not label_config or not label_config.strip():
        raise ConfigError(
            "the project has no labelling configuration. Set one in Settings › Labeling Interface, "
            f"for example:\n{FRAMES_EXAMPLE}"
        )
    if len(label_config) > MAX_CONFIG_LENGTH:
        raise ConfigError(
            f"the labelling configuration has {len(label_config)} characters; "
            f"at most {MAX_CONFIG_LENGTH} are read"
        )
    if re.search(r"<!(DOCTYPE|ENTITY)", label_config, flags=re.IGNORECASE):
        # A document type is the only door to entities, external ones included; Label Studio never needs one.
        raise ConfigError(
            "the labelling configuration declares a document type or an entity, which is not accepted; "
            "remove the <!DOCTYPE ...> part"
        )
    try:
        return ET.fromstring(label_config.strip())
    except ET.ParseError as error:
        raise ConfigError(
            f"the labelling configuration is not well-formed XML ({error}); correct it in "
            "Settings › Labeling Interface › Code"
        ) from None


def _check_size(root: ET.Element) -> None:
    """Refuse a configuration that takes long to read.

    Raises:
        ConfigError: It has too many tags, or too many within each other.
    """
    level, tags, depth = [root], 0, 0
    while level:
        tags, depth = tags + len(level), depth + 1
        if tags > MAX_TAGS or depth > MAX_CONFIG_DEPTH:
            raise ConfigError(
                f"the labelling configuration has more than {MAX_TAGS} tags, or more than {MAX_CONFIG_DEPTH} within "
                "each other; keep what annotators need"
            )
        level = [child for element in level for child in element]
