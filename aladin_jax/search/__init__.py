"""Search: find pictures with words and words with pictures, in an index that a model's two heads share."""
