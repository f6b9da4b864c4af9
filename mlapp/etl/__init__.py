"""From raw files to training-ready splits: extract, validate, transform."""
