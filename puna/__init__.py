"""Puna raises a herd of language models: the published Llama 3.1 system as one Python package.

Five nouns: a Recipe says what to do, a Run does it, each stage leaves an Artifact, a Model is a Hugging Face
directory, and a Dialog is messages in, tokens and masks out.
"""

__version__ = "0.1.0"
