"""More than the original from the same steps: `alignment_and_matching_distill`, taught otherwise.

What each choice brings is measured in docs/training.md. Names and sizes of the model, the data and the number of steps
are left as they are.
"""

from configs import alignment_and_matching_distill


def get_config():
    config = alignment_and_matching_distill.get_config()
    # The matching head also learns from the captions themselves, not only from the alignment head.
    config.loss_weights.matching = 0.2
    # All negatives first: the hardest teach nothing to a model that cannot tell pairs apart yet, much to one that can.
    config.hardest_after = 400
    # A second caption of the same image is no wrong answer.
    config.mask_same_image = True
    # Adam's first steps are its least certain.
    config.warmup_steps = 200
    # The rate falls to nothing by the run's end, however long that is, instead of by a tenth after 15 epochs.
    config.lr_cooldown = 0.3
    config.lr_step_epochs = 0
    return config
