"""Trains backbone and both heads: triplet loss on alignment scores, which teach the matching head."""

from configs import common


def get_config():
    config = common.get_config()
    config.loss_weights.alignment = 1.0
    config.loss_weights.distillation = 1.0
    config.lr_step_epochs = 15
    return config
