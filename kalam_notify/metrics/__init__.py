"""What /metrics tells of one worker process; scrape.py adds the workers up."""

from kalam_notify.metrics.pulse import Pulse
from kalam_notify.metrics.registry import Metrics, SecondsHistogram, StateCollector

__all__ = ["Metrics", "Pulse", "SecondsHistogram", "StateCollector"]
