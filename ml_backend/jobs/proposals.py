"""From a request for a proposal to the proposal: the stored one, or one job for all who ask for the same."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass

from ml_backend.database.database import Database
from ml_backend.database.errors import StoreError
from ml_backend.database.tables import JobState, ProposalKey
from ml_backend.jobs.progress import ProgressNotes, describe_progress
from ml_backend.jobs.proposal_store import ProposalStore
from ml_backend.jobs.store import Job, JobStore
from ml_backend.metrics import Metrics
from ml_backend.models.executor import ModelExecutor
from ml_backend.models.messages import ModelAnswer, ModelRequest, ProposeRequest
from ml_backend.models.queue import ModelJob, Priority
from ml_backend.proposals import ProposalFiles, StoredProposal
from steerseg.errors import Cancelled, ModelError, SteerSegError

log = logging.getLogger(__name__)

KIND = "propose"

Owner = tuple[int, int]
"""A project and a task that want a proposal."""


@dataclass
class PendingProposal:
    """A proposal that is there or on its way.

    Attributes:
        future: Where it or its error arrives.
        model_job: Its work; ``None`` where it was stored.
    """

    future: Future[StoredProposal]
    model_job: ModelJob[ModelRequest, ModelAnswer] | None = None

    @property
    def progress(self) -> str:
        """Its progress, for an annotator who waits."""
        job = self.model_job
        if job is None or not job.stage:
            return "waiting for the model"
        return describe_progress(job.stage, job.fraction, job.frames)


@dataclass
class _ProposalJob:
    """A job under way.

    Attributes:
        key: What makes its proposal the same as another.
        id: Its number in the database.
        pending: What callers hold of it.
        owners: Who wants the proposal.
        notes: Notes its progress.
        earlier_attempts: Attempts by earlier processes of the server.
    """

    key: ProposalKey
    id: int
    pending: PendingProposal
    owners: set[Owner]
    notes: ProgressNotes
    earlier_attempts: int


class Proposer:
    """Gives proposals for keys: stored ones at once, others by a job of the model process.

    Args:
        database: Keeps jobs, and which proposals there are.
        files: The stored proposals.
        executor: Runs the models.
        metrics: Counts proposals.
    """

    def __init__(
        self, database: Database, files: ProposalFiles, executor: ModelExecutor, metrics: Metrics
    ) -> None:
        self._database = database
        self._proposal_store = ProposalStore(database)
        self._job_store = JobStore(database)
        self._files = files
        self._executor = executor
        self._metrics = metrics
        # Reentrant: a job may end while it is being begun, in the same thread.
        self._lock = threading.RLock()
        self._jobs: dict[ProposalKey, _ProposalJob] = {}
        self._left: dict[str, Job] = {}  # jobs that an earlier process has left, by key
        self._given_up: dict[str, str] = {}
        self._stopping = False

    def recover(self, wanted: Collection[tuple[int, int, str]], most_attempts: int) -> int:
        """Take over the jobs that an earlier process of the server has left; call it before any request.

        A job that a delivery needs waits in the queue until it is asked for again; one that was running each
        of ``most_attempts`` times when the server ended has failed. Jobs of callers who are gone have too.

        Args:
            wanted: Project, task and version of the predictions that are still to be delivered.
            most_attempts: How often a job may be begun in all.

        Returns:
            How many go on.

        Raises:
            StoreError: The database cannot be used.
        """
        for job in self._job_store.unfinished(KIND):
            if (job.project_id, job.task_id, job.version) not in wanted:
                continue
            if job.state is JobState.RUNNING and job.attempts >= most_attempts:
                reason = (
                    f"the server ended {job.attempts} times while a model worked on this, so it is not tried "
                    "again; a shorter or smaller video needs less memory, and the log has the details"
                )
                self._given_up[job.key] = reason
                self._job_store.finish(job.id, JobState.FAILED, error=reason)
            elif job.key not in self._left:
                self._job_store.requeue(job.id, attempts=job.attempts)
                self._left[job.key] = job
        kept = {job.id for job in self._left.values()}
        ended = self._job_store.fail_unfinished(
            "the server stopped before it was done; it begins anew when it is asked for again", but=kept
        )
        if ended or kept:
            log.warning("of the previous run's jobs, %d go on and %d have ended with it", len(kept), ended)
        return len(kept)

    def stop(self) -> None:
        """Leave jobs that are cancelled from now on in the queue: the server ends, and the next goes on with them."""
        self._stopping = True

    def request(
        self, key: ProposalKey, request: ProposeRequest, *, owner: Owner, priority: Priority
    ) -> PendingProposal:
        """Ask for a proposal; returns at once, apart from a look into the database.

        Args:
            key: What makes it the same as another.
            request: How to make it.
            owner: Project and task that it is noted for.
            priority: How urgent it is; a waiting job of the same key is moved forward.

        Raises:
            StoreError: The database cannot be used.
            ModelError: The server itself has ended too often on it.
            Cancelled: The server is stopping.
        """
        if priority is Priority.INTERACTIVE:
            self._given_up.pop(str(key), None)  # a person wants it tried once more
        elif str(key) in self._given_up:
            raise ModelError(self._given_up[str(key)])
        joined = self._join(key, owner, priority)
        if joined is not None:
            return joined
        stored = self._stored(key, owner)
        if stored is not None:
            self._end_left(lambda left: left.key == str(key), JobState.DONE)
            self._metrics.proposals.labels("cached").inc()
            ready: Future[StoredProposal] = Future()
            ready.set_result(stored)
            return PendingProposal(ready)
        with self._lock:
            # Someone else may have been as quick.
            job = self._jobs.get(key)
            if job is None:
                return self._start(key, request, owner, priority)
            job.owners.add(owner)
        self._metrics.proposals.labels("joined").inc()
        return job.pending

    def release(self, keys: Collection[tuple[int, int, str]]) -> None:
        """End the jobs that an earlier process has left for these, so far as nobody has asked for them since.

        Args:
            keys: Project, task and version of the predictions that are no longer to be delivered.

        Raises:
            StoreError: The database cannot be written.
        """
        self._end_left(
            lambda left: (left.project_id, left.task_id, left.version) in keys,
            JobState.CANCELLED,
            "nothing waits for it any more",
        )

    def _end_left(self, chosen: Callable[[Job], bool], state: JobState, reason: str | None = None) -> None:
        with self._lock:
            ended = [left for left in self._left.values() if chosen(left)]
            for left in ended:
                del self._left[left.key]
        for left in ended:
            self._job_store.finish(left.id, state, error=reason)

    def cancel(self, job_id: int) -> bool:
        """End a job: at once where it waits, at its next sign of progress where it runs.

        Whoever waits for it learns that it was cancelled; asking again begins it anew.

        Returns:
            Whether it is under way here; ``False`` where it has ended, or is no proposal.
        """
        with self._lock:
            job = next((job for job in self._jobs.values() if job.id == job_id), None)
        if job is None or job.pending.model_job is None:
            return False
        self._executor.cancel(job.pending.model_job)
        return True

    def _join(self, key: ProposalKey, owner: Owner, priority: Priority) -> PendingProposal | None:
        with self._lock:
            job = self._jobs.get(key)
            if job is None:
                return None
            job.owners.add(owner)
        if job.pending.model_job is not None:
            self._executor.promote(job.pending.model_job, priority)
        self._metrics.proposals.labels("joined").inc()
        return job.pending

    def _stored(self, key: ProposalKey, owner: Owner) -> StoredProposal | None:
        path = self._proposal_store.find(key)
        if path is None:
            return None
        try:
            proposal = self._files.load(path)
        except StoreError as error:
            log.warning("%s", error)
            return None
        self._note_owner(key, owner, path, proposal)
        return proposal

    def _start(
        self, key: ProposalKey, request: ProposeRequest, owner: Owner, priority: Priority
    ) -> PendingProposal:
        """Begin a job. The lock is held, so that its end cannot come before its beginning is noted."""
        left = self._left.pop(str(key), None)
        if left is not None:
            job_id = left.id
        else:
            job_id = self._job_store.add(
                KIND,
                str(key),
                project_id=owner[0],
                task_id=owner[1],
                priority=priority,
                expression=key.expression,
                version=key.version,
            )
        pending = PendingProposal(Future())
        earlier_attempts = 0 if left is None else left.attempts
        notes = ProgressNotes(self._database, job_id, earlier_attempts)
        job = _ProposalJob(key, job_id, pending, {owner}, notes, earlier_attempts)
        try:
            pending.model_job = self._executor.submit(request, priority=priority, on_progress=notes)
        except Cancelled as error:
            self._end_cancelled(job, error)
            raise
        notes.model_job = pending.model_job
        self._jobs[key] = job
        pending.model_job.future.add_done_callback(lambda future: self._end(job, future))
        return pending

    def _end(self, job: _ProposalJob, future: Future[ModelAnswer]) -> None:
        error = future.exception()
        proposal = None if error is not None else future.result()
        if error is None and not isinstance(proposal, StoredProposal):
            error = SteerSegError(
                f"the model process answered with {type(proposal).__name__}, not a proposal"
            )
        try:
            if isinstance(proposal, StoredProposal):
                self._keep(job, proposal)
            elif error is not None:
                self._note_failure(job, error)
        except StoreError as trouble:
            # The proposal itself is fine: whoever waits gets it, and it is made anew when asked for again.
            log.error("the end of job %d could not be noted: %s", job.id, trouble)
        finally:
            self._forget(job)
            if isinstance(proposal, StoredProposal):
                job.pending.future.set_result(proposal)
            elif error is not None:
                job.pending.future.set_exception(error)

    def _keep(self, job: _ProposalJob, proposal: StoredProposal) -> None:
        self._metrics.proposals.labels("computed").inc()
        path = self._files.save(job.key, proposal)
        # The first owner's note is what others find the proposal by; only then may the job be forgotten.
        first, *_ = job.owners
        self._note_owner(job.key, first, path, proposal)
        self._forget(job)
        for owner in job.owners - {first}:
            self._note_owner(job.key, owner, path, proposal)
        self._job_store.finish(job.id, JobState.DONE)

    def _forget(self, job: _ProposalJob) -> None:
        with self._lock:
            self._jobs.pop(job.key, None)

    def _note_failure(self, job: _ProposalJob, error: BaseException) -> None:
        if isinstance(error, Cancelled):
            self._metrics.proposals.labels("cancelled").inc()
            self._end_cancelled(job, error)
            return
        self._metrics.proposals.labels("failed").inc()
        message = str(error) if isinstance(error, SteerSegError) else type(error).__name__
        self._job_store.finish(job.id, JobState.FAILED, error=message)

    def _end_cancelled(self, job: _ProposalJob, error: Cancelled) -> None:
        if self._stopping:
            # An orderly end is nobody's fault: it does not count as an attempt.
            self._job_store.requeue(job.id, attempts=job.earlier_attempts)
        else:
            self._job_store.finish(job.id, JobState.CANCELLED, error=str(error))

    def _note_owner(self, key: ProposalKey, owner: Owner, path: str, proposal: StoredProposal) -> None:
        score, margin = proposal.standing
        self._proposal_store.add(
            key,
            project_id=owner[0],
            task_id=owner[1],
            path=path,
            score=score,
            margin=margin,
            calibrated=proposal.confidence is not None,
        )
