"""JPEGs whose rows are cut into tiles by restart markers, so that a part can be decoded alone."""
