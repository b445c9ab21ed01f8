"""Audio-Modulated Hybrid Fusion, one equation a file, and the head that trains it.

Source: "Emotion-JEPA: Predictive Visual Adaptation and Audio-Modulated Fusion for Multimodal Emotion Recognition",
sections 3.3 to 3.6 and appendix C; `Eq.` numbers are that paper's. Where it leaves something open, the docstring says
what was chosen. "Audio" is the paper's guide; here it may be any modality (`head.AMHFHead`).
"""
