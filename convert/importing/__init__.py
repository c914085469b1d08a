"""Features and captions in the formats that others use, as a source of records."""
