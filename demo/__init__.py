"""Small made-up pictures to learn on: several shapes on a background, with detections and captions.

    scene.py            what a picture is of: shapes, sizes, colours, places, and how shapes stand to one another
    silhouettes.py      the outlines of the shapes
    drawing.py          from a scene to pixels
    region_features.py  from the pixels of a box to a region vector; sees nothing else
    detections.py       boxes and class names, as wrong as a detector's
    claims.py           what a caption says, and whether that is true of a scene
    captions.py         five captions a scene
    wording.py          templates, synonyms, the vocabulary
    builder.py          the TFDS builder `scenes`
    preview.py          a sheet of pictures to look at
    quality.py          how well a perfect model could do, and how much the features show

`python -m demo --output DIR` prepares the data set.
"""
