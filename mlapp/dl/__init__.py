"""Deep learning: the networks, the three trainers, and the export to LiteRT."""
