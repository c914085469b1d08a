"""A small model from random weights on drawn scenes: `alignment_and_matching_distill` within minutes on two cores."""

from configs import alignment_and_matching_distill


def get_config():
    config = alignment_and_matching_distill.get_config()
    config.data.dir = "data/scenes"
    config.data.max_caption_len = 24
    config.data.max_labels_len = 16
    config.data.max_regions = 10

    config.model.vocabulary = "data/scenes/vocab.txt"
    config.model.backbone = {
        "vocab_size": 201,
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        "max_position_embeddings": 32,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    config.model.dropout = 0.0

    # Random weights are far from any hinge's margin: the hardest negatives teach them nothing, all of them do.
    config.hardest = False
    config.batch_size = 40  # divides the pairs: no smaller last batch, which would be compiled apart
    config.learning_rate = 1e-3
    config.warmup_steps = 200
    config.lr_step_epochs = 3
    config.lr_gamma = 0.3
    config.num_epochs = 4

    config.log_every = 50
    config.eval_every = 250
    config.checkpoint_every = 250
    return config
