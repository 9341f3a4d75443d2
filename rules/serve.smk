"""Export a head and measure it in vLLM.

Inputs:   results/{arm}/rung<top>.state/, the target, the serving prompts
Outputs:  results/{arm}/head/, results/{arm}/serving.json
"""


rule export_head:
    """Write a trained head in the format vLLM loads."""
    input:
        acc=ancient(f"results/{{arm}}/rung{search.top_rung}.acc"),
        target=ancient(experiment.target),
        state=ancient(f"results/{{arm}}/rung{search.top_rung}.state"),
    output:
        head=directory("results/{arm}/head"),
    log:
        "results/logs/export_head/{arm}.log",
    script:
        "../scripts/export_head.py"


rule measure_serving:
    """Serve the target with a head and read the acceptance length off the engine's counters."""
    input:
        target=ancient(experiment.target),
        acc=ancient(f"results/{{arm}}/rung{search.top_rung}.acc"),
        head=ancient("results/{arm}/head"),
        prompts=ancient(f"{experiment.features}/prompts/serving.jsonl"),
    output:
        serving="results/{arm}/serving.json",
    log:
        "results/logs/measure_serving/{arm}.log",
    params:
        serving=serving,
        method=experiment.space.draft.method,
        draft_tokens=draft_tokens,
    script:
        "../scripts/measure_serving.py"
