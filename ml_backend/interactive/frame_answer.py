"""Answers to calls about the pages of a task: expressions, clicks, boxes and painted pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ml_backend.interactive.answer import (
    Answer,
    Call,
    expression_of_candidate,
    late_proposal,
    refusal,
)
from ml_backend.interactive.in_force import is_visible, made_together, texts_in_force
from ml_backend.interactive.instance_edits import Edit, apply_command, cleared
from ml_backend.interactive.mask_regions import MaskRegions
from ml_backend.interactive.messages import (
    NOTHING_PAINTED,
    describe_missing_candidate,
    describe_replaced,
)
from ml_backend.interactive.pages_call import PagesCall, Question
from ml_backend.interactive.paint import mask_or_none
from ml_backend.interactive.request import InteractiveRequest
from ml_backend.interactive.state import InstanceState, TaskState
from ml_backend.interactive.store import TaskStateStore
from ml_backend.interactive.update import (
    RequestKind,
    StateUpdate,
    apply_draft,
    apply_request,
)
from ml_backend.jobs.steering import SteeringJobs
from ml_backend.label_studio.controls import FramesSide, choose_label
from ml_backend.label_studio.results import expressions_result
from ml_backend.language.commands import Action, is_command, is_go, read_command
from ml_backend.language.expressions import (
    TypedText,
    read_typed_text,
    typed_expressions,
)
from ml_backend.predictions.messages import Guidance, capitalised, describe_answer, describe_instances
from ml_backend.proposals import StoredProposal
from steerseg.errors import ExpressionError
from steerseg.words.counting import InstanceCount, choose_candidates, instances_meant


class FrameCalls:
    """Answers calls about the pages of a task.

    Args:
        states: The states of tasks.
        jobs: Asks the segmenter.
        guidance: The preset's notes on its answers.
    """

    def __init__(self, states: TaskStateStore, jobs: SteeringJobs, guidance: Guidance) -> None:
        self._states = states
        self._jobs = jobs
        self._guidance = guidance

    def answer(self, call: Call, side: FramesSide) -> Answer:
        """Apply a call to the state of its task, and answer it.

        Raises:
            SteerSegError: It cannot be answered; the message is for the annotator.
        """
        return _FrameCall(self._states, self._jobs, self._guidance, call, side).answer()


class _FrameCall(PagesCall):
    """One call about the pages of one task."""

    def __init__(
        self, states: TaskStateStore, jobs: SteeringJobs, guidance: Guidance, call: Call, side: FramesSide
    ) -> None:
        super().__init__(states, jobs, call, side)
        self._guidance = guidance

    def answer(self) -> Answer:
        """Update the state, answer the call, and remember the message: a draft that shows it is current."""
        texts = self._call.request.texts
        if texts and not self._call.request.prompts and is_command(texts[-1], self._names):
            answer = self._answer_command(texts[-1])
        else:
            update = self._update_state()
            if update.kind is RequestKind.PROMPTS:
                answer = self._answer_instances([Question(update.task.instances[update.index])])
            else:
                answer = self._answer_text(update)
        message = answer.message
        if message is None:
            return answer
        task = self._states.change(self._key, lambda task: replace(task, message=message))
        return self._with_settled_text(answer, task) if answer.settles_text else answer

    def _with_settled_text(self, answer: Answer, task: TaskState) -> Answer:
        """The answer with the expressions in force, in place of all that was typed."""
        texts = expressions_result(self._side, texts_in_force(task, self._names))
        return answer if texts is None else replace(answer, result=(*answer.result, texts))

    # --- the state

    def _update_state(self) -> StateUpdate:
        request = self._call.request
        first = apply_request(self._known, request, self._draft, self._names)
        index = self._index_of(first)
        # Reading the regions on the pages takes time: it happens before the transaction, not within.
        new = None if index in first.task.instances else self._instance_on_pages(index)
        updates: list[StateUpdate] = []

        def change(task: TaskState) -> TaskState:
            update = apply_request(task, request, self._draft, self._names)
            changed = replace(update.task, active_index=index)
            if new is not None and index not in changed.instances:
                changed = changed.with_instance(new)
            if update.kind is RequestKind.PROMPTS and index in changed.instances:
                known = changed.instances[index].with_prompts(request.prompts)
                changed = changed.with_instance(replace(known, label=self._class_of(request, known)))
            updates[:] = [StateUpdate(update.kind, index, changed)]
            return changed

        self._states.change(self._key, change)
        return updates[0]

    def _index_of(self, update: StateUpdate) -> int:
        """The instance that the call is about; a text may name it itself."""
        if update.kind is RequestKind.TEXT:
            label = self._typed_text().label
            if label is not None:
                return self._names.index(label)
        return update.index

    def _typed_text(self) -> TypedText:
        return read_typed_text(self._call.request.texts[-1], self._names)

    # --- expressions

    def _answer_text(self, update: StateUpdate) -> Answer:
        call, typed = self._call, self._typed_text()
        instance = update.task.instances[update.index]
        expression = typed.expression
        if typed.pick is not None:
            last = next(typed_expressions(call.request.texts, self._names), None)
            expression = expression_of_candidate(typed.pick, instance.expression, last, call.own_expression)
        work = call.propose(expression)
        try:
            proposal = work.outcome.result(call.seconds_left)
        except TimeoutError:
            return late_proposal(call, work.progress, expression)
        if typed.pick is not None and not 0 < typed.pick <= len(proposal.tracklets):
            return Answer(message=describe_missing_candidate(typed.pick, expression, proposal))
        if not proposal.tracklets:
            return Answer(message=describe_answer(proposal, 0, self._guidance))
        if proposal.refused and typed.pick is None:
            return refusal(proposal, self._guidance, self._side)
        several = None if typed.pick is not None else instances_meant(proposal.expression)
        ranks = self._ranks(proposal, instance, typed.pick, several)
        ranks = ranks[: max(1, len(self._names) - update.index)]
        before = {
            index: update.task.instances.get(index) or self._instance_on_pages(index)
            for index in range(update.index, update.index + len(ranks))
        }
        named = typed.pick is not None or typed.label is not None
        gone = {} if named else {one.index: one for one in made_together(update.task, update.index)}
        return self._answer_proposal(
            proposal, dict(zip(before, ranks, strict=True)), before, several, {**gone, **before}
        )

    def _answer_proposal(
        self,
        proposal: StoredProposal,
        ranks: Mapping[int, int],
        before: Mapping[int, InstanceState],
        several: InstanceCount | None,
        replaced: Mapping[int, InstanceState],
    ) -> Answer:
        """Answer with candidates.

        Args:
            proposal: The proposal.
            ranks: By index of the instance, the candidate that it becomes.
            before: By index, these instances as they were.
            several: How many instances the expression means; ``None`` for one.
            replaced: By index, all instances that the expression replaces.
        """
        instances = [
            self._proposed(before[index], proposal, rank, alone=several is None)
            for index, rank in ranks.items()
        ]
        left = {index: one for index, one in replaced.items() if index not in ranks}
        emptied = {index: cleared(one, self._pages) for index, one in left.items()}
        self._states.change(self._key, lambda task: _with_instances(task, (*instances, *emptied.values())))
        gone = describe_replaced(proposal.expression, replaced, self._names)
        message = self._describe(proposal, list(ranks.values()), instances, several, gone)
        answer = self._answer_instances(
            [
                Question(
                    instance,
                    message=message if i == 0 else "",
                    scores=tuple(
                        float(score) for score in proposal.tracklets[ranks[instance.index]].frame_scores
                    ),
                )
                for i, instance in enumerate(instances)
            ]
        )
        return replace(
            answer,
            result=(*answer.result, *self._write_edited(left, emptied)),
            settles_text=not answer.late,
        )

    # --- commands

    def _answer_command(self, text: str) -> Answer:
        task = apply_draft(self._known, self._draft)
        if is_go(text):
            return self._follow_paint(task)
        try:
            edit = self._edit(text, task)
        except ExpressionError as error:
            return Answer(message=f"{capitalised(str(error))}.", settles_text=True)

        def change(task: TaskState) -> TaskState:
            changed = _with_instances(apply_draft(task, self._draft), tuple(edit.after.values()))
            return replace(changed, active_index=edit.target)

        self._states.change(self._key, change)
        return Answer(tuple(self._write_edited(edit.before, edit.after)), edit.message, settles_text=True)

    def _follow_paint(self, task: TaskState) -> Answer:
        """Let the other pages of every painted instance follow what was painted."""
        draft = MaskRegions() if self._draft is None else self._draft
        drawn = {i for i in range(len(self._names)) if draft.drawn_for(i, self._label(i))}
        known = sorted(task.instances.keys() | drawn)
        instances = [task.instances.get(index) or self._instance_on_pages(index) for index in known]
        painted = [one for one in instances if one.own_pages & one.painted_masks.keys()]
        if not painted:
            return Answer(message=NOTHING_PAINTED, settles_text=True)
        self._states.change(self._key, lambda task: _with_instances(apply_draft(task, self._draft), painted))
        answer = self._answer_instances([Question(one, follows_paint=True) for one in painted])
        return replace(answer, settles_text=not answer.late)

    def _edit(self, text: str, task: TaskState) -> Edit:
        command = read_command(text, self._names)
        assert command is not None
        if command.action is Action.SPLIT and command.source is None:
            command = replace(command, source=self._free_index(task))
        named = [index for index in (command.target, command.source) if index is not None]
        return apply_command(
            command,
            {index: task.instances.get(index) or self._instance_on_pages(index) for index in named},
            self._names,
            self._pages,
            labels_are_classes=not self._side.labels_name_instances,
        )

    def _free_index(self, task: TaskState) -> int:
        """The first instance that has no mask yet."""
        used = {index for index, instance in task.instances.items() if is_visible(instance)}
        if self._draft is not None:
            used |= self._draft.instances.keys() - task.instances.keys()
        free = next((index for index in range(len(self._names)) if index not in used), None)
        if free is None:
            raise ExpressionError("all objects are in use; delete one, or name the one to split into")
        return free

    def _ranks(
        self,
        proposal: StoredProposal,
        instance: InstanceState,
        pick: int | None,
        several: InstanceCount | None,
    ) -> list[int]:
        if pick is not None:
            return [pick - 1]
        same = instance.expression.casefold() == proposal.expression.casefold()
        if several is None and same and instance.prompts and instance.rank < len(proposal.tracklets):
            return [instance.rank]  # the clicks were about this candidate
        return choose_candidates(proposal.tracklets, several)

    def _proposed(
        self, before: InstanceState, proposal: StoredProposal, rank: int, *, alone: bool
    ) -> InstanceState:
        """The instance as a candidate; its clicks stay if they were about the same one."""
        tracklet = proposal.tracklets[rank]
        same = before.expression.casefold() == proposal.expression.casefold() and before.rank == rank
        return replace(
            before if same else _without_assigned(before),
            label=self._label_for(before.index, proposal, alone=alone),
            expression=proposal.expression,
            attributes=proposal.attributes,
            rank=rank,
            score=tracklet.score,
            track=tuple(mask_or_none(mask) for mask in tracklet.rles),
            anchor=tracklet.prompt.frame,
            prompts=before.prompts if same else (),
            answer_digest=before.answer_digest if same else "",
        )

    def _describe(
        self,
        proposal: StoredProposal,
        ranks: Sequence[int],
        instances: Sequence[InstanceState],
        several: InstanceCount | None,
        replaced: str,
    ) -> str:
        names = [self._title(instance) for instance in instances]
        if several is None:
            return describe_answer(proposal, ranks[0], self._guidance, names[0], replaced)
        meant = several.most if several.exact else None
        return describe_instances(proposal, ranks, names, meant, self._guidance, replaced)

    def _class_of(self, request: InteractiveRequest, instance: InstanceState) -> str:
        """The label of an instance; where labels are classes, a prompt's own label changes it."""
        own = request.prompt_label
        classes = not self._side.labels_name_instances
        return own if classes and own is not None and own in self._labels else instance.label

    def _label_for(self, index: int, proposal: StoredProposal, *, alone: bool) -> str:
        """The label that the expression names, else the instance's own by its index."""
        if not self._side.labels_name_instances:
            return choose_label(self._labels, proposal.expression, proposal.attributes) or self._labels[0]
        if alone and index == 0:
            label = choose_label(self._labels, proposal.expression, proposal.attributes)
            return label or self._label(index)
        return self._label(index)


def _without_assigned(instance: InstanceState) -> InstanceState:
    """The instance without what typed commands made of its earlier masks."""
    painted = {page: mask for page, mask in instance.painted.items() if page in instance.own_pages}
    return replace(instance, painted=painted, assigned=frozenset())


def _with_instances(task: TaskState, instances: Sequence[InstanceState]) -> TaskState:
    for instance in instances:
        task = task.with_instance(instance)
    return task
