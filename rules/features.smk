"""Prompts, the target's responses and its hidden states. With `features.dataset` they come from the data set.

Inputs:   the target; a data set that speculators extracted
Outputs:  resources/features/{features}/prompts/{train,heldout,serving}.jsonl, unless there is a data set
          resources/features/{features}/<part>of<parts>/{train,heldout}/, with a data set resources/features/{features}/{train,heldout}/
"""

if settings.features.dataset:

    rule adopt_dataset:
        """Take rows of a data set that speculators extracted as training and held-out data."""
        input:
            made_target,
        output:
            train=directory(f"{experiment.features}/train"),
            heldout=directory(f"{experiment.features}/heldout"),
        log:
            "results/logs/adopt_dataset.log",
        conda:
            "../envs/laptop.yaml"
        resources:
            **takes("train", 0),
        params:
            target=target_folder,
            dataset=settings.features.dataset,
            described=fingerprints(settings),
            features=settings.features.model_dump(
                include={"train_prompts", "heldout_prompts", "seed"}
            ),
            draft=experiment.space.draft.model_dump(mode="json"),
            ahead=experiment.space.ahead,
        message:
            "Taking rows of the data set"
        script:
            "../scripts/adopt_dataset.py"

else:

    rule write_prompts:
        """Split prompts into disjoint sets for training, held-out data and serving."""
        input:
            made_target,
        output:
            train=f"{experiment.features}/prompts/train.jsonl",
            heldout=f"{experiment.features}/prompts/heldout.jsonl",
            serving=f"{experiment.features}/prompts/serving.jsonl",
        log:
            "results/logs/write_prompts.log",
        conda:
            "../envs/laptop.yaml"
        resources:
            **takes("train", 0),
        params:
            target=target_folder,
            features=settings.features.model_dump(),
        message:
            "Writing prompts"
        script:
            "../scripts/write_prompts.py"

    rule extract_features:
        """Have the engine answer a part of the prompts, and record its answers and hidden states."""
        input:
            made_target,
            train=f"{experiment.features}/prompts/train.jsonl",
            heldout=f"{experiment.features}/prompts/heldout.jsonl",
        output:
            train=directory(f"{experiment.features}/{{part}}of{{parts}}/train"),
            heldout=directory(f"{experiment.features}/{{part}}of{{parts}}/heldout"),
        log:
            "results/logs/extract_features/{part}of{parts}.log",
        retries: session.retries
        conda:
            "../envs/laptop.yaml"
        resources:
            **takes("train", settings.serving.devices),
        params:
            extraction=describe_extraction(experiment),
            streaming=session.streaming.model_dump(),
        message:
            "Recording the target's answers and hidden states, part {wildcards.part} of {wildcards.parts}"
        script:
            "../scripts/extract_features.py"
