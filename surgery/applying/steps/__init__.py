"""The steps of a recipe, each a small object: what it depends on, what it leaves, what it costs, doing it"""
