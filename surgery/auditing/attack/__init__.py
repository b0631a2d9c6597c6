"""Attacks: is the image still in the weights, whatever the prompt?"""
