"""From a configuration to one experiment: which target, which features, which search, under which names."""

import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.config import Config, Features, Point, Space, load_space, parse_config
from lib.draft.dataset import check_dataset, dataset_fingerprint
from lib.errors import UserError
from lib.files import digest
from lib.prompts import read_prompts
from lib.search.priors import Refusal, load_priors
from lib.search.search import Search
from lib.serving.workload import find_subsets
from lib.target.load import check_target, target_fingerprint
from lib.verdict.baseline import check_folder, read_baseline, require_same_context
from lib.verdict.ceilings import load_ceiling, require_dense


@dataclass(frozen=True)
class Experiment:
    """One checked configuration. Folders are named by the content that goes into them, so nothing stale is ever read."""

    config: Config
    space: Space
    search: Search
    refused: tuple[Refusal, ...]
    target: str
    model: str
    features: str
    subsets: dict[str, str]
    asked: dict[str, Any]
    """The serving settings that decide what a measurement means: prompts by their content, not by where they lie."""


def load_experiment(values: dict[str, Any]) -> Experiment:
    """Check a whole configuration, the search space and the named target included, and derive every name from it.

    Raises:
        UserError: one line per fault, naming key, value and cure.
    """
    config = parse_config(values)
    space = load_space(Path(config.space))
    vocab_size, layers, positions = _check_target(config)
    if space.draft.draft_vocab_size is not None and space.draft.draft_vocab_size > vocab_size:
        raise UserError(
            f"{config.space}: draft.draft_vocab_size = {space.draft.draft_vocab_size} is larger than the target's vocabulary of "
            f"{vocab_size}; lower it, or leave it empty for the whole vocabulary"
        )
    outside = [layer for layer in space.draft.aux_layers if not 0 <= layer < layers]
    if outside:
        raise UserError(f"{config.space}: draft.aux_layers = {outside[0]} is outside the target's layers 0 to {layers - 1}; choose within")
    if len(set(space.draft.aux_layers)) < len(space.draft.aux_layers):
        raise UserError(f"{config.space}: draft.aux_layers = {list(space.draft.aux_layers)} repeat; list each layer once")
    ahead = max(space.objective.draft_tokens, space.draft.ttt_steps, space.draft.block_size)
    longest = config.serving.max_model_len
    if not config.features.dataset:
        longest = max(longest, config.features.prompt_tokens + config.features.response_tokens)
        if config.features.response_tokens <= ahead:
            raise UserError(
                f"features.response_tokens = {config.features.response_tokens} leaves no room to draft {ahead} tokens ahead; raise it"
            )
    if longest > positions:
        raise UserError(
            f"sequences of {longest} tokens do not fit the target's {positions} positions; lower features.prompt_tokens, "
            "features.response_tokens or serving.max_model_len"
        )
    if config.target.path:
        target, target_id = config.target.path, target_fingerprint(Path(config.target.path))
        model = Path(target).resolve().name
    else:
        target_id = digest([config.target.tiny.model_dump(), platform.python_version()])
        target, model = f"resources/target/{target_id}", f"tiny-llama-{target_id}"
    features_id = digest([target_id, *_samples(config, space), space.draft.aux_layers])
    recipe = {
        "target": target_id,
        "features": features_id,
        "draft": space.draft.model_dump(mode="json"),
        "training": config.training.model_dump(mode="json", exclude={"ranks", "micro_batch_limit"}),
        "rungs": list(space.rungs.samples),
    }
    features = f"resources/features/{features_id}"
    subsets, asked = _serving(config, space, features)
    if config.baseline:
        baseline = read_baseline(Path(config.baseline))
        require_same_context(Path(config.baseline), baseline, recipe, asked)
        space = space.model_copy(update={"standing": Point.model_validate(baseline.current["point"])})
    k = space.objective.draft_tokens
    if config.verdict.smallest_effect >= k:
        raise UserError(
            f"verdict.smallest_effect = {config.verdict.smallest_effect:g} cannot be reached: drafting {k} tokens gains {k}; lower it"
        )
    if config.ack_publish:
        check_folder(Path(config.publish.baselines), "publish.baselines")
    if config.publish.lake:
        from lib.verdict.lake import check_lake  # pyarrow, which few configurations need here

        check_lake(config.publish.lake)
    if config.streaming.url:
        from lib.store import check_store  # fsspec, which few configurations need here

        check_store(config.streaming.url, "streaming.url")
    priors, refused = load_priors(Path(config.seed_from), space, config.training, recipe) if config.seed_from else ((), ())
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
    return Experiment(config, space, search, refused, target, model, features, subsets, asked)


def _serving(config: Config, space: Space, features: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the prompt files by subset, and the settings that are asked for."""
    serving, workload = config.serving, config.serving.workload
    if workload.path:
        files = {name: str(path) for name, path in find_subsets(Path(workload.path), "serving.workload.path").items()}
        fewest = min(len(read_prompts(Path(path), "serving.workload.path")) for path in files.values())
        contents = {name: hashlib.sha256(Path(path).read_bytes()).hexdigest() for name, path in files.items()}
    else:
        files, contents, fewest = {"serving": f"{features}/prompts/serving.jsonl"}, None, config.features.serving_prompts
    if workload.prompts_per_subset is not None and workload.prompts_per_subset > fewest:
        raise UserError(f"serving.workload.prompts_per_subset = {workload.prompts_per_subset}, but a subset holds {fewest}; lower it")
    if serving.sol_ceiling:
        load_ceiling(serving.sol_ceiling)
        if workload.concurrency > 1:
            raise UserError(
                f"serving.sol_ceiling = {serving.sol_ceiling!r}: with serving.workload.concurrency = {workload.concurrency} decoding is "
                "not bound by memory bandwidth alone; set it to 1, or leave sol_ceiling empty"
            )
        if config.target.path:
            require_dense(Path(config.target.path), serving.sol_ceiling)
    asked = {
        **serving.model_dump(exclude={"top_k", "start_timeout_s", "workload"}),
        "workload": {**workload.model_dump(exclude={"path"}), "subsets": contents},
        "draft_tokens": space.objective.draft_tokens,
    }
    return files, asked


def _check_target(config: Config) -> tuple[int, int, int]:
    """Return the target's vocabulary size, number of layers and positions."""
    if config.target.path:
        facts = check_target(Path(config.target.path))
        return facts.vocab_size, facts.num_layers, facts.max_positions
    tiny = config.target.tiny
    return tiny.vocab_size, tiny.layers, tiny.context


def _samples(config: Config, space: Space) -> tuple[dict[str, Any], Any]:
    """Return the settings of the features that count, and what the samples depend on."""
    features = config.features
    if not features.dataset:
        return features.model_dump(exclude={"prompts", "dataset"}), _prompts(features)
    facts = check_target(Path(config.target.path or ""))
    check_dataset(Path(features.dataset), facts, space.draft.aux_layers, features.train_prompts + features.heldout_prompts)
    return features.model_dump(include={"train_prompts", "heldout_prompts", "seed"}), dataset_fingerprint(Path(features.dataset))


def _prompts(features: Features) -> list[str] | str:
    """Return what the prompts depend on: the distinct ones of the file that is named, sorted, or the version of Python and its library."""
    if features.prompts is None:
        return platform.python_version()
    distinct = sorted(set(read_prompts(Path(features.prompts))))
    wanted = features.train_prompts + features.heldout_prompts + features.serving_prompts
    if len(distinct) < wanted:
        raise UserError(
            f"features.prompts = {features.prompts!r} holds {len(distinct)} distinct prompts, but features.train_prompts + "
            f"heldout_prompts + serving_prompts = {wanted}; add prompts or lower these"
        )
    return distinct
