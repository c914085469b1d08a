"""Trains backbone and matching head with the triplet loss."""

from configs import common


def get_config():
    config = common.get_config()
    config.loss_weights.matching = 1.0
    config.lr_step_epochs = 15
    return config
