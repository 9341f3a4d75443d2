"""The ledger: every record of the results tree as one table, rebuilt from the tree whenever it is asked for.

Inputs:   results/
Outputs:  results/ledger.csv, results/ledger.parquet, results/calibration.json
"""


localrules:
    build_ledger,


rule build_ledger:
    """Gather every record under results/ into one table."""
    input:
        plan="results/plan.json",
        verdict=filed.verdict,
    output:
        csv="results/ledger.csv",
        parquet="results/ledger.parquet",
        calibration="results/calibration.json",
    log:
        "results/logs/build_ledger.log",
    conda:
        "../envs/laptop.yaml"
    params:
        results=subpath(input.plan, parent=True),
    script:
        "../scripts/build_ledger.py"
