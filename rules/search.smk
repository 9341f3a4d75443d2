"""The plan, and the cohort decisions. A cohort decision says which arms train to a rung; every other rule depends on it.

Inputs:   results/{arm}/rung<r-1>.acc of the cohort below. The first cohort of a bracket has no inputs, or the records of all earlier
          brackets if the strategy learns
Outputs:  results/search/plan-<what it depends on>.json; results/search/{bracket}/rung<r>.json
"""


localrules:
    plan,
    decide_cohort,


rule plan:
    """Write what the search will do and its maximum cost. A dry run prints the same."""
    output:
        plan=session.plan,
    log:
        "results/logs/plan.log",
    priority: 1  # status and report read it
    conda:
        "../envs/laptop.yaml"
    script:
        "../scripts/plan.py"


checkpoint decide_cohort:
    """Propose a bracket's first arms, promote the best of the cohort below, or pick the finalists."""
    input:
        decisions=decisions_below,
        evidence=evidence,
    output:
        decision="results/search/{bracket}/rung{rung}.json",
    log:
        "results/logs/decide_cohort/{bracket}.rung{rung}.log",
    conda:
        "../envs/laptop.yaml"
    params:
        search=search.describe(),
    script:
        "../scripts/decide_cohort.py"
