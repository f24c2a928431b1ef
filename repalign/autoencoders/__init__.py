"""Sparse autoencoders of a layer: features of which few are active at a time.

They are one more representation, and each is matched to neuroids on held-out stimuli: an instrument
for asking which features of a network a brain area shares.
"""

from repalign.autoencoders.components import principal_components
from repalign.autoencoders.files import autoencoder_features, load_autoencoder, save_autoencoder
from repalign.autoencoders.matching import match_features
from repalign.autoencoders.networks import SparseAutoencoder
from repalign.autoencoders.results import TrainedAutoencoder
from repalign.autoencoders.study import direction_overlap, feature_study
from repalign.autoencoders.training import train_autoencoder

__all__ = [
    "SparseAutoencoder",
    "TrainedAutoencoder",
    "autoencoder_features",
    "direction_overlap",
    "feature_study",
    "load_autoencoder",
    "match_features",
    "principal_components",
    "save_autoencoder",
    "train_autoencoder",
]
