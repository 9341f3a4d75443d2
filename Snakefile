"""Tune a draft head's training hyperparameters for the acceptance length that vLLM measures."""

from snakemake.utils import min_version

min_version("9.0")


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
        require_jobs_acknowledged(workflow, settings)
        if not store:
            require_installed()
        refresh_views()  # where only one file was asked for, nothing has done so yet
        hold_results(Path("results"))
    os.environ[CONTROLLER] = identity()
    logger.info(progress.opening())


onsuccess:
    if store:
        store.pull(prefix)
    # Imported here for scipy and pyarrow, which nothing else in this process needs.
    from lib.report.outcome import last_words

    with refuse():
        for line in last_words(Path(), filed, settings.publish):
            logger.info(line)


onerror:
    if store:
        store.pull(prefix)
    logger.info(f"Snakemake's own log: {', '.join(log)}")


rule all:
    """Search, serve the finalists, name the champion, judge it, write ledger, report and what to try next."""
    default_target: True
    input:
        plan_file,
        filed.champion,
        filed.measurements,
        filed.verdict,
        views,
        ([filed.publication(settings.ack_publish)] if settings.ack_publish else []),
        filed.handoff,
        "results/ledger.csv",
        "results/ledger.parquet",
        "results/report/verdict.html",
