"""Measuring what a model still remembers, and what the patch changed besides."""
