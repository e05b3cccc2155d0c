"""In the model process: corrected objects are named, examples prepared, and candidates tried.

Each request is a slice of a refinement that ends soon, or yields when something more urgent waits. Whatever a slice
achieves is on disk when it ends, and none depends on what this process remembers: after a kill, the next process
goes on where this one was.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ml_backend.models.decode import DecodedExample, ExampleDecoder
from ml_backend.models.examples import shows_object
from ml_backend.models.fingerprint import weights_fingerprint
from ml_backend.models.messages import (
    NamedObject,
    NameRequest,
    PreparedExample,
    PrepareRequest,
    SoftPromptsRef,
    TrialRequest,
    TrialResult,
)
from ml_backend.models.reporter import Reporter, yielding_progress
from ml_backend.models.sample_files import (
    SampleReader,
    read_sample_card,
    sample_path,
    write_context,
    write_sample,
)
from ml_backend.models.soft_prompts import SoftPromptCache
from steerseg.config import PipelineConfig, RefinementRecipe
from steerseg.evaluation.metrics import score
from steerseg.grounding import VisionContext
from steerseg.keyframes import VideoFeatures
from steerseg.masks import decode_rle
from steerseg.pipeline import SteerSeg
from steerseg.presence.judge import Case
from steerseg.reasoning import Reasoning, attributes_of, expression_as
from steerseg.training.trainer import TrainingSample
from steerseg.video import Progress, Video, keyframe_indices
from steerseg.video.isolation import IsolatedDecoder
from steerseg.words.naming import frames_to_show, name_object

_FEATURES = 2
"""Counts up where the same frames are shown to the vision tower otherwise, so that kept features are made again."""


class Refiner:
    """Answers the slices of refinements with a loaded :class:`~steerseg.pipeline.SteerSeg`.

    Args:
        steerseg: The frozen models.
        decoder: Decodes media.
        soft_prompts: Soft prompts that are loaded already.
        reader: Reads prepared examples.
    """

    def __init__(
        self,
        steerseg: SteerSeg,
        decoder: IsolatedDecoder,
        soft_prompts: SoftPromptCache,
        reader: SampleReader,
    ) -> None:
        self._steerseg = steerseg
        self._recipe: RefinementRecipe = steerseg.preset.recipe
        self._lexicon = steerseg.preset.load_lexicon()
        self._decoder = ExampleDecoder(steerseg.preset, decoder)
        self._soft_prompts = soft_prompts
        self._reader = reader

    # --- naming

    def name(self, request: NameRequest, reporter: Reporter) -> NamedObject:
        """Ask the frozen model what the object of a correction is.

        Raises:
            YieldRequested: Something more urgent waits.
            VideoError: The media cannot be read, or is not what was corrected.
        """
        progress = yielding_progress(reporter)
        truth = request.example.truth
        shown = sorted(frame for frame, rle in truth.items() if shows_object(rle))
        example = self._decoder.decode(request.example, request.media, progress)
        preset = self._steerseg.preset
        chosen = frames_to_show(shown, preset)
        naming = name_object(
            self._steerseg.lvlm, preset, self._lexicon, example.video.frames[chosen], example.truth(chosen)
        )
        return NamedObject(naming.names, naming.kinds)

    # --- preparing

    def prepare(self, request: PrepareRequest, reporter: Reporter) -> PreparedExample:
        """Show an example's keyframes to the vision tower, ask for its attributes, and keep both.

        Raises:
            YieldRequested: Something more urgent waits.
            VideoError: The media cannot be read, or is not what was corrected.
            ArtefactError: The disk is full.
        """
        known = self._prepared(request)
        if known is not None:
            return known
        progress = yielding_progress(reporter)
        example = self._decoder.decode(request.example, request.media, progress)
        config = self._config
        keyframes = keyframe_indices(len(example.video), config.keyframes)
        pictures = _pictures(example.video.digest, len(keyframes), self._recipe.pictures)
        path = request.features / self._features_name(example.video, keyframes, pictures)
        if not path.is_file():
            write_context(
                path, self._steerseg.encode_keyframes(example.video, config, progress, pictures=pictures)
            )
        context = self._reader.context(path)
        wording = self._steerseg.read(
            example.expression, config, self._soft_prompts.load(request.prompts)
        ).text
        question = self._question(context, wording, progress)
        sample = self._sample(context, question, example, pictures, request.example.weight)
        write_sample(sample_path(request.folder, request.example.key), sample, path.name)
        return PreparedExample(path.name, path.stat().st_size, sample.teaches)

    def _prepared(self, request: PrepareRequest) -> PreparedExample | None:
        """The example, where an earlier slice has prepared it."""
        path = sample_path(request.folder, request.example.key)
        if not path.is_file():
            return None
        features = request.features / read_sample_card(path).features
        if not features.is_file():
            return None
        os.utime(features)  # in use
        sample = self._reader.sample(path, request.features)
        return PreparedExample(features.name, features.stat().st_size, sample.teaches)

    def _question(self, context: VisionContext, expression: str, progress: Progress) -> str:
        config = self._config
        attributes: tuple[str, ...] = ()
        if config.reasoning:
            progress("reasoning", 0.0)
            lvlm = self._steerseg.lvlm
            film = context.video.to(lvlm.device)
            attributes = attributes_of(lvlm, film, expression, self._steerseg.texts, config)
        return self._steerseg.texts.grounding_question(
            expression_as(config.expression_form, expression), attributes
        )

    def _sample(
        self,
        context: VisionContext,
        question: str,
        example: DecodedExample,
        pictures: Sequence[int],
        weight: float,
    ) -> TrainingSample:
        keyframes = context.keyframes
        return TrainingSample.from_masks(
            context,
            question,
            example.truth(keyframes),
            self._steerseg.lvlm.family.temporal_merge,
            pictures=pictures,
            weight=weight,
            shares=np.array([example.share(frame) for frame in keyframes], dtype=np.float32),
            rejected=example.rejected_on(keyframes),
        )

    @property
    def _config(self) -> PipelineConfig:
        return replace(self._steerseg.config, soft_prompts=True)

    @functools.cached_property
    def _weights(self) -> str:
        """Names the model's weights, by their content where they are a folder, which may be trained anew in place."""
        return weights_fingerprint(self._steerseg.preset.lvlm)

    def _features_name(self, video: Video, keyframes: Sequence[int], pictures: Sequence[int]) -> str:
        """The file of a video's features: a digest of all that they depend on."""
        preset = self._steerseg.preset
        state = json.dumps(
            [
                _FEATURES,
                video.digest,
                list(keyframes),
                list(pictures),
                self._weights,
                str(self._steerseg.lvlm.dtype),
                preset.video_tokens,
                preset.frame_tokens,
                self._config.seconds_per_slice,
                self._config.grid,
                self._config.enlarge,
            ]
        )
        return f"{hashlib.sha256(state.encode()).hexdigest()[:32]}.safetensors"

    # --- trying

    def compare(self, request: TrialRequest, reporter: Reporter) -> TrialResult:
        """Ask candidate and champion for the same object; video and features are shared.

        Raises:
            YieldRequested: Something more urgent waits.
            VideoError: The media cannot be read, or is not what was corrected.
        """
        progress = yielding_progress(reporter)
        example = self._decoder.decode(request.example, request.media, progress)
        features = self._steerseg.encode(example.video, self._config, progress)
        reasoned: dict[str, Reasoning] = {}
        return TrialResult(
            candidate=self._quality(features, example, reasoned, request.candidate, progress),
            champion=self._quality(features, example, reasoned, request.champion, progress),
        )

    def _quality(
        self,
        features: VideoFeatures,
        example: DecodedExample,
        reasoned: dict[str, Reasoning],
        version: SoftPromptsRef | None,
        progress: Progress,
    ) -> float:
        """J&F in [0, 1] of the best tracklet under a version, on the frames whose truth is known.

        Args:
            features: Of the video.
            example: What is asked for.
            reasoned: Chains of thought by wording, as far as they are known; others are added.
            version: The version; ``None`` for the preset's own soft prompts.
            progress: Called with stage and fraction.
        """
        steerseg = self._steerseg
        config = replace(self._config if version else steerseg.config, alternatives=1)
        prompts = self._soft_prompts.load(version)
        reading = steerseg.read(example.expression, config, prompts)
        wording = reading.text
        if wording not in reasoned:
            reasoned[wording] = steerseg.reason(features, wording, config, progress)
        attributes, said = reasoned[wording].attributes, reasoned[wording].said
        steering = steerseg.steering(config, prompts)
        maps = steerseg.ground(features, wording, attributes, config, steering, progress)
        found = steerseg.find_candidates(features, maps, config, progress, said=(wording, *attributes))
        positions = steerseg.locate(features, wording, attributes, config, progress)
        case = Case(example.video, reading, said, maps, found.on_keyframes, features.context)
        choice = steerseg.choose(case, features, found, positions, config, steering, progress)
        candidates, ranking = choice
        tracklets = steerseg.track(features, candidates, ranking, progress)
        truth = example.truth(example.judged)
        if tracklets:
            predicted = np.stack([decode_rle(tracklets[0].rles[frame]) for frame in example.judged])
        else:
            predicted = np.zeros_like(truth)
        return score(predicted, truth).jf


def _pictures(digest: str, keyframes: int, count: int) -> tuple[int, ...]:
    """The keyframes of a video that are kept as images: the same ones every time."""
    seed = int.from_bytes(hashlib.sha256(digest.encode()).digest()[:8], "big")
    return tuple(sorted(np.random.default_rng(seed).permutation(keyframes)[:count].tolist()))
