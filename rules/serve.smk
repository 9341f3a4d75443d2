"""Preflight, export and measurement. The preflight serves an untrained head before any head is trained.

Inputs:   results/{arm}/rung<top>.state/, the target, the serving prompts
Outputs:  results/preflight/<what it depends on>/; results/{arm}/head/, results/{arm}/serving.json
"""


rule build_untrained_head:
    """Write a head with random weights and the shape of the heads that will be trained."""
    input:
        made_target,
    output:
        head=directory(layout.untrained_head(experiment.preflight)),
    log:
        "results/logs/build_untrained_head.log",
    priority: 1  # find what cannot be served first
    conda:
        "../envs/laptop.yaml"
    resources:
        **takes("serve", 0),
    params:
        target=target_folder,
        described=fingerprints(settings),
        draft=experiment.space.draft.model_dump(mode="json"),
    script:
        "../scripts/build_untrained_head.py"


rule preflight:
    """Serve the target with an untrained head and send one prompt, to find before any training what cannot be served."""
    input:
        made_target,
        head=layout.untrained_head(experiment.preflight),
        prompts=made_prompts,
    output:
        record=layout.preflight(experiment.preflight),
    log:
        "results/logs/preflight.log",
    priority: 1
    retries: attempts_more
    conda:
        "../envs/laptop.yaml"
    resources:
        **takes("serve", settings.serving.devices, session.serving_seconds),
    params:
        bench=describe_bench(experiment),
    message:
        "Serving an untrained head, to know before any training that heads can be served"
    script:
        "../scripts/preflight.py"


rule export_head:
    """Write a trained head in the format vLLM loads."""
    input:
        made_target,
        acc=f"results/{{arm}}/rung{search.top_rung}.acc",
        state=f"results/{{arm}}/rung{search.top_rung}.state",
    output:
        head=directory("results/{arm}/head"),
    log:
        "results/logs/export_head/{arm}.log",
    conda:
        "../envs/laptop.yaml"
    resources:
        **takes("serve", 0),
    params:
        target=target_folder,
    script:
        "../scripts/export_head.py"


rule measure_serving:
    """Serve the target with a head and read the acceptance length from the engine's counters."""
    input:
        made_target,
        acc=f"results/{{arm}}/rung{search.top_rung}.acc",
        head="results/{arm}/head",
        prompts=made_prompts,
    output:
        serving="results/{arm}/serving.json",
    log:
        "results/logs/measure_serving/{arm}.log",
    retries: attempts_more
    conda:
        "../envs/laptop.yaml"
    resources:
        **takes("serve", settings.serving.devices, session.serving_seconds),
    params:
        bench=describe_bench(experiment),
    message:
        "Measuring {wildcards.arm} in vLLM"
    script:
        "../scripts/measure_serving.py"
