"""Acoustics: the measures that `prosody` is made of."""
