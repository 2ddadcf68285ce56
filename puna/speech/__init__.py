"""Speech in and out by adapters around a frozen text model (section 8 of the paper)."""
