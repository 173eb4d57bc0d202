"""The run configuration: every key, its type, its range and its meaning.

Flower hands an app a flat mapping of dotted, kebab-case keys. It is parsed here, once,
into one frozen `RunConfig`; nothing else in the package reads raw configuration.

What strategies, objectives, networks and image sets there are stands in `generated`,
which `make config` writes from their code. So reading a configuration takes no PyTorch.
"""

from fairfal_flwr.config.annotation import AnnotationConfig
from fairfal_flwr.config.campaign import CampaignConfig, ModelConfig
from fairfal_flwr.config.data import DataConfig
from fairfal_flwr.config.federation import FederationConfig
from fairfal_flwr.config.privacy import PrivacyConfig
from fairfal_flwr.config.query import QueryConfig
from fairfal_flwr.config.run import CHANGEABLE, RunConfig
from fairfal_flwr.config.section import Scalar
from fairfal_flwr.config.training import DistillConfig, LocalConfig, TrainConfig

__all__ = [
    "CHANGEABLE",
    "AnnotationConfig",
    "CampaignConfig",
    "DataConfig",
    "DistillConfig",
    "FederationConfig",
    "LocalConfig",
    "ModelConfig",
    "PrivacyConfig",
    "QueryConfig",
    "RunConfig",
    "Scalar",
    "TrainConfig",
]
