"""One rung of one arm.

Inputs:   results/{arm}/arm.json, results/{arm}/rung<lower>.state, features, the target
Outputs:  results/{arm}/rung<r>.acc, results/{arm}/rung<r>.state/
"""


localrules:
    describe_arm,


rule describe_arm:
    """Write down what an arm stands for."""
    output:
        arm="results/{arm}/arm.json",
    log:
        "results/logs/describe_arm/{arm}.log",
    params:
        arm=arm_record,
    script:
        "../scripts/describe_arm.py"


rule train_rung:
    """Train an arm on to a rung, from its own state below if there is one, and compute the proxy."""
    input:
        unpack(
            until(
                "train_rung",
                ["results/{arm}/rung{rung}.acc", "results/{arm}/rung{rung}.state"],
                arm="results/{arm}/arm.json",
                target=experiment.target,
                train=f"{experiment.features}/train",
                heldout=f"{experiment.features}/heldout",
                state=state_below,
            )
        ),
    output:
        acc="results/{arm}/rung{rung}.acc",
        state=directory("results/{arm}/rung{rung}.state"),
    log:
        "results/logs/train_rung/{arm}.rung{rung}.log",
    script:
        "../scripts/train_rung.py"
