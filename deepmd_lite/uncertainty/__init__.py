"""How far to trust a model: a committee that differs in the last layer alone, fitted after the
training to its data, calibrated by errors on others, and kept in the model's file."""

from .calibration import Calibration, compared
from .fit import Fitted, add_uncertainty

__all__ = ["Calibration", "Fitted", "add_uncertainty", "compared"]
