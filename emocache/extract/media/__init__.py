"""Media: sound and picture, decoded exactly; what worker processes run."""
