"""The champion: the best arm that vLLM has measured.

Inputs:   results/{arm}/serving.json of the finalists and of the standing configuration
Outputs:  results/champion.json
"""


localrules:
    choose_champion,


rule choose_champion:
    """Name the arm with the longest measured acceptance."""
    input:
        standing=f"results/{search.standing.id}/serving.json",
        decision=f"results/search/{search.finalists_folder}/rung{search.top_rung}.json",
        finalists=finalists,
    output:
        champion="results/champion.json",
    log:
        "results/logs/choose_champion.log",
    params:
        search=search.id,
        standing=search.standing.id,
        asked={**serving, "draft_tokens": draft_tokens},
    script:
        "../scripts/choose_champion.py"
