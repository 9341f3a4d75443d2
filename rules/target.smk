"""The tiny target of the embedded default. With `target.path`, that model is used unchanged and no rule is defined.

Outputs:  resources/target/{target}/
"""

if settings.target.path is None:

    rule train_target:
        """Train the tiny target and its tokenizer on the Python standard library."""
        output:
            model=directory(experiment.target),
        log:
            "results/logs/train_target.log",
        conda:
            "../envs/laptop.yaml"
        resources:
            **takes("train", 0),
        params:
            tiny=settings.target.tiny.model_dump(),
        message:
            "Training the tiny target"
        script:
            "../scripts/train_target.py"
