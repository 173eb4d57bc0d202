"""The networks, from a name to measures of what they say."""

from fairfal_flwr.models.architecture import MODELS, Architecture, build_model
from fairfal_flwr.models.classifier import Classifier
from fairfal_flwr.models.inference import as_input, on_device, predict
from fairfal_flwr.models.measures import Measures, measure

__all__ = [
    "MODELS",
    "Architecture",
    "Classifier",
    "Measures",
    "as_input",
    "build_model",
    "measure",
    "on_device",
    "predict",
]
