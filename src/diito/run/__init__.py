"""The main job: a recipe to a student on disk."""
