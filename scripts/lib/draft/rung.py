"""Train one rung of one arm on one or several ranks, from files to files."""

import logging
import os
import platform
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from lib.arm import Arm, reachable
from lib.config import Streaming
from lib.devices import node
from lib.draft.evaluate import HeldOutAccuracy, evaluate_head
from lib.draft.heads import compute_dtype, describe_vocabulary
from lib.draft.memory import out_of_memory, said
from lib.draft.state import load_state, save_state
from lib.draft.stream import Stream, forget, recover
from lib.draft.trainer import RungOutcome, Tally, Training, start_training, train_rung
from lib.errors import UserError
from lib.features.samples import FeatureSet
from lib.files import whole_directory, write_json
from lib.records.context import HeldOut, TrainedModel, TrainingConfiguration, TrainingContext, TrainingHardware, TrainingStack
from lib.records.measurement import ProxyRecord, write_record
from lib.script import die_with, log_to
from lib.storage import Storage, open_storage

FAILURE = "failure.json"
"""File instead of a state, with the reason why the arm diverged or ran out of memory."""

EVALUATION_BATCH = 8
"""Held-out samples per forward pass. The accuracies depend on it only by rounding."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Places:
    """The files of a rung. `state` is the state at the rung below, None to start from scratch."""

    target: Path
    train: Sequence[Path]
    heldout: Sequence[Path]
    state: Path | None
    acc_out: Path
    state_out: Path
    log: Path

    def stream(self, rung: int) -> Path:
        """Return the folder of the states of a rung in progress."""
        return self.state_out.with_name(f"rung{rung}.stream")


def run_rung(arm: Arm, rung: int, places: Places, streaming: Streaming) -> None:
    """Train `arm` to `rung`, evaluate it, and write its record and its state. An interrupted attempt is resumed.

    Several ranks are started here as torchrun starts them. Raises UserError for features or a state that are damaged or do not belong to
    the arm, and when one of several ranks fails.
    """
    store = _store(arm, streaming)
    if places.state:
        for lower in range(rung):
            forget(places.stream(lower), store)
    streamed = recover(places.stream(rung), store)
    if arm.layout.ranks == 1:
        _run_rank(arm, rung, places, streaming, streamed)
    else:
        _run_ranks(arm, rung, places, streaming, streamed)
    shutil.rmtree(places.stream(rung), ignore_errors=True)


def _run_ranks(arm: Arm, rung: int, places: Places, streaming: Streaming, streamed: Path | None) -> None:
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=arm.layout.ranks,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=arm.id,
        max_restarts=0,
        local_addr="localhost",
    )
    try:
        elastic_launch(launch, _run_launched_rank)(os.getpid(), arm, rung, places, streaming, streamed)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        ended = f"was ended by {failure.signal_name()}" if failure.exitcode < 0 else "failed"
        raise UserError(f"rank {rank} of {arm.layout.ranks} {ended}, so all ranks were ended; see its messages above") from None
    except SignalException as asked:  # the first rank has saved the state
        sys.exit(128 + asked.sigval)


def _run_launched_rank(launcher: int, arm: Arm, rung: int, places: Places, streaming: Streaming, streamed: Path | None) -> None:
    log_to(places.log, "a")
    die_with(launcher)
    asked_to_end = []
    if not _is_first_rank():  # the first rank saves the state with all others, then ends them
        signal.signal(signal.SIGTERM, lambda *_: asked_to_end.append(True))
    torch.set_num_threads(max(1, torch.get_num_threads() // arm.layout.ranks))
    try:
        _run_rank(arm, rung, places, streaming, streamed)
    except UserError as error:
        logger.error("error: %s", error)
        sys.exit(1)
    except Exception:
        if asked_to_end:
            sys.exit(128 + signal.SIGTERM)
        logger.exception("unexpected failure")
        raise
    torch.distributed.destroy_process_group()


def _run_rank(arm: Arm, rung: int, places: Places, streaming: Streaming, streamed: Path | None) -> None:
    started = time.monotonic()
    features, unseen = FeatureSet(*places.train), FeatureSet(*places.heldout)
    training = start_training(arm, places.target, features)
    tally = _resume(training, streamed, places.state)
    seconds_before = tally.seconds
    cap = reachable(arm.recipe["rungs"][rung], arm.point.global_batch)
    first = _is_first_rank()
    with (
        # Closed last, so that other ranks do not wait for a slow store.
        closing(Stream(places.stream(rung), places.log, streaming.every_s, _store(arm, streaming), seconds_before))
        if first
        else nullcontext()
    ) as stream:
        outcome, accuracy = _evaluated(train_rung(training, cap, tally, stream), training, unseen)
        if outcome.status == "ok":
            save_state(places.state_out, training)
        else:
            logger.warning("%s: %s", outcome.status, outcome.reason)
            if first:
                with whole_directory(places.state_out) as folder:
                    write_json(folder / FAILURE, {"status": outcome.status, "reason": outcome.reason})
        if first:
            context = _context(arm, training, features, unseen)
            seconds = seconds_before + time.monotonic() - started
            write_record(places.acc_out, _record(arm, rung, outcome, accuracy, context, seconds=seconds, resumed_from=tally.first))


def _evaluated(outcome: RungOutcome, training: Training, unseen: FeatureSet) -> tuple[RungOutcome, HeldOutAccuracy | None]:
    """Return the outcome of a rung and its held-out accuracy. The evaluation too may run out of memory."""
    if outcome.status != "ok":
        return outcome, None
    try:
        return outcome, evaluate_head(training.model, training.draft, unseen, EVALUATION_BATCH)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return replace(outcome, status="oom", reason=f"in the evaluation: {said(error)}"), None


def _resume(training: Training, streamed: Path | None, below: Path | None) -> Tally:
    """Resume from an earlier attempt at the rung, else from the rung below. Return the tally of the rung."""
    if streamed:
        try:
            tally = load_state(streamed, training)
        except UserError as error:
            logger.warning("passed over: %s", error)
        else:
            logger.info("resuming an earlier attempt at %d samples", training.samples)
            return tally
    return load_state(below, training) if below else Tally()


def _store(arm: Arm, streaming: Streaming) -> Storage | None:
    return open_storage(f"{streaming.url.rstrip('/')}/{arm.id}", "streaming.url") if streaming.url else None


def _record(
    arm: Arm,
    rung: int,
    outcome: RungOutcome,
    accuracy: HeldOutAccuracy | None,
    context: TrainingContext,
    *,
    seconds: float,
    resumed_from: int,
) -> ProxyRecord:
    return ProxyRecord(
        arm=arm.id,
        status=outcome.status,
        reason=outcome.reason or None,
        context=context,
        configuration=arm.record(),
        rung=rung,
        cap_samples=arm.recipe["rungs"][rung],
        samples=outcome.samples,
        steps=outcome.steps,
        last_lr=outcome.lr,
        train_loss=outcome.train_loss,
        acc0=accuracy.acc0 if accuracy else None,
        accuracies=accuracy.accuracies if accuracy else None,
        counted=accuracy.counted if accuracy else None,
        head_sha256=outcome.head if accuracy else None,
        wall_seconds=seconds,
        device_seconds=seconds * arm.layout.ranks,
        resumed_from_samples=resumed_from,
    )


def _context(arm: Arm, training: Training, features: FeatureSet, unseen: FeatureSet) -> TrainingContext:
    cuda = training.device.type == "cuda"
    dtype = str(compute_dtype(training.device)).removeprefix("torch.")
    return TrainingContext(
        model=TrainedModel(target_fingerprint=features.target),
        hardware=TrainingHardware(
            device_type=training.device.type,
            device_name=torch.cuda.get_device_name(training.device) if cuda else platform.processor() or platform.machine(),
            host=node(),
            devices=arm.layout.ranks,
            threads=torch.get_num_threads(),
        ),
        configuration=TrainingConfiguration(compute_dtype=dtype),
        workload=HeldOut(
            features=arm.recipe["features"],
            train_samples=len(features),
            heldout_samples=len(unseen),
            heldout_tokens=sum(unseen.lengths),
            vocabulary=describe_vocabulary(training.model.t2d, features, unseen) if training.draft.draft_vocab_size else None,
        ),
        stack=TrainingStack(python=platform.python_version(), **{name: version(name) for name in ("speculators", "torch", "transformers")}),
    )


def _is_first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"
