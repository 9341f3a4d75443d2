"""The champion: the best arm that vLLM has measured.

Inputs:   results/{arm}/serving.json of the finalists and of the standing configuration
Outputs:  results/search/{finalists}/champion-{asked}.json, filed by what it depends on, and a copy as results/champion.json
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
        champion=champion,
        view="results/champion.json",
    log:
        "results/logs/choose_champion.log",
    params:
        search=search.id,
        standing=search.standing.id,
        asked=asked,
    script:
        "../scripts/choose_champion.py"
