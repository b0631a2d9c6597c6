"""From a patched checkpoint to a published one: audit recorded, card, proof that the folder is what it says, Hub"""
