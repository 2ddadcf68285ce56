"""What a tool says when it cannot do what it was asked: the text goes back to the model, never to the user as a traceback."""

from __future__ import annotations


class ToolFailed(Exception):
    """A tool was called in a way it cannot serve; the message is what the model reads as the tool's output."""
