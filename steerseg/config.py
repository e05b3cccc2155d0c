"""The choices of the method as data: one proposal, one training from scratch, one refinement."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from steerseg.errors import ConfigError

Granularity = Literal["frame", "video", "both"]
Heads = Literal["mean", "visual_max"]
Placement = Literal["before_vision", "start", "after_vision"]
Quantisation = Literal["8bit", "4bit"]
Beginning = Literal["line-breaks", "words"]
GlossaryUse = Literal["replace", "explain", "off"]
Wording = Literal["plain", "typed"]
PresenceUse = Literal["refuse", "refuse-known", "judge", "off"]
Verification = Literal["ask", "look", "off"]
InstanceUse = Literal["search", "maps"]
Correction = Literal["memory", "frame"]
Grid = Literal["aspect", "smart_resize"]
Borders = Literal["normalised", "zero"]
ExpressionForm = Literal["typed", "sentence"]
Conditioning = Literal["click", "mask"]
CandidateSource = Literal["points", "concepts"]
Resampling = Literal["bilinear", "bicubic"]
Clicks = Literal["exact", "shifted"]
CpuPrecision = Literal["float32", "native"]
MaskMemory = Literal["mask", "logits"]


@dataclass(frozen=True)
class PipelineConfig:
    """Every switch of the method. The defaults are the method as published; the rest are ablations.

    Where the code that the method builds on (DecAF) has another way than ours, both are here: the default is ours,
    and :data:`PUBLISHED` has DecAF's. ``python -m benchmarks.fidelity`` measures each on the demo.

    Attributes:
        keyframes: Number of frames that the LVLM sees, spread evenly over the video.
        reasoning: Whether a chain-of-thought step names discriminating attributes first.
        reasoning_steps: 1, as in the method; or 2: given the attributes, a second question asks when and where each
            object that may be meant is seen, and its phrases are added to them. Reasoning in several steps is the
            paper's future work (our choice otherwise); what it brings is not measured with real weights.
        soft_prompts: Whether the soft prompts steer the grounding passes.
        granularity: Grounding maps that are used.
        heads: Average of the attention heads: plain, or weighted by their largest attention to a
            visual token.
        candidates: Where candidates come from. ``"points"``: point prompts of the maps. ``"concepts"``: noun phrases of
            the expression and its attributes, by SAM 3's concept segmentation; the maps rank them all the same (our
            choice otherwise). Where SAM 3 is not there, or finds nothing, point prompts take its place, and the
            proposal says so. See :mod:`steerseg.candidates`.
        point_threshold: Least fused map value in [0, 1] of a point prompt.
        max_points: Most point prompts taken per keyframe, highest first.
        duplicate_iou: Two candidates on one keyframe that overlap more are the same object.
        max_candidates: Most candidates of point prompts that are propagated over the keyframes.
        frame_weight: Weight w_f in [0, 1] of the frame map in a tracklet's score; the video map has the rest.
        alternatives: Most ranked tracklets of a proposal, the best one included.
        max_new_tokens: Length limit of the chain-of-thought answer.
        attribute_confidence: Least probability in [0, 1] that the LVLM gives an attribute and all before it. The
            first attribute below it is left out, with all that follow. 0 keeps every attribute, as the method does
            (our choice otherwise): a word that the model has never met, such as a team's own, makes it name some
            other object, and maps follow that name.
        background: Whether what a question about the background looks at is taken away from the maps (DecAF). It
            removes attention that no question moves, such as a sink in a corner, and doubles the grounding passes.
            Off in the method.
        glossary: Whether the meanings of a glossary take the place of its terms before the models read an expression,
            are put in brackets behind it, or are left out, as the method does (our choice otherwise).
        wording: Whether the models read the object of a request alone, with slips of the pen mended, or the text as it
            was typed, as the method does (our choice otherwise); see :mod:`steerseg.words.wording`.
        presence: Whether a proposal says how likely its expression is of anything in the video, and whether nothing is
            shown where that is unlikely. The method does neither (our choice otherwise). It takes a preset with a
            calibration, and one more pass of the LVLM; see :mod:`steerseg.presence.signals`. ``"refuse-known"`` refuses
            only expressions whose words are all known: a team's new word is never refused, so that it can be
            corrected and learned. Nor is one that says only how something moves, where it is, or how it compares:
            there is no name to hold against what was found.
        localisation: Whether the LVLM is asked where the object is, and tracklets that are elsewhere lose rank. The
            method does not (our choice otherwise); it takes one more answer of the LVLM. Expressions of several objects
            are left out. See :mod:`steerseg.presence.localisation`.
        localisation_weight: Weight in [0, 1] of that agreement in a tracklet's score; the correlation with the maps has
            the rest.
        motion: Whether candidates are held against the motion that an expression states, such as "that runs to the
            left", by where they are on the keyframes. They are then also what the expression without the motion means,
            sought as several objects are, which takes one grounding more. The method has no such step (our choice); the
            rules are for English. Expressions of several objects are left out. See :mod:`steerseg.motion`.
        motion_weight: Weight in [0, 1] of that agreement in a tracklet's score; the score without it has the rest.
        verification: Whether the LVLM accepts, doubts or rejects each ranked candidate, which re-ranks them. The method
            has no such step (our choice otherwise). ``"ask"``: it is asked about all of them, outlined and numbered in
            the keyframes, in one pass more. ``"look"``: it names each, seen alone, and the preset's calibration of
            presence judges the names.
        instances: How several objects of one expression are found, such as "both daggers". ``"maps"``: among what the
            expression's maps point at, which is often one object. ``"search"``: the maps are of one of them, "the
            dagger", without attributes, which tell it from the others; what was found is blanked out of the maps, and
            what they then point at is found next. Where the preset has a calibration of presence, the LVLM names each
            candidate, seen alone, and those of another kind or colour are none. The method has neither (our choice);
            see :mod:`steerseg.instances.search`.
        correction: What answers an annotator's click on a tracked frame. ``"frame"``: the frame alone, and the mask
            that was shown there; on the demo no worse, and by tendency better. ``"memory"``: the object's memories
            and SAM 2's own logits beside the click, as SAM 2's predictor does and as SAM 2 was trained; all presets
            with Meta's weights have it.
        seconds_per_slice: Seconds between two frame pairs, as the LVLM is told. ``None`` tells the video's own: a
            model that is trained on true times can use them. DecAF always tells 1.0, so that no two slices of a
            short clip share a position.
        grid: How the visual tokens of a slice fill their budget. ``"aspect"``: as many rows and columns as fit, in
            the frame's aspect ratio. ``"smart_resize"``: Qwen's own rule, which rounds the frame down to whole
            tokens (DecAF). Families whose frames have one size have no choice.
        enlarge: Whether a video that is smaller than its budget is enlarged to it, which gives point prompts a finer
            grid; DecAF leaves it as it is. For the same families.
        borders: What a blurred map has on its borders. ``"normalised"``: the mean of the cells that are there.
            ``"zero"``: darker, as if nothing were attended to outside (DecAF), which also dims sinks in corners.
        expression_form: The expression in the questions. ``"typed"``: as it was typed, since names have capitals.
            ``"sentence"``: in lower case, and ended by a full stop where no question mark ends it (DecAF).
        added_keyframes: Most keyframes that are added between the first ones, where the judge of presence does not
            accept what those show. 0 adds none, as the method (our choice otherwise); see
            :mod:`steerseg.presence.added_keyframes`.
        seek_returns: Whether as many are added where the tracklet of an accepted object shows nothing, in case the
            segmenter does not know it again (our choice).
        conditioning: What a candidate goes on from. ``"click"``: the memory of its point prompt. ``"mask"``: its
            mask at the video's size, prompted again (DecAF).
    """

    keyframes: int = 16
    reasoning: bool = True
    reasoning_steps: int = 1
    soft_prompts: bool = True
    granularity: Granularity = "both"
    heads: Heads = "visual_max"
    point_threshold: float = 0.8
    max_points: int = 6
    duplicate_iou: float = 0.7
    max_candidates: int = 8
    frame_weight: float = 0.3
    alternatives: int = 3
    max_new_tokens: int = 128
    attribute_confidence: float = 0.0
    background: bool = False
    glossary: GlossaryUse = "replace"
    wording: Wording = "plain"
    presence: PresenceUse = "refuse"
    localisation: bool = False
    localisation_weight: float = 0.5
    motion: bool = False
    motion_weight: float = 0.7
    verification: Verification = "off"
    instances: InstanceUse = "search"
    correction: Correction = "frame"
    seconds_per_slice: float | None = None
    grid: Grid = "aspect"
    enlarge: bool = True
    borders: Borders = "normalised"
    expression_form: ExpressionForm = "typed"
    conditioning: Conditioning = "click"
    candidates: CandidateSource = "points"
    added_keyframes: int = 0
    seek_returns: bool = False

    def __post_init__(self) -> None:
        """Check the number of steps and of added keyframes.

        Raises:
            ConfigError: The steps are neither 1 nor 2, or the keyframes are fewer than none.
        """
        if self.reasoning_steps not in (1, 2):
            raise ConfigError(f"reasoning_steps is {self.reasoning_steps}; expected 1 or 2.")
        if self.added_keyframes < 0:
            raise ConfigError(f"added_keyframes is {self.added_keyframes}; expected 0 or more.")


@dataclass(frozen=True)
class SegmenterConfig:
    """How frames and clicks reach SAM 2. Fixed when it is loaded, since its features of a video are kept.

    Attributes:
        resampling: Filter that brings frames to SAM 2's size. ``"bilinear"`` runs where the model is;
            ``"bicubic"`` gives PIL's pixels, as SAM 2's own loader of frames, whose pixels it was trained on.
        clicks: ``"exact"``: a click is where it was made. ``"shifted"``: half a pixel of SAM 2's input to the right
            and down, as its own predictor has it and was trained with.
        cpu_precision: ``"native"`` computes in bfloat16 on a CPU with instructions for it, as on a GPU, and in
            float32 on another CPU. ``"float32"`` does so on every CPU.
        mask_memory: What SAM 2 of its own package remembers of a given mask. ``"mask"``: the mask at SAM 2's input
            size, which keeps objects of a few pixels. ``"logits"``: its logits at a quarter of that size, made binary,
            as SAM 2's own predictor has it.
    """

    resampling: Resampling = "bilinear"
    clicks: Clicks = "exact"
    cpu_precision: CpuPrecision = "float32"
    mask_memory: MaskMemory = "mask"


@dataclass(frozen=True)
class Settings:
    """A named set of choices that a preset begins with; its own fields come on top."""

    pipeline: PipelineConfig
    segmenter: SegmenterConfig


OWN = Settings(PipelineConfig(), SegmenterConfig())
"""Our choices, which the demo's models and soft prompts are trained with."""

PUBLISHED = Settings(
    PipelineConfig(
        seconds_per_slice=1.0,
        grid="smart_resize",
        enlarge=False,
        borders="zero",
        expression_form="sentence",
        conditioning="mask",
        correction="memory",
        glossary="off",
        wording="typed",
        presence="off",
        instances="maps",
    ),
    SegmenterConfig(resampling="bicubic", clicks="shifted", mask_memory="logits"),
)
"""The choices of published code: DecAF's, and of SAM 2's predictor. No background pass, since SteerSeg has none; and
SteerSeg's questions, not DecAF's. System turns belong to the families and are always as published."""

SETTINGS = {"own": OWN, "published": PUBLISHED}


@dataclass(frozen=True)
class TrainingConfig:
    """The objective and schedule of soft prompts, from scratch and in refinements.

    Attributes:
        steps: Length of the schedule.
        learning_rate: Peak rate of AdamW; warm-up, then cosine to a tenth.
        warmup: Steps of linear warm-up.
        weight_decay: Pull towards zero; small, since the prompts start at word embeddings.
        clip: Largest gradient norm of each matrix.
        heads: Head weighting of the rollout.
        borders: What a blurred map has on its borders; see :class:`PipelineConfig`.
        anchor: Weight of the mean squared distance from where the prompts began, as a share of their own mean
            square: holds a refined pair near its champion.
        ranking_weight: Weight of the ranking term, where a sample has rejected masks.
        ranking_margin: Wanted distance of the target's correlation with a map above that of a rejected mask.
        rows: Most questions of one pass through the model; more are accumulated, which takes less memory.
        BETAS: Decay rates of AdamW's moments; the same for every preset (our choice).
        LAST_RATE: End of the cosine, as a share of the peak rate (our choice).
    """

    BETAS: ClassVar[tuple[float, float]] = (0.9, 0.98)
    LAST_RATE: ClassVar[float] = 0.1

    steps: int = 400
    learning_rate: float = 3e-3
    warmup: int = 20
    weight_decay: float = 0.0
    clip: float = 1.0
    heads: Heads = "visual_max"
    borders: Borders = "normalised"
    anchor: float = 0.0
    ranking_weight: float = 0.5
    ranking_margin: float = 0.2
    rows: int = 32


@dataclass(frozen=True)
class TrainingRecipe:
    """The choices of a training of soft prompts from scratch.

    The paper gives the loss, the data, AdamW, 64 tokens and one epoch; the rest is our choice.

    Attributes:
        tokens: Length of each of the two prompts.
        placement: Their position in the chat.
        beginning: Embeddings that they start from: line breaks with a little noise, or random words.
        epochs: Passes over all expressions.
        batch: Expressions of a step in each process.
        frames_per_sample: Frame passes of an expression.
        pictures: Keyframes of a clip that are encoded as images; the frame passes are chosen among them.
        attributes: Share of questions with the model's own attributes.
        window: Clips whose expressions are mixed; see :func:`steerseg.training.data_order`.
        seed: Of every random choice.
        schedule: Optimiser, clipping and head weighting; its ``steps`` follow from the data.
    """

    tokens: int = 64
    placement: Placement = "before_vision"
    beginning: Beginning = "line-breaks"
    epochs: int = 1
    batch: int = 8
    frames_per_sample: int = 2
    pictures: int = 4
    attributes: float = 0.5
    window: int = 64
    seed: int = 1
    schedule: TrainingConfig = field(default_factory=lambda: TrainingConfig(ranking_weight=0.0, rows=2))


@dataclass(frozen=True)
class RefinementRecipe:
    """The choices of a refinement, from champion to candidate, and of its gate. A preset may set any of them.

    Attributes:
        training: The schedule of every training.
        batch: Samples of a step.
        frames_per_sample: Frame passes of each sample in a step.
        pictures: Keyframes of a sample that are kept as images for the frame passes.
        tokens: Length of the first pair, where a project begins without any.
        new_share: Share of a batch that are corrections which the champion was not trained on.
        old_share: Share that are corrections which the champion was trained on; the rest replays the preset's
            own examples. Where one kind is missing, the others share its part.
        champion_share: Share in [0, 1) of the champion in a training's result: the prompts are averaged. That
            keeps more of what was known, for little of the gain (Wortsman et al., Robust fine-tuning of zero-shot
            models, arXiv 2109.01903).
        negative_overlap: A proposal that overlaps its correction less (mean IoU) is a negative example.
        min_videos: Fewest videos with a visible object that a refinement begins with.
        held_out: Share of the videos that are held out, by a hash of their identity.
        min_held_out: With fewer held-out videos, the gate cross-validates instead.
        folds: Parts of a cross-validation.
        min_gain: Least mean gain in J&F on held-out videos; a negative one allows for a loss.
        confidence: Coverage of the bootstrap interval of the gain, whose lower end has to be above 0, or above a
            negative ``min_gain``.
        prior: Deviation in J&F of what trained soft prompts gain in use, around 0, before any is tried: what few
            videos show is drawn towards 0 (measured, see ``benchmarks/refinement/gate-h200``). ``None`` for no prior.
        taught_videos: A word that as many videos teach is used unless its trial shows a loss; one that fewer teach has
            to gain with certainty. 1 or more.
        max_regression: Largest mean loss in J&F on the preset's replay set; a larger one counts where it is not
            chance, its interval being below 0.
        seed: Of data order and choice of frames.
    """

    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(steps=120, learning_rate=1e-3, warmup=10, anchor=0.1)
    )
    batch: int = 8
    frames_per_sample: int = 2
    pictures: int = 4
    tokens: int = 16
    new_share: float = 0.5
    old_share: float = 0.25
    champion_share: float = 0.0
    negative_overlap: float = 0.3
    min_videos: int = 4
    held_out: float = 0.25
    min_held_out: int = 4
    folds: int = 3
    min_gain: float = 0.005
    confidence: float = 0.9
    prior: float | None = 0.05
    taught_videos: int = 6
    max_regression: float = 0.01
    seed: int = 1

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: A value is out of its range.
        """
        shares = ("new_share", "old_share", "champion_share", "negative_overlap", "held_out", "confidence")
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"{name} of a refinement is {getattr(self, name)}; expected a share from 0 to 1."
                )
        if self.champion_share == 1:
            raise ConfigError(
                "champion_share of a refinement is 1, of which nothing is learned; choose less."
            )
        for name in ("batch", "frames_per_sample", "pictures", "tokens", "taught_videos"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of a refinement is {getattr(self, name)}; expected 1 or more.")
