"""Have the engine answer a part of the training and held-out prompts, and record its answers and hidden states."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lib.config import Streaming
from lib.devices import hold_gpus
from lib.draft.heads import learnt_output
from lib.features.description import require_described
from lib.features.extract import Agreement, Answering, Extraction, extract_features, part_of
from lib.features.prompts import read_prompts
from lib.methods import read_draft
from lib.script import here, running
from lib.serving.bench import engine_settings
from lib.serving.engine import load_engine
from lib.storage import open_storage
from lib.target.load import check_target, target_fingerprint
from lib.target.output import require_weights

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0], snakemake.resources.get("spends")):
        told = snakemake.params.extraction
        require_described(told["described"])
        target, draft = Path(told["target"]), read_draft(told["draft"])
        facts, layers = check_target(target), list(draft.aux_layers)
        settings = engine_settings(told["asked"], snakemake.threads)
        hold_gpus(settings.devices)
        out = {split: here(snakemake.output[split]) for split in ("heldout", "train")}
        part, parts = int(snakemake.wildcards.part), int(snakemake.wildcards.parts)
        work = out["train"].parent.with_name(f"{part}of{parts}.work")
        streaming = Streaming.model_validate(snakemake.params.streaming)
        log = Path(snakemake.log[0]).with_suffix(".server.log")
        with load_engine(told["asked"]["engine"]).extracting(target, [*layers, facts.num_layers], settings, log) as extractor:
            require_weights(target)
            agreement = Agreement(learnt_output(draft, target), target)
            extractor.wait_until_ready(told["start_timeout_s"])
            extract_features(
                Extraction(
                    extractor=extractor,
                    answering=Answering(told["most"], facts.end_tokens, told["sampling"]),
                    agreement=agreement,
                    work=work,
                    store=open_storage(f"{streaming.url.rstrip('/')}/{work.parent.name}", "streaming.url") if streaming.url else None,
                    dtype=getattr(torch, told["states_dtype"]) if told["states_dtype"] else None,
                ),
                {split: part_of(read_prompts(here(snakemake.input[split])), part, parts) for split in out},
                out,
                concurrency=told["concurrency"],
                target=target_fingerprint(target),
                aux_layers=layers,
                hidden_size=facts.hidden_size,
            )
