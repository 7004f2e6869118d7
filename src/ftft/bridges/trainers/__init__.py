"""TRL's trainers as stages of a recipe: one frozen dataclass a file, whose fields are the settings."""
