"""The classical baseline: boosted trees on simple features of the images."""
