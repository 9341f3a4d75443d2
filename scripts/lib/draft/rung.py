"""One rung of one arm, from files to files, on one rank or on several."""

import logging
import os
import platform
import socket
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from lib.arm import Arm, reachable
from lib.draft.data import FeatureSet
from lib.draft.evaluate import HeldOutAccuracy, evaluate_head
from lib.draft.heads import HeadSpec
from lib.draft.state import load_state, save_state
from lib.draft.trainer import Recipe, RungOutcome, Training, Trial, start_training, train_rung
from lib.files import whole_directory, write_json
from lib.script import die_with_controller, log_to
from lib.verdict.context import HeldOut, TrainedModel, TrainingConfiguration, TrainingContext, TrainingHardware, TrainingStack
from lib.verdict.record import ProxyRecord, write_record

FAILURE = "failure.json"
"""In place of a state: why an arm that diverged or ran out of memory has none."""

EVALUATION_BATCH = 8
"""Held-out samples per forward pass. The accuracies do not depend on it, beyond rounding."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Places:
    """The files of a rung. `state` is the one to resume from, None to start afresh."""

    target: Path
    train: Path
    heldout: Path
    state: Path | None
    acc_out: Path
    state_out: Path
    log: Path


def run_rung(arm: Arm, rung: int, places: Places) -> None:
    """Train `arm` to `rung`, evaluate it, and write its record and its state.

    With more than one rank the processes are started here, as torchrun starts them. Raises UserError for features or a state that do not
    belong to the arm or are damaged.
    """
    if arm.layout.ranks == 1:
        _run_rank(arm, rung, places)
        return
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=arm.layout.ranks,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=arm.id,
        max_restarts=0,
    )
    elastic_launch(launch, _run_launched_rank)(arm, rung, places)


def _run_launched_rank(arm: Arm, rung: int, places: Places) -> None:
    log_to(places.log, "a")
    die_with_controller()
    _run_rank(arm, rung, places)
    torch.distributed.destroy_process_group()


def _run_rank(arm: Arm, rung: int, places: Places) -> None:
    started = time.monotonic()
    features, unseen = FeatureSet(places.train), FeatureSet(places.heldout)
    training = start_training(head_spec(arm), recipe(arm), trial(arm), places.target, features)
    if places.state is not None:
        load_state(places.state, training)
    resumed_from = training.samples
    outcome = train_rung(training, reachable(arm.recipe["rungs"][rung], arm.global_batch))
    if outcome.status == "ok":
        accuracy = evaluate_head(training.model, training.spec, unseen, EVALUATION_BATCH)
        save_state(places.state_out, training)
    else:
        accuracy = None
        logger.warning("%s: %s", outcome.status, outcome.reason)
        if _is_first_rank():
            with whole_directory(places.state_out) as folder:
                write_json(folder / FAILURE, {"status": outcome.status, "reason": outcome.reason})
    if _is_first_rank():
        context = _context(arm, training, features, unseen)
        seconds = time.monotonic() - started
        write_record(places.acc_out, _record(arm, rung, outcome, accuracy, context, seconds=seconds, resumed_from=resumed_from))


def head_spec(arm: Arm) -> HeadSpec:
    """Return the head an arm trains."""
    draft = arm.recipe["draft"]
    return HeadSpec(
        method=draft["method"],
        num_layers=draft["layers"],
        aux_layers=tuple(draft["aux_layers"]),
        k=draft["ttt_steps"] if draft["method"] == "eagle3" else draft["block_size"] - 1,
        draft_vocab_size=draft["draft_vocab_size"],
        ttt_steps=draft["ttt_steps"],
        block_size=draft["block_size"],
        max_anchors_per_sample=draft["anchors"],
    )


def recipe(arm: Arm) -> Recipe:
    """Return the recipe an arm trains by. The horizon is the top of its ladder, whatever rung it stops at."""
    training = arm.recipe["training"]
    return Recipe(
        horizon=arm.recipe["rungs"][-1],
        floor=training["final_lr_fraction"],
        betas=(training["beta1"], training["beta2"]),
        weight_decay=training["weight_decay"],
        grad_clip=training["grad_clip"],
    )


def trial(arm: Arm) -> Trial:
    """Return what an arm varies."""
    return Trial(global_batch=arm.global_batch, **asdict(arm.layout), lr=arm.lr, warmup=arm.warmup, seed=arm.seed)


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
        rung=rung,
        cap_samples=arm.recipe["rungs"][rung],
        samples=outcome.samples,
        steps=outcome.steps,
        last_lr=outcome.lr,
        train_loss=outcome.train_loss,
        acc0=accuracy.acc0 if accuracy else None,
        accuracies=accuracy.accuracies if accuracy else None,
        head_sha256=outcome.head if accuracy else None,
        wall_seconds=seconds,
        device_seconds=seconds * arm.layout.ranks,
        resumed_from_samples=resumed_from,
    )


def _context(arm: Arm, training: Training, features: FeatureSet, unseen: FeatureSet) -> TrainingContext:
    cuda = training.device.type == "cuda"
    return TrainingContext(
        model=TrainedModel(target_fingerprint=features.target, draft=asdict(training.spec)),
        hardware=TrainingHardware(
            device_type=training.device.type,
            device_name=torch.cuda.get_device_name(training.device) if cuda else platform.processor() or platform.machine(),
            host=socket.gethostname(),
            devices=arm.layout.ranks,
            threads=torch.get_num_threads(),
        ),
        configuration=TrainingConfiguration(recipe=asdict(training.recipe), trial=asdict(training.trial)),
        workload=HeldOut(
            features=arm.recipe["features"],
            train_samples=len(features),
            heldout_samples=len(unseen),
            heldout_tokens=sum(unseen.lengths),
        ),
        stack=TrainingStack(python=platform.python_version(), **{name: version(name) for name in ("speculators", "torch", "transformers")}),
    )


def _is_first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"
