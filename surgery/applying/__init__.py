"""Carrying a recipe out: from prompts to a folder that may be published, every step resumable"""
