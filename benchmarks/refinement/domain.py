"""The team's world: sprites in a style that nothing was trained on, and one word that only this team uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from steerseg.demo.catalogue import GROUP_NOUNS
from steerseg.demo.dataset import ENTROPY, ClipEntry, Expression, Manifest, write_split
from steerseg.demo.language import KINDS, Referral, referrals, vocabulary
from steerseg.demo.sprites import Catalogue, load_catalogue
from steerseg.demo.world import WorldSpec, sample_scene
from steerseg.errors import ConfigError
from steerseg.evaluation import Sample, read_ref_youtube_vos

# Seeds of the scenes; far above those of the splits of sprites-ref.
_HELD_OUT_SEEDS = 50_000_000
_WORK_SEEDS = 60_000_000
_SEEDS_OF_ONE = 1_000_000

# A word of one's own is used as any noun is; a use ("something to drink") has no noun to take its place.
_KINDS_OF_THE_WORD = tuple(kind for kind in KINDS if kind not in ("implicit", "plural"))
_OTHER_KINDS = tuple(kind for kind in KINDS if kind != "plural")


@dataclass(frozen=True)
class Convention:
    """A word that a team uses for certain objects.

    Attributes:
        word: The word; the demo must not know it.
        means: The noun of the groups that it stands for, as in
            :data:`steerseg.demo.catalogue.GROUP_NOUNS`.
    """

    word: str = "rig"
    means: str = "vehicle"

    def __post_init__(self) -> None:
        if not self.word.isalpha() or self.word in vocabulary():
            raise ConfigError(
                f"the team's word cannot be {self.word!r}; expected one word of letters that the demo was never "
                "taught, such as 'rig'"
            )
        if not self._groups:
            nouns = sorted({noun for found in GROUP_NOUNS.values() for noun in found})
            raise ConfigError(f"no group is called {self.means!r}; there are {', '.join(nouns)}")

    @property
    def _groups(self) -> frozenset[str]:
        return frozenset(group for group, nouns in GROUP_NOUNS.items() if self.means in nouns)

    def objects(self, catalogue: Catalogue) -> frozenset[str]:
        """Names of the objects that the word stands for."""
        pairs = zip(catalogue.names, catalogue.groups, strict=True)
        return frozenset(name for name, group in pairs if group in self._groups)


@dataclass(frozen=True)
class Domain:
    """What the team labels.

    Attributes:
        convention: Its word.
        share: Share of the tasks that use it; the others are ordinary expressions. All do where left out: a project
            labels one kind of thing.
        world: What the videos are like.
    """

    convention: Convention = field(default_factory=Convention)
    share: float = 1.0
    world: WorldSpec = field(
        default_factory=lambda: WorldSpec(
            styles=("twemoji",), frames=(24, 32), pairs="any", photos=0.3, photo_half="heldout"
        )
    )

    def described(self) -> dict[str, Any]:
        """What identifies it, in JSON types."""
        return {**asdict(self.convention), "share": self.share, "styles": list(self.world.styles)}

    def held_out(self, count: int) -> Manifest:
        """Tasks that nobody corrects: proposals are measured on them before and after."""
        return self._manifest(f"team-{self.convention.word}-held-out", _HELD_OUT_SEEDS, count)

    def work(self, seed: int, count: int) -> Manifest:
        """The tasks that are corrected; those of a smaller count are the first of a larger one."""
        return self._manifest(
            f"team-{self.convention.word}-work-{seed}", _WORK_SEEDS + seed * _SEEDS_OF_ONE, count
        )

    def _manifest(self, split: str, first_seed: int, count: int) -> Manifest:
        catalogue = load_catalogue(self.world.styles)
        clips: list[ClipEntry] = []
        seed = first_seed
        while len(clips) < count:
            seed += 1
            own = int((len(clips) + 1) * self.share) > int(len(clips) * self.share)
            entry = self._entry(f"{split}-{len(clips):04d}", seed, catalogue, own)
            if entry is not None:
                clips.append(entry)
        about = f"{self.convention.word!r} for what others call {self.convention.means!r}"
        if self.share < 1:
            about += ", and ordinary expressions"
        return Manifest(split, about, self.world, "train", tuple(clips))

    def _entry(self, video: str, seed: int, catalogue: Catalogue, own: bool) -> ClipEntry | None:
        """The clip of a seed with one expression; ``None`` where nothing of the wanted kind is true of it."""
        rng = np.random.default_rng((ENTROPY, seed))  # as the clip is drawn again
        scene = sample_scene(rng, self.world, catalogue)
        word, called = self.convention.word, self.convention.objects(catalogue)
        names = [catalogue.names[i] for i in scene.sprite]
        if own:
            if not called.intersection(names):
                return None
            found = referrals(scene, rng, kinds=_KINDS_OF_THE_WORD, catalogue=catalogue, nouns={word: called})
            found = [r for r in found if r.name in called and word in r.expression.split()]
        else:
            found = referrals(scene, rng, kinds=_OTHER_KINDS, catalogue=catalogue)
            # What the team calls by its own word it does not call otherwise.
            found = [r for r in found if r.name not in called]
        if not found:
            return None
        chosen = _one_of_any_kind(found, rng)
        expression = Expression(
            text=chosen.expression,
            targets=chosen.targets,
            kind=word if own else chosen.kind,
            name=chosen.name,
            attributes=chosen.attributes,
            twin=names.count(chosen.name) > 1,
        )
        return ClipEntry(video, seed, (expression,))


def _one_of_any_kind(found: Sequence[Referral], rng: np.random.Generator) -> Referral:
    """One referral, each kind as likely as another: some kinds fit far more scenes."""
    by_kind: dict[str, list[Referral]] = {}
    for referral in found:
        by_kind.setdefault(referral.kind, []).append(referral)
    kinds = sorted(by_kind)
    members = by_kind[kinds[int(rng.integers(len(kinds)))]]
    return members[int(rng.integers(len(members)))]


def samples_of(manifest: Manifest, root: Path, workers: int = 1) -> list[Sample]:
    """The tasks of a manifest in its order; their frames and true masks are drawn where they are missing.

    Args:
        manifest: Which.
        root: Where datasets of sprites are kept.
        workers: Processes that draw.

    Raises:
        ConfigError: The style's pictures have to be fetched and cannot be.
    """
    write_split(manifest, root, workers)
    by_video: Mapping[str, Sample] = {
        sample.video: sample for sample in read_ref_youtube_vos(root, manifest.split)
    }
    return [by_video[entry.video] for entry in manifest.clips]
