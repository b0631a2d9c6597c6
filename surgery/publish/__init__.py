"""From a patched checkpoint to a published one: audit recorded, card, proof of the folder, the Hub"""
