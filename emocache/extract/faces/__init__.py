"""Faces: found in frames, followed through a clip, cut out and described."""
