"""J&F of soft prompts on held-out tasks and on the old domain, each pair measured once, whoever made it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.refinement.loop import Refined
from steerseg.errors import ConfigError
from steerseg.evaluation import (
    Models,
    Sample,
    Variant,
    VariantResults,
    describe_runs,
    evaluate,
    in_processes,
    in_this_process,
)
from steerseg.evaluation.runner import environment
from steerseg.presets import find_preset, load_preset
from steerseg.soft_prompts import SoftPrompts

BEFORE = "before"


@dataclass(frozen=True)
class Measuring:
    """How is measured.

    Attributes:
        preset: Name or folder of the preset.
        device: As of :meth:`steerseg.pipeline.SteerSeg.from_pretrained`.
        processes: Processes that share the work.
        progress: Called with the work as :func:`steerseg.evaluation.evaluate` tells.
    """

    preset: str
    device: str
    processes: int
    progress: Callable[[str, float], None]

    def measure(
        self,
        dataset: str,
        split: str,
        samples: Sequence[Sample],
        prompts: Mapping[str, SoftPrompts],
        folder: Path,
    ) -> dict[str, VariantResults]:
        """Results under the preset's own prompts (:data:`BEFORE`) and under each further pair.

        Args:
            dataset: Its name.
            split: Of it.
            samples: What is measured on.
            prompts: Pairs by digest.
            folder: Where results are kept; what is there is not measured again.

        Raises:
            ConfigError: The folder holds results of other settings.
        """
        preset = load_preset(find_preset(self.preset))
        own = None if preset.soft_prompts is None else SoftPrompts.load(preset.soft_prompts)
        variants = [Variant(BEFORE, "before", soft_prompts=own)]
        variants += [Variant(digest, digest, soft_prompts=pair) for digest, pair in prompts.items()]
        models = Models(self.preset, self.device)
        alone = self.processes == 1
        work = in_this_process(models) if alone else in_processes(models, self.processes)
        return evaluate(
            samples,
            variants,
            describe_runs(dataset, split, samples, preset, variants),
            folder,
            work=work,
            made_by=environment(self.device),
            progress=self.progress,
        )


def load_prompts(refined: Sequence[Refined], folder: Callable[[Refined], Path]) -> dict[str, SoftPrompts]:
    """The pairs that runs of the loop have made, by digest.

    Args:
        refined: The runs.
        folder: Where a run's pair was exported to.

    Raises:
        ConfigError: One is missing, or is not what its run has noted.
    """
    found: dict[str, SoftPrompts] = {}
    for run in refined:
        if run.digest and run.digest not in found:
            found[run.digest] = SoftPrompts.load(folder(run))
            if found[run.digest].digest != run.digest:
                raise ConfigError(
                    f"{folder(run)} holds the soft prompts {found[run.digest].digest}, its run has noted "
                    f"{run.digest}; remove both and run it again"
                )
    return found
