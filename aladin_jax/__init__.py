"""ALADIN image-text retrieval in JAX.

The front door; each name is loaded when it is first used, so that `import aladin_jax` costs nothing:

    load(path)              a model that encodes images and texts, and scores them
    open_dataset(path)      the splits of a prepared data set
    open_index(path)        an index of `python -m aladin_jax.search index`, to ask
    alignment_scores(...)   fine-grained scores of all pairs, from regions and words
    matching_scores(...)    scores of all pairs, from one vector a side
    retrieval_report(...)   R@1, R@5, R@10, median and mean rank, rsum
    losses                  hinge_triplet, info_nce, distillation
"""

from etils import epy

with epy.lazy_api_imports(globals()):
    from aladin_jax import losses
    from aladin_jax.data.records import open_splits as open_dataset
    from aladin_jax.evaluation.recall import retrieval_report
    from aladin_jax.pretrained import load
    from aladin_jax.scores.similarity import alignment_scores, matching_scores
    from aladin_jax.search.query import open_index

__all__ = [
    "alignment_scores",
    "load",
    "losses",
    "matching_scores",
    "open_dataset",
    "open_index",
    "retrieval_report",
]
