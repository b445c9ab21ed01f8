"""Views of a video: what encoders see of a clip, all taken in one pass."""
