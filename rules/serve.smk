"""Export a head and measure it in vLLM.

Inputs:   results/{arm}/rung<top>.state/, the target, the serving prompts
Outputs:  results/{arm}/head/, results/{arm}/serving.json
"""


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
    """Serve the target with a head and read the acceptance length off the engine's counters."""
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
        **takes("serve", settings.serving.tensor_parallel, session.serving_seconds),
    params:
        bench=describe_bench(experiment),
    message:
        "Measuring {wildcards.arm} in vLLM"
    script:
        "../scripts/measure_serving.py"
