"""Blended emotions with relative salience, by the rules of the BLEMORE challenge."""
