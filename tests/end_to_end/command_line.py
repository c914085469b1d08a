"""What is typed for `python -m aladin_jax.main`."""

import functools

# For tests of what happens around the steps.
LITTLE_TO_COMPUTE = {"data.max_caption_len": 24, "data.max_labels_len": 12, "data.max_regions": 6}


def command(config_name, workdir, config, *flags):
    """The program, and the arguments of a regime with the fields of a shrunken configuration."""
    fields = ("init_from", "data.dir", "data.shuffle", "model.dropout", "batch_size", "num_steps", "learning_rate")
    fields += ("activate_distillation_after", "lr_step_epochs", "pack_tokens", "log_every", "eval_every")
    fields += ("checkpoint_every", "compilation_cache", "eval.image_keys", "resume_from", "reinitialize_scheduler")
    fields += ("data.max_caption_len", "data.max_labels_len", "data.max_regions", "model.backbone_dropout")
    values = {field: functools.reduce(getattr, field.split("."), config) for field in fields}
    overrides = [f"--config.{field}={value}" for field, value in values.items() if value is not None]
    return ["aladin_jax.main", "--config", f"configs/{config_name}.py", "--workdir", str(workdir), *overrides, *flags]
