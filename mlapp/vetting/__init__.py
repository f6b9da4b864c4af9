"""Which candidate becomes the challenger, and whether it may replace the champion."""
