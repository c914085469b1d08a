"""Vision backbones of several families, tiny and with seeded weights, as `save_pretrained` writes them."""

import json

import transformers
from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from tests.convert import tiny_detectors

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SQUARE = {"height": 64, "width": 64}
WIDTH = 16


def vit():
    config = transformers.ViTConfig(image_size=64, patch_size=16, **SIZES)
    return transformers.ViTModel(config), ViTImageProcessorPil(size=SQUARE)


def dinov2():
    config = transformers.Dinov2Config(image_size=56, patch_size=14, mlp_ratio=1, **SIZES)
    processor = BitImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56})
    return transformers.Dinov2Model(config), processor


def dinov3():
    config = transformers.DINOv3ViTConfig(image_size=64, patch_size=16, num_register_tokens=4, **SIZES)
    return transformers.DINOv3ViTModel(config), ViTImageProcessorPil(size=SQUARE)


def clip():
    text = {**SIZES, "vocab_size": 50, "max_position_embeddings": 8}
    vision = {**SIZES, "image_size": 64, "patch_size": 16}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    size = {"shortest_edge": 64}
    return transformers.CLIPModel(config), CLIPImageProcessorPil(size=size, crop_size=SQUARE)


def siglip():
    config = transformers.SiglipVisionConfig(image_size=64, patch_size=16, **SIZES)
    return transformers.SiglipVisionModel(config), SiglipImageProcessorPil(size=SQUARE)


def beit():
    config = transformers.BeitConfig(image_size=64, patch_size=16, **SIZES)
    return transformers.BeitModel(config), BeitImageProcessorPil(size=SQUARE, do_center_crop=False)


def swin():
    config = transformers.SwinConfig(
        image_size=64, patch_size=4, embed_dim=4, depths=[1, 1, 1], num_heads=[1, 2, 4], window_size=4
    )
    return transformers.SwinModel(config), ViTImageProcessorPil(size=SQUARE)


KINDS = {"vit": vit, "dinov2": dinov2, "dinov3": dinov3, "clip": clip, "siglip": siglip, "beit": beit, "swin": swin}


def save(kind, folder):
    """Writes a backbone."""
    tiny_detectors.save_model(KINDS[kind], folder)
    if kind == "dinov3":  # as its own folders say
        told = folder / "preprocessor_config.json"
        told.write_text(
            json.dumps({**json.loads(told.read_text()), "image_processor_type": "DINOv3ViTImageProcessorFast"})
        )
    return folder
