"""What a model does with a text, as pages and pictures."""
