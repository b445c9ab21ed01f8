"""A small synthetic corpus of speaking faces, made on the spot to show the main job; no claim about real emotion."""
