"""Active learning: a potential that labels what it does not know, by a command of the user's."""

from .config import LearnConfig
from .loop import learn

__all__ = ["LearnConfig", "learn"]
