"""Input as the original reads it: for every (image, caption) pair, rows of the TSV files, decoded anew."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from aladin_jax.data.tokenization import CaptionTokenizer
from benchmarks import workload
from benchmarks.vinvl_folder import FEATURE_DIM, SPLIT, VinvlFolder


class TsvPairs(Dataset):
    """(image, caption) pairs in the order of the captions file; tokenised by our tokenizer, which is the faster one."""

    def __init__(self, folder: VinvlFolder, tokenizer: CaptionTokenizer):
        """Reads the indices and the captions."""
        self._tokenizer = tokenizer
        self._paths = {name: folder.features.with_name(f"{name}.tsv") for name in ("features", "predictions")}
        self._offsets = {
            name: [int(line) for line in path.with_suffix(".lineidx").read_text().split()]
            for name, path in self._paths.items()
        }
        self._files: dict[Path, BinaryIO] = {}
        captions: dict[int, list[str]] = torch.load(folder.captions / f"{SPLIT}_captions.pt", weights_only=True)
        self._pairs = [(image, text) for image, texts in captions.items() for text in texts]

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self._pairs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One pair, padded."""
        image, caption = self._pairs[index]
        _, count, content = self._row("features", image)
        regions = np.frombuffer(base64.b64decode(content), np.float32).reshape(int(count), FEATURE_DIM)
        regions = regions[: workload.MAX_REGIONS]
        detected = json.loads(self._row("predictions", image)[1])
        label_ids, label_len = self._tokenizer.tokenize_tags([[thing["class"] for thing in detected["objects"]]])
        caption_ids, caption_len = self._tokenizer.tokenize_captions([caption])
        features = np.zeros((workload.MAX_REGIONS, FEATURE_DIM), np.float32)
        features[: len(regions)] = regions
        return {
            "caption_ids": torch.from_numpy(caption_ids[0]).long(),
            "caption_len": torch.tensor(int(caption_len[0])),
            "label_ids": torch.from_numpy(label_ids[0]).long(),
            "label_len": torch.tensor(int(label_len[0])),
            "region_features": torch.from_numpy(features),
            "region_len": torch.tensor(len(regions)),
        }

    def _row(self, name: str, row: int) -> list[bytes]:
        path = self._paths[name]
        if path not in self._files:  # opened by the process that reads
            self._files[path] = path.open("rb")
        file = self._files[path]
        file.seek(self._offsets[name][row])
        return file.readline().rstrip(b"\n").split(b"\t")
