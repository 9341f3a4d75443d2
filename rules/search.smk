"""The cohort decision: which arms train to a rung. Every other rule follows from it.

Inputs:   results/{arm}/rung<r-1>.acc of the cohort below; nothing for the first cohort of a bracket
Outputs:  results/search/{bracket}/rung<r>.json
"""


localrules:
    decide_cohort,


checkpoint decide_cohort:
    """Propose a bracket's first arms, promote the best of the cohort below, or pick the finalists."""
    input:
        decisions=ancient(decisions_below),
        evidence=ancient(evidence),
    output:
        decision="results/search/{bracket}/rung{rung}.json",
    log:
        "results/logs/decide_cohort/{bracket}.rung{rung}.log",
    params:
        search=search.describe(),
    script:
        "../scripts/decide_cohort.py"
