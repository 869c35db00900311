"""What a user writes: the sections of a recipe, and the way from its text to them. Imports no MindSpore."""
