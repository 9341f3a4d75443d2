"""Prompts, the target's responses and its hidden states. With `features.dataset` they come from the data set.

Inputs:   the target; a data set that speculators extracted
Outputs:  resources/features/{features}/prompts/{train,heldout,serving}.jsonl, unless there is a data set
          resources/features/{features}/{train,heldout}/
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
            aux_layers=list(experiment.space.draft.aux_layers),
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
        """Record the target's greedy responses to prompts, and its hidden states."""
        input:
            made_target,
            prompts=f"{experiment.features}/prompts/{{split}}.jsonl",
        output:
            features=directory(f"{experiment.features}/{{split}}"),
        log:
            "results/logs/extract_features.{split}.log",
        retries: attempts_more
        conda:
            "../envs/laptop.yaml"
        resources:
            **takes("train", 1),
        params:
            target=target_folder,
            described=fingerprints(settings),
            response_tokens=settings.features.response_tokens,
            aux_layers=list(experiment.space.draft.aux_layers),
        message:
            "Recording the target's responses and hidden states: {wildcards.split}"
        script:
            "../scripts/extract_features.py"
