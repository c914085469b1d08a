"""Distils the alignment head of `init_from`, which must be trained, into the matching head; the backbone is frozen."""

from configs import common


def get_config():
    config = common.get_config()
    config.loss_weights.distillation = 1.0
    config.frozen = ("backbone",)
    config.lr_step_epochs = 10
    return config
