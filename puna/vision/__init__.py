"""Vision and video by adapters around a frozen text model (section 7 of the paper)."""
