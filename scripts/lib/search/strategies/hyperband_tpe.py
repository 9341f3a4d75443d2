"""Hyperband whose later brackets learn from the earlier ones, the idea of BOHB (Falkner et al., ICML 2018) with Optuna's estimator."""

from lib.search.samplers.parzen import TPE
from lib.search.strategies.hyperband import schedule
from lib.search.strategy import Strategy

STRATEGY = Strategy(schedule, TPE, options=("bracket",))
