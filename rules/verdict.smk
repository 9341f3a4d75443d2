"""The champion and its verdict. Champion and standing configuration are trained again with fresh seeds and measured in turn.

Inputs:   results/{arm}/serving.json of the finalists and of the standing configuration;
          results/{arm}/head/ and rung<top>.acc of both configurations, per fresh seed
Outputs:  results/search/{finalists}/champion-*.json, contest-*.json, verdict-*.json, handoff-*.md, named by what they depend on;
          results/champion/, the head to serve with its card; with an acknowledgement the standing baseline and the perf lake
"""


localrules:
    choose_champion,
    give_verdict,
    publish_verdict,
    write_handoff,


checkpoint choose_champion:
    """Name the finalist with the longest measured acceptance."""
    input:
        standing=f"results/{search.standing.id}/serving.json",
        decision=f"results/search/{search.finalists_folder}/rung{search.top_rung}.json",
        finalists=finalists,
    output:
        champion=filed.champion,
    log:
        "results/logs/choose_champion.log",
    conda:
        "../envs/laptop.yaml"
    params:
        search=search.id,
        standing=search.standing.id,
        finalists=finalist_records,
        asked=experiment.asked,
    script:
        "../scripts/choose_champion.py"


rule measure_contest:
    """Serve champion and standing configuration, trained with fresh seeds, in turn on one node."""
    input:
        made_target,
        champion=filed.champion,
        heads=contest_heads,
        proxies=contest_proxies,
        prompts=sent_prompts,
    output:
        measurements=filed.measurements,
    log:
        "results/logs/measure_contest.log",
    retries: session.retries
    conda:
        "../envs/laptop.yaml"
    resources:
        **takes("serve", settings.serving.devices, session.contest_seconds),
    params:
        bench=describe_bench(experiment),
        search=search.id,
        standing=search.standing.record(),
        verdict=settings.verdict.model_dump(include={"seeds", "repeats"}),
    message:
        "Measuring champion and standing configuration, trained with fresh seeds, in turn in vLLM"
    script:
        "../scripts/measure_contest.py"


rule give_verdict:
    """Judge the champion by what the contest measured."""
    input:
        champion=filed.champion,
        measurements=filed.measurements,
        proxies=contest_proxies,
    output:
        verdict=filed.verdict,
    log:
        "results/logs/give_verdict.log",
    conda:
        "../envs/laptop.yaml"
    params:
        standing=search.standing.record(),
        verdict=settings.verdict.model_dump(),
    script:
        "../scripts/give_verdict.py"


rule hand_over_champion:
    """Put the head to serve, its card and the command that serves it into results/champion/."""
    input:
        champion=filed.champion,
        verdict=filed.verdict,
        measurements=filed.measurements,
        proxies=contest_proxies,
        heads=contest_heads,
    output:
        handover=directory("results/champion"),
    log:
        "results/logs/hand_over_champion.log",
    conda:
        "../envs/laptop.yaml"
    resources:
        **takes("serve", 0),
    params:
        standing=search.standing.record(),
        seeds=settings.verdict.seeds,
        subsets=experiment.subsets,
    script:
        "../scripts/hand_over_champion.py"


rule publish_verdict:
    """Record an improvement as the standing baseline, and every measurement of the contest in the perf lake."""
    input:
        champion=filed.champion,
        verdict=filed.verdict,
        measurements=filed.measurements,
    output:
        publication=filed.publication(settings.ack_publish),
    log:
        "results/logs/publish_verdict.log",
    conda:
        "../envs/laptop.yaml"
    params:
        acknowledged=settings.ack_publish,
        arms=contest_records,
        publish=settings.publish.model_dump(),
    script:
        "../scripts/publish_verdict.py"


rule write_handoff:
    """Say what to try next, from the data, ranked and with cost and command."""
    input:
        verdict=filed.verdict,
        champion=filed.champion,
    output:
        handoff=filed.handoff,
        next_levers=filed.next_levers,
    log:
        "results/logs/write_handoff.log",
    conda:
        "../envs/laptop.yaml"
    script:
        "../scripts/write_handoff.py"
