"""Detectors of the DETR family, tiny and with seeded weights, as `save_pretrained` writes them."""

from importlib.resources import files
from pathlib import Path

import torch
import transformers
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

NAMES = {0: "cat", 1: "dog", 2: "tree"}
FEATURES = 16
PHOTOGRAPHS = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


def photograph(name):
    """A real photograph that scikit-image ships."""
    return Path(str(files("skimage"))) / "data" / name


def detr():
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic", out_features=["stage4"]
    )
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        backbone_config=backbone,
        backbone=None,
        use_pretrained_backbone=False,
        num_queries=12,
        d_model=FEATURES,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        id2label=NAMES,
    )
    processor = DetrImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96})
    return transformers.DetrForObjectDetection(config), processor


def rt_detr():
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        use_timm_backbone=False,
        encoder_hidden_dim=16,
        encoder_in_channels=[8, 8, 16],
        d_model=FEATURES,
        num_queries=12,
        decoder_in_channels=[16, 16, 16],
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        decoder_layers=1,
        decoder_attention_heads=2,
        encoder_attention_heads=2,
        num_denoising=0,
        anchor_image_size=None,
        id2label=NAMES,
    )
    return transformers.RTDetrForObjectDetection(config), RTDetrImageProcessorPil(size={"height": 64, "width": 64})


def yolos():
    config = transformers.YolosConfig(
        hidden_size=FEATURES,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=[64, 64],
        patch_size=16,
        num_detection_tokens=9,
        use_mid_position_embeddings=False,
        id2label=NAMES,
    )
    return transformers.YolosForObjectDetection(config), YolosImageProcessorPil(
        size={"shortest_edge": 64, "longest_edge": 96}
    )


KINDS = {"detr": detr, "rt_detr": rt_detr, "yolos": yolos}


def save(kind, folder):
    """Writes a detector."""
    return save_model(KINDS[kind], folder)


def save_model(make, folder):
    """Writes a model, and what prepares pictures for it, with weights so large that what it gives differs by place."""
    torch.manual_seed(0)
    model, processor = make()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.6)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
