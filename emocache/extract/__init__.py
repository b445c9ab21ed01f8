"""Extraction: media, faces, encoders, batching, and the pipeline that joins them."""
