"""Preflight, export and measurement. The preflight serves an untrained head before any head is trained.

Inputs:   results/{arm}/rung<top>.state/, the target, the serving prompts or the workload
Outputs:  resources/workload/, if the configuration names a workload; results/preflight/<what it depends on>/; results/{arm}/head/;
          results/search/{finalists}/servings-<what they depend on>-{engine}/, of which results/{arm}/serving.json is filed
"""

if settings.serving.workload.path:

    rule write_workload:
        """Write the prompts of the workload as the target receives them."""
        input:
            made_target,
        output:
            sent_prompts,
        log:
            "results/logs/write_workload.log",
        priority: 1
        conda:
            "../envs/laptop.yaml"
        resources:
            **takes("serve", 0),
        params:
            target=target_folder,
            described=fingerprints(settings),
            workload=settings.serving.workload.path,
            features=settings.features.model_dump(),
        message:
            "Writing the prompts of the workload"
        script:
            "../scripts/write_workload.py"


localrules:
    file_serving,


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
        prompts=sent_prompts,
    output:
        record=layout.preflight(experiment.preflight),
    log:
        "results/logs/preflight.log",
    priority: 1
    retries: session.retries
    conda:
        "../envs/laptop.yaml"
    resources:
        **takes("serve", settings.serving.devices, session.preflight_seconds),
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
    """Serve the target with finalists and standing configuration, one head after the other in one engine, and read its counters."""
    input:
        made_target,
        proxies=served(partial(layout.acc, rung=search.top_rung)),
        heads=served(layout.head),
        prompts=sent_prompts,
    output:
        servings=temp(directory(filed.servings)),
    log:
        "results/logs/measure_serving.{engine}.log",
    retries: session.retries
    conda:
        "../envs/laptop.yaml"
    resources:
        **takes("serve", settings.serving.devices, session.serving_seconds),
    params:
        bench=describe_bench(experiment),
        standing=search.standing.id,
        streaming=session.streaming.model_dump(),
    message:
        "Measuring finalists and standing configuration in vLLM"
    script:
        "../scripts/measure_serving.py"


rule file_serving:
    """File the measurement of an arm with the arm."""
    input:
        servings=measured_servings,
    output:
        serving="results/{arm}/serving.json",
    log:
        "results/logs/file_serving/{arm}.log",
    conda:
        "../envs/laptop.yaml"
    shell:
        "cp {input.servings:q}/{wildcards.arm:q}.json {output.serving:q} 2> {log:q}"
