"""Every field of a configuration, with the original's values. The regimes beside it change a handful of them."""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    config = config_dict.ConfigDict()

    # Weights to start from: a folder written by convert.checkpoint, or the workdir of an earlier run (its best
    # checkpoint). Empty: random weights, of the sizes under `model`.
    config.init_from = ""
    # Run of the original to go on with, weights, Adam's state and epoch: a folder that convert.checkpoint wrote from a
    # checkpoint which holds them. Training goes on at the next epoch; num_epochs and num_steps count from the run's
    # beginning. (A run of this project goes on by the same command again.)
    config.resume_from = ""

    config.data = config_dict.ConfigDict()
    # Folder of a prepared data set (written by convert.coco_ir).
    config.data.dir = ""
    # Visit the (image, caption) pairs in a new random order every epoch.
    config.data.shuffle = True
    # Tokens kept of a caption, [CLS] and [SEP] included.
    config.data.max_caption_len = 50
    # Tokens kept of an image's tags, first and last included.
    config.data.max_labels_len = 50
    # Regions kept of an image.
    config.data.max_regions = 34
    # Threads that read and tokenise; reader processes on top of them (0: none); batches read ahead.
    config.data.num_threads = 2
    config.data.num_workers = 0
    config.data.prefetch = 4

    config.model = config_dict.ConfigDict()
    # Number format of the dense layers, and in evaluation of the regions and words compared: "float32" or "bfloat16"
    # (twice as fast, also on current CPUs). Parameters, LayerNorms, softmax, sums and the optimizer are float32 anyway.
    config.model.dtype = "float32"
    # What runs the Transformer's layers: "xla", "pallas" (fused kernels, for GPUs), or "auto": the latter on GPUs in
    # bfloat16, XLA elsewhere.
    config.model.kernels = "auto"
    # Dropout of the matching head.
    config.model.dropout = 0.1
    # Dropout of the backbone, attention weights included. Unset: as in the checkpoint's config.json.
    config.model.backbone_dropout = config_dict.placeholder(float)
    # The matching head's size, where `init_from` does not bring one.
    config.model.num_layers = 2
    config.model.num_heads = 4
    # The backbone's fields (see BackboneConfig; those left out are BERT-base's), and its vocabulary (a vocab.txt), when
    # there is no `init_from`.
    config.model.backbone = config_dict.ConfigDict({}, convert_dict=True)
    config.model.vocabulary = ""

    # Weights of the losses; 0 leaves a loss out.
    config.loss_weights = config_dict.ConfigDict({"alignment": 0.0, "matching": 0.0, "distillation": 0.0})
    # Learn the weights instead (the values above then only say which losses there are).
    config.learned_loss_weights = False
    # Ranking loss of the alignment and matching heads: "hinge" (triplets) or "info_nce".
    config.ranking_loss = "hinge"
    # By how much a matching pair must beat a negative.
    config.margin = 0.2
    # Hinge on the hardest negative of each row and column only, not on all negatives.
    config.hardest = True
    # Steps with all negatives before `hardest` begins (0: none): to random weights the hardest teach nothing at first.
    config.hardest_after = 0
    # Where an image comes twice in a batch, with two of its captions: do not count one pair's caption as a negative of
    # the other's image (the original does).
    config.mask_same_image = False
    # How region-word similarities become a score: MrSw, MrAVGw, MwSr, symm, sum, mean or scan-sentences.
    config.pooling = "MrSw"
    # Score of two matching vectors: "dot", "cosine" or "order".
    config.measure = "dot"
    # "listnet", "mse", "ordinal" or "contrastive".
    config.distillation_mode = "listnet"
    # Epochs before the distillation loss starts.
    config.activate_distillation_after = 0
    # Parameter groups that are not trained: "backbone", "matching_head".
    config.frozen = ()

    # Pairs in a batch, over all devices and processes; negatives come from the whole batch.
    config.batch_size = 32
    # Encode the batch in this many parts, one after the other: less memory, more time, the same gradients.
    config.micro_batches = 1
    config.num_epochs = 20
    # Steps to train; wins over num_epochs when set.
    config.num_steps = config_dict.placeholder(int)
    config.learning_rate = 1e-5
    # The rate is multiplied by lr_gamma every lr_step_epochs epochs (0: never).
    config.lr_step_epochs = 15
    config.lr_gamma = 0.1
    # Steps of linear warm-up.
    config.warmup_steps = 0
    # Share of the run's steps, at its end, over which the rate falls in a line to 0 (0: it does not). Such a run cannot
    # be made longer, unless its schedule starts anew.
    config.lr_cooldown = 0.0
    # Where a run goes on: start the schedule anew from its present step, with the four values above, which may then be
    # others than before. Once only: a further start with the same values goes on with that schedule.
    config.reinitialize_scheduler = False
    # Largest global norm of the gradients; 0 for no clipping.
    config.grad_clip = 2.0
    # Seed of the shuffle, of dropout and of random weights.
    config.seed = 88

    # Devices that share parameters and optimizer states between them; the others repeat them. Must divide the
    # number of devices; the batch is divided over all.
    config.fsdp = 1
    # Keep only each layer's input for the backward pass, and compute the layer again there: less memory, more time.
    config.remat = False
    # Compute on real tokens only, packed end to end (False: on padding too, as the original; same numbers).
    config.pack_tokens = True

    # Steps between log lines, validations (0: none) and checkpoints.
    config.log_every = 10
    config.eval_every = 7000
    config.checkpoint_every = 1000
    # Profile this many steps, from the tenth after the start (0: no profile).
    config.profile_steps = 0
    # Folder in which compiled programs are kept, and "ndcg" keeps ROUGE-L. Empty: ~/.cache/aladin_jax.
    config.compilation_cache = ""

    config.eval = config_dict.ConfigDict()
    # Split that --mode evaluate reports on.
    config.eval.split = "test"
    # Split of the validations during training; the best checkpoint is that of its largest rsum, both heads together.
    config.eval.validation_split = "minival"
    # File with one image id a line: report on these images only, in this order. Empty: on the whole split.
    config.eval.image_keys = ""
    # What to report: "recall" (R@K, ranks, rsum, with 95 % intervals), "eccv" (ECCV Caption, CxC and PMRP, on COCO's
    # 5,000 test images; needs the extra `eccv`), "ndcg" (nDCG@25, where relevance is ROUGE-L or what people say).
    config.eval.metrics = ("recall",)
    # File for the rankings: of every query, by both heads, the ids and scores of the best `ranking_length` items.
    # Parquet if it ends in .parquet, else JSON lines. Empty: none.
    config.eval.rankings = ""
    config.eval.ranking_length = 100
    # COCO's captions_val2014.json, for data sets whose captions have no ids: these are found by the captions' texts.
    config.eval.caption_ids = ""
    # Folder of PMRP's ground truth, for "eccv" (see docs/evaluation.md). Empty: no PMRP.
    config.eval.pmrp_dir = ""
    # File of people's grades of pairs, for "ndcg": query id, item id, grade, a pair a line. Empty: ROUGE-L.
    config.eval.relevance = ""
    # A workdir is evaluated with the lengths, number format, pooling and measure that it was trained with, whatever the
    # configuration file has. Others given on the command line are refused, unless this is set: then they are taken, and
    # the report, in a file of its own, says so.
    config.eval.override = False
    # Also report the average over this many folds of this many images, where the split is large enough.
    config.eval.num_folds = 5
    config.eval.fold_size = 1000
    # Images, or captions, encoded at once. Unset: 64 on CPUs, 512 on each accelerator.
    config.eval.batch_size = config_dict.placeholder(int)

    return config
