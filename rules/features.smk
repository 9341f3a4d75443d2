"""Prompts, the target's responses to them, and the hidden states along the way.

Inputs:   the target
Outputs:  resources/features/{features}/prompts/{train,heldout,serving}.jsonl
          resources/features/{features}/{train,heldout}/
"""


rule write_prompts:
    """Split prompts into training, held-out and serving prompts that share nothing."""
    input:
        unpack(
            until(
                [
                    f"{experiment.features}/prompts/{split}.jsonl"
                    for split in ("train", "heldout", "serving")
                ],
                target=experiment.target,
            )
        ),
    output:
        train=f"{experiment.features}/prompts/train.jsonl",
        heldout=f"{experiment.features}/prompts/heldout.jsonl",
        serving=f"{experiment.features}/prompts/serving.jsonl",
    log:
        "results/logs/write_prompts.log",
    conda:
        "../envs/laptop.yaml"
    params:
        features=settings.features.model_dump(exclude={"prompts"}),
    message:
        "Writing prompts"
    script:
        "../scripts/write_prompts.py"


rule extract_features:
    """Record the target's greedy responses to prompts, with its hidden states."""
    input:
        unpack(
            until(
                [f"{experiment.features}/{{split}}"],
                target=experiment.target,
                prompts=f"{experiment.features}/prompts/{{split}}.jsonl",
            )
        ),
    output:
        features=directory(f"{experiment.features}/{{split}}"),
    log:
        "results/logs/extract_features.{split}.log",
    conda:
        "../envs/laptop.yaml"
    params:
        response_tokens=settings.features.response_tokens,
        aux_layers=list(experiment.space.draft.aux_layers),
    message:
        "Recording the target's responses and hidden states: {wildcards.split}"
    script:
        "../scripts/extract_features.py"
