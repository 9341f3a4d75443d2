"""One rung of one arm.

Inputs:   results/{arm}/rung<lower>.state, features, the target
Outputs:  results/{arm}/rung<r>.acc, results/{arm}/rung<r>.state/; during training
          results/{arm}/rung<r>.stream/, from which an interrupted attempt resumes
"""


rule train_rung:
    """Train an arm to a rung, resuming from its own state of a lower rung if there is one, and compute the proxy."""
    input:
        made_target,
        train=feature_folders(experiment, "train"),
        heldout=feature_folders(experiment, "heldout"),
        preflight=layout.preflight(experiment.preflight),
        state=state_below,
    output:
        acc="results/{arm}/rung{rung}.acc",
        state=directory("results/{arm}/rung{rung}.state"),
    log:
        "results/logs/train_rung/{arm}.rung{rung}.log",
    retries: session.retries
    conda:
        "../envs/laptop.yaml"
    threads: settings.training.ranks
    resources:
        **takes("train", settings.training.ranks, session.training_seconds),
    params:
        arm=arm_record,
        target=target_folder,
        streaming=session.streaming.model_dump(),
    script:
        "../scripts/train_rung.py"
