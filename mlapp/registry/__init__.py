"""Promoted bundles: immutable folders, and the pointer to the champion."""
