"""An experiment is a checked configuration with its target, features and search, and the names derived from them."""

import errno
import os
import platform
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.config import Config, Features, Point, Space, load_space, parse_config
from lib.errors import UserError
from lib.features.chat import identify_template, require_template
from lib.features.conversations import Source, read_source
from lib.features.dataset import check_dataset
from lib.features.description import DescribedTarget, Description, find_description, find_unknown, fingerprints
from lib.files import digest
from lib.publish.baseline import check_folder, read_baseline, require_same_context
from lib.records import layout
from lib.records.layout import VerdictFiles
from lib.search.priors import Refusal, load_priors
from lib.search.search import Search
from lib.serving.bench import engine_settings
from lib.serving.ceilings import load_ceiling
from lib.serving.engine import load_engine
from lib.serving.workload import KEY, longest_texts, read_subsets, require_room
from lib.storage import check_url
from lib.target.tokens import Tokens


@dataclass(frozen=True)
class Experiment:
    """One checked configuration. Folder names are hashes of the inputs of their content, so nothing stale is read."""

    config: Config
    space: Space
    search: Search
    refused: tuple[Refusal, ...]
    target: str
    model: str
    features: str
    sent: dict[str, Source]
    """The subsets of `serving.workload.path`, empty without it."""
    subsets: dict[str, str]
    """Files of the prompts that are sent, by subset."""
    asked: dict[str, Any]
    """The serving settings that decide the meaning of a measurement. Prompts are identified by content, not by path."""
    preflight: str
    """Digest of target, head and serving settings, on which a preflight depends. No other name contains it."""
    hidden_size: int | None
    """Size of the target's hidden states, None while the target is not described."""
    provisional: tuple[str, ...] = ()
    """Reasons, one line each, why the names will differ in the run: their inputs are not on this machine."""


def load_experiment(values: dict[str, Any], *, provisional: bool = False) -> Experiment:
    """Check a whole configuration, including search space and target, and derive every name from it.

    A `provisional` experiment, for a dry run, may name a target, a data set or a manifest that does not exist here. Its names are then
    derived from the paths, and the content is not checked.

    Raises:
        UserError: one line per fault with key, value and cure.
    """
    config = parse_config(values)
    _require_readable(config)
    space = load_space(Path(config.space))
    unknown = find_unknown(config) if provisional else ()
    if unknown and config.seed_from:
        unknown += (f"seed_from={config.seed_from} is not used in this plan: prior arms match by a description of target and data",)
    described = find_description(config) if config.target.path and not unknown else None
    if not unknown:
        _check_fit(config, space, described)
    if len(set(space.draft.aux_layers)) < len(space.draft.aux_layers):
        raise UserError(f"{config.space}: draft.aux_layers = {list(space.draft.aux_layers)} repeat; list each layer once")
    if not config.features.dataset and config.features.response_tokens <= space.ahead:
        raise UserError(
            f"features.response_tokens = {config.features.response_tokens} leaves no room to draft {space.ahead} tokens ahead; raise it"
        )
    if config.target.path:
        target = config.target.path
        target_id = described.target.fingerprint if described else digest(["unknown", target], 12)
        model = described.target.name if described else Path(target).name
    else:
        target_id = digest([config.target.tiny.model_dump(), platform.python_version()])
        target, model = layout.resource("target", target_id), f"tiny-llama-{target_id}"
    template = identify_template(config.features.chat_template)
    prompts = read_source(Path(config.features.prompts)) if config.features.prompts else None
    workload = config.serving.workload.path
    missing = provisional and workload is not None and not Path(workload).exists()
    if missing:
        unknown += (f"{KEY}={workload} does not exist yet: the verdict's files will have other names in the run",)
    sent = read_subsets(Path(workload)) if workload and not missing else {}
    if described or not config.target.path:
        for source in [*([prompts] if prompts else []), *sent.values()]:
            require_template(source, config.features.chat_template, own=described is not None and described.target.chat_template)
    if prompts:
        _check_prompts(prompts, config.features)
    features_id = digest([target_id, *_samples(config, described, template, prompts), space.draft.aux_layers])
    recipe = {
        "target": target_id,
        "features": features_id,
        "draft": space.draft.model_dump(mode="json"),
        "training": config.training.model_dump(mode="json", exclude={"ranks", "micro_batch_limit"}),
        "rungs": list(space.rungs.samples),
    }
    features = layout.resource("features", features_id)
    asked = _asked(config, space, described, template, sent, missing=missing)
    contents = asked["workload"]["subsets"]
    written = layout.resource("workload", digest([target_id, contents])) if contents else f"{features}/prompts"
    subsets = {name: f"{written}/{name}.jsonl" for name in contents or ["serving"]}
    if described:
        _check_tokens(config, described.target, sent, prompts)
    if config.baseline:
        baseline = read_baseline(Path(config.baseline))
        if not unknown:
            require_same_context(Path(config.baseline), baseline, recipe, asked)
        space = space.model_copy(update={"standing": Point.model_validate(baseline.current["point"])})
    k = space.objective.draft_tokens
    if config.verdict.smallest_effect >= k:
        raise UserError(
            f"verdict.smallest_effect = {config.verdict.smallest_effect:g} cannot be reached: drafting {k} tokens gains {k}; lower it"
        )
    if config.ack_publish:
        check_folder(Path(config.publish.baselines), "publish.baselines")
    if config.publish.lake and (folder := check_url(config.publish.lake, "publish.lake")):
        check_folder(folder, "publish.lake")
    if config.streaming.url:
        check_url(config.streaming.url, "streaming.url")
    priors, refused = load_priors(Path(config.seed_from), space, config.training, recipe) if config.seed_from and not unknown else ((), ())
    search = Search(
        space=space,
        training=config.training,
        seed=config.seed,
        recipe=recipe,
        top_k=config.serving.top_k,
        strategy=config.strategy,
        options=config.search,
        priors=priors,
    )
    search.check()
    size = config.target.tiny.hidden if not config.target.path else described.target.facts.hidden_size if described else None
    preflight = digest([target_id, recipe["draft"], {**asked, "repeats": None}], 12)
    return Experiment(config, space, search, refused, target, model, features, sent, subsets, asked, preflight, size, unknown)


def named_files(config: Config) -> dict[str, str]:
    """Return the files and folders that a configuration names, by key."""
    named = {
        "space": config.space,
        "seed_from": config.seed_from,
        "baseline": config.baseline,
        "manifest": config.manifest,
        "target.path": config.target.path,
        "features.prompts": config.features.prompts,
        "features.dataset": config.features.dataset,
        "features.chat_template": config.features.template_file,
        "serving.workload.path": config.serving.workload.path,
    }
    return {key: path for key, path in named.items() if path}


def waits_for_records(config: Config) -> bool:
    """Return whether a configuration names a file below results/ that is not here, such as the space of a lever. A bucket may have it."""
    return any(Path(path).parts[:1] == (layout.RESULTS,) and not Path(path).exists() for path in named_files(config).values())


def _require_readable(config: Config) -> None:
    """Raise UserError for a file or folder that exists but cannot be read by this process."""
    for key, path in named_files(config).items():
        try:
            if not os.access(path, os.R_OK | (os.X_OK if stat.S_ISDIR(Path(path).stat().st_mode) else 0)):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except (FileNotFoundError, NotADirectoryError):
            continue  # its reader reports a missing file
        except OSError as error:
            raise UserError(f"{key} = {path!r} cannot be read ({error.strerror}); make it readable, or choose another") from None


def verdict_files(experiment: Experiment) -> VerdictFiles:
    """Return the paths of an experiment's champion and verdict."""
    search, options = experiment.search, experiment.config.verdict
    folder = layout.search(search.finalists_folder)
    measured = [search.standing.id, experiment.asked]
    contested = digest([measured, options.seeds, options.repeats])
    name = digest([search.id, contested, options.confidence, options.smallest_effect])
    publish, engines = experiment.config.publish, experiment.config.serving.engines
    return VerdictFiles(
        champion=f"{folder}/champion-{digest(measured)}.json",
        measurements=f"{folder}/contest-{contested}.json",
        verdict=f"{folder}/verdict-{name}.json",
        handoff=f"{folder}/handoff-{name}.md",
        next_levers=f"{folder}/next-{name}.txt",
        publications=f"{folder}/publication-{{verdict}}-{digest(publish.model_dump())}.json",
        servings=f"{folder}/servings-{digest([measured, engines])}-{{engine}}",
        engines=engines,
    )


def describe_bench(experiment: Experiment) -> dict[str, Any]:
    """Return the serving settings shared by all arms of an experiment as plain data for `lib.serving.bench.make_bench`."""
    config = experiment.config
    workload = config.serving.workload
    prompts = config.features.prompts or f"the standard library of Python {platform.python_version()}"
    return {
        "target": experiment.target,
        "model": experiment.model,
        "method": experiment.space.draft.served_as,
        "k": experiment.space.objective.draft_tokens,
        "subsets": experiment.subsets,
        "workload": workload.model_dump(exclude={"path"}),
        "dataset": Path(workload.path).name if workload.path else f"set aside from {prompts}",
        "asked": experiment.asked,
        "start_timeout_s": config.serving.start_timeout_s,
        "ceiling": config.serving.sol_ceiling,
        "described": {key: fact for key, fact in fingerprints(config).items() if key == "target.path"},
    }


def describe_extraction(experiment: Experiment) -> dict[str, Any]:
    """Return the settings of the extraction as plain data for `scripts/extract_features.py`."""
    config = experiment.config
    features = config.features
    sampling = {name: getattr(features, name) for name in ("temperature", "top_p", "top_k")}
    return {
        "target": experiment.target,
        "draft": experiment.space.draft.model_dump(mode="json"),
        "asked": experiment.asked | {"max_num_seqs": features.concurrency, "max_model_len": _extracted_tokens(config)},
        "most": features.response_tokens,
        "sampling": {name: value for name, value in sampling.items() if value is not None} | {"seed": features.seed},
        "states_dtype": features.states_dtype,
        "concurrency": features.concurrency,
        "start_timeout_s": config.serving.start_timeout_s,
        "described": fingerprints(config),
    }


def feature_folders(experiment: Experiment, split: str) -> list[str]:
    """Return the folders with the samples of a split, in order."""
    features = experiment.config.features
    if features.dataset:
        return [f"{experiment.features}/{split}"]
    return [f"{experiment.features}/{part}of{features.engines}/{split}" for part in range(1, features.engines + 1)]


def _extracted_tokens(config: Config) -> int:
    """Return the longest sequence of the extraction. The engine always generates one more token."""
    return config.features.prompt_tokens + config.features.response_tokens + 1


def _check_fit(config: Config, space: Space, described: Description | None) -> None:
    """Raise UserError for a head, sequences or a data set that do not fit the target."""
    tiny = config.target.tiny
    vocab_size, layers, positions, heads = tiny.vocab_size, tiny.layers, tiny.context, tiny.heads
    if described:
        facts = described.target.facts
        vocab_size, layers, positions, heads = facts.vocab_size, facts.num_layers, facts.max_positions, facts.heads or 0
        if described.target.code and not config.target.trust_remote_code:
            raise UserError(
                f"target.path={config.target.path}: {described.target.code} names code in the model directory (auto_map); read that "
                "code and set target.trust_remote_code to true, or remove auto_map from a copy if transformers has the architecture"
            )
    if heads % config.serving.tensor_parallel:
        raise UserError(
            f"serving.tensor_parallel = {config.serving.tensor_parallel} does not divide the target's {heads} attention heads; lower it"
        )
    if said := space.draft.misfit(vocab_size):
        raise UserError(f"{config.space}: {said}")
    outside = [layer for layer in space.draft.aux_layers if not 0 <= layer < layers]
    if outside:
        raise UserError(f"{config.space}: draft.aux_layers = {outside[0]} is outside the target's layers 0 to {layers - 1}; choose within")
    lengths = {"serving.max_model_len": config.serving.max_model_len}
    if not config.features.dataset:
        lengths["features.prompt_tokens + features.response_tokens + 1"] = _extracted_tokens(config)
    for key, length in lengths.items():
        if length > positions:
            raise UserError(f"{key} = {length} is more than the target's {positions} positions; lower it")
    if described and described.dataset:
        wanted = config.features.train_prompts + config.features.heldout_prompts
        check_dataset(described.dataset.path, described.dataset.facts, described.target.facts, space.draft.aux_layers, wanted)


def _check_prompts(prompts: Source, features: Features) -> None:
    """Raise UserError for prompts of the user that are too few or cannot be used."""
    prompts.require_few_dropped(features.max_dropped)
    if features.answers == "given" and prompts.plain:
        raise UserError(
            f"features.answers = 'given', but features.prompts={prompts.path} holds plain prompts without answers; set it to regenerate"
        )
    distinct, wanted = len(prompts.identity), features.train_prompts + features.heldout_prompts + features.serving_prompts
    if distinct < wanted:
        raise UserError(
            f"features.prompts = {features.prompts!r} holds {distinct} distinct prompts, but features.train_prompts + heldout_prompts + "
            f"serving_prompts = {wanted}; add prompts or lower these"
        )


def _check_tokens(config: Config, target: DescribedTarget, subsets: dict[str, Source], prompts: Source | None) -> None:
    """Raise UserError for a user's prompts that the target or the engine cannot take, if the target's tokenizer is here."""
    if not (prompts or subsets) or not Path(target.path, "tokenizer.json").is_file():
        return
    tokens = Tokens(Path(target.path), target.facts.vocab_size)
    for source in (prompts, *subsets.values()):
        if source:
            tokens.check(list(source.texts()))
    workload = config.serving.workload
    longest = longest_texts(subsets, workload.prompts_per_subset, tokens.fewest)
    require_room(longest, workload.output_tokens, config.serving.max_model_len)


def _asked(
    config: Config, space: Space, described: Description | None, template: str, subsets: dict[str, Source], *, missing: bool
) -> dict[str, Any]:
    """Return the serving settings that decide the meaning of a measurement. `missing`: the named workload does not exist yet."""
    serving, workload, features = config.serving, config.serving.workload, config.features
    contents = {
        name: digest([template, features.template_arguments, [one.content for one in source.conversations]], 64)
        for name, source in subsets.items()
    }
    fewest = min((len(source.conversations) for source in subsets.values()), default=features.serving_prompts)
    if missing:
        contents, fewest = {"unknown": str(workload.path)}, workload.prompts_per_subset or 0
    if workload.prompts_per_subset is not None and workload.prompts_per_subset > fewest:
        raise UserError(f"serving.workload.prompts_per_subset = {workload.prompts_per_subset}, but a subset holds {fewest}; lower it")
    if serving.sol_ceiling:
        load_ceiling(serving.sol_ceiling)
        if workload.concurrency > 1:
            raise UserError(
                f"serving.sol_ceiling = {serving.sol_ceiling!r}: with serving.workload.concurrency = {workload.concurrency} decoding is "
                "not bound by memory bandwidth alone; set it to 1, or leave sol_ceiling empty"
            )
        if described and not described.target.dense:
            raise UserError(
                f"serving.sol_ceiling = {serving.sol_ceiling!r}: the target {described.target.path} has experts that a step reads only "
                "in part, or no .safetensors weights to count; leave it empty"
            )
    asked = {
        **serving.model_dump(exclude={"top_k", "engines", "start_timeout_s", "workload"}),
        **({"trust_remote_code": True} if config.target.trust_remote_code else {}),
        "workload": {**workload.model_dump(exclude={"path"}), "subsets": contents or None},
        "draft_tokens": space.objective.draft_tokens,
    }
    load_engine(serving.engine).check(engine_settings(asked))
    return asked


def _samples(config: Config, described: Description | None, template: str, prompts: Source | None) -> tuple[dict[str, Any], Any]:
    """Return the settings that affect the samples, and the identity of their prompts or data set.

    Prompts are known by the distinct lines of the file and the chat template, or by the Python version of the standard library.
    """
    features, serving = config.features, config.serving
    if features.dataset:
        source = described.dataset.facts.fingerprint if described and described.dataset else ["unknown", features.dataset]
        return features.model_dump(include={"train_prompts", "heldout_prompts", "seed"}), source
    identity = [template, prompts.identity] if prompts else platform.python_version()
    settings = features.model_dump(exclude={"prompts", "dataset", "chat_template", "max_dropped", "concurrency", "engines"})
    ends = described.target.facts.end_tokens if described else ()
    return settings | {"engine": serving.engine, "dtype": serving.dtype, "ends": ends}, identity
