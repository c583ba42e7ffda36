"""The collector: takes finished episodes from outside a run, and has them trained on.

Knows episodes, rewards and admission; knows nothing of prompts, models or who wrote them where.
"""

from realnet.roles.collector.collector import Collector, CollectorConfig

__all__ = ["Collector", "CollectorConfig"]
