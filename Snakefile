"""Tune a draft head's training hyperparameters for the acceptance length that vLLM measures."""

from snakemake.utils import min_version

min_version("9.27")


configfile: "config/config.yaml"


report: "rules/captions/workflow.rst"


include: "rules/common.smk"
include: "rules/target.smk"
include: "rules/features.smk"
include: "rules/search.smk"
include: "rules/train.smk"
include: "rules/serve.smk"
include: "rules/verdict.smk"
include: "rules/report.smk"


onstart:
    with refuse():
        session.start(workflow)


onsuccess:
    with refuse():
        session.succeed(workflow)


onerror:
    session.fail(log)


rule all:
    """Search, serve the finalists, choose and judge the champion, and write ledger, report and next steps."""
    default_target: True
    input:
        layout.acc(search.standing.id, search.top_rung),  # trained beside the search
        all_records,
        filed.measurements,
        list(views),
        "results/champion",
        ([filed.publication(settings.ack_publish)] if settings.ack_publish else []),
        "results/ledger.csv",
        "results/ledger.parquet",
        "results/report/verdict.html",
