"""The command `tide`."""
