"""Trains the matching head alone with the triplet loss, on a frozen backbone (`init_from`)."""

from configs import common


def get_config():
    config = common.get_config()
    config.loss_weights.matching = 1.0
    config.frozen = ("backbone",)
    config.lr_step_epochs = 10
    return config
