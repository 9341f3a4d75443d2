"""Views, ledger and report.

A view is a copy of a filed record under a name that every configuration shares. The ledger has every record of the results tree in one
table. The report has figures and pages for `snakemake --report`. Ledger and report are rebuilt whenever they are requested. Every file of
the report is always written, because Snakemake refuses a report with a missing file. The pages of a half-finished search say what is
missing.

Inputs:   results/
Outputs:  results/plan.json, champion.json, verdict.json, HANDOFF.md; results/ledger.csv, ledger.parquet, calibration.json; results/report/
"""


localrules:
    copy_view,
    build_ledger,
    draw_report,


rule copy_view:
    """Copy a record of this configuration to the name that every configuration shares."""
    input:
        lambda wildcards: views[f"results/{wildcards.view}"],
    output:
        "results/{view}",
    log:
        "results/logs/copy_view/{view}.log",
    priority: 1  # status and report read the plan
    conda:
        "../envs/laptop.yaml"
    shell:
        "cp {input:q} {output:q} 2> {log:q}"


rule build_ledger:
    """Gather every record under results/ into one table."""
    input:
        plan="results/plan.json",
        verdict=filed.verdict,
        records=all_records,
    output:
        csv="results/ledger.csv",
        parquet="results/ledger.parquet",
        calibration="results/calibration.json",
    log:
        "results/logs/build_ledger.log",
    conda:
        "../envs/laptop.yaml"
    script:
        "../scripts/build_ledger.py"


rule draw_report:
    """Draw the figures and pages of the report."""
    input:
        ledger="results/ledger.parquet",
        calibration="results/calibration.json",
        handoff=filed.handoff,
    output:
        verdict=report(
            "results/report/verdict.html",
            caption="captions/verdict.rst",
            category="1 Verdict",
            labels={"page": "1 Verdict card"},
        ),
        acceptance=report(
            "results/report/acceptance.svg",
            caption="captions/acceptance.rst",
            category="1 Verdict",
            labels={"page": "2 Acceptance per position and subset"},
        ),
        curves=report(
            "results/report/curves.svg",
            caption="captions/curves.rst",
            category="2 Search",
            labels={"page": "1 Learning curves"},
        ),
        map=report(
            "results/report/map.svg",
            caption="captions/map.rst",
            category="2 Search",
            labels={"page": "2 Map of lr x global batch"},
        ),
        proxies=report(
            "results/report/proxies.svg",
            caption="captions/proxies.rst",
            category="2 Search",
            labels={"page": "3 Proxy against measured acceptance"},
        ),
        spending=report(
            "results/report/spending.svg",
            caption="captions/spending.rst",
            category="2 Search",
            labels={"page": "4 Samples and device-hours"},
        ),
        levers=report(
            "results/report/levers.html",
            caption="captions/levers.rst",
            category="3 Next levers",
            labels={"page": "What to try next"},
        ),
        ledger=report(
            "results/report/ledger.html",
            caption="captions/ledger.rst",
            category="4 Records",
            labels={"page": "1 Ledger"},
        ),
        provenance=report(
            "results/report/provenance.html",
            caption="captions/provenance.rst",
            category="4 Records",
            labels={"page": "2 Provenance"},
        ),
    log:
        "results/logs/draw_report.log",
    conda:
        "../envs/laptop.yaml"
    script:
        "../scripts/draw_report.py"
